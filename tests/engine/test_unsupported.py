import re

import pytest
import torch
from lowering_nets import Calls, Repeating, head, stem
from snntorch import Synaptic
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based.neuron import KLIFNode
from torch import nn

from ndsnn.engine.lowering import lower
from ndsnn.errors import NdsnnError, ShapeError, UnsupportedLayerError
from ndsnn.models import layers as ln
from ndsnn.neurons import LIF


def behind_stem(*modules, channels=4):
    return nn.Sequential(stem(), *modules, head(channels))


def conv_with(**settings):
    return behind_stem(ln.Conv2d(4, 4, **({"kernel_size": 3} | settings)), LIF())


def block(forward, **modules):
    return behind_stem(Calls(forward, **modules))


class Overriding(ln.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


class OverridingPart(ln.BatchNorm2d):
    def _normalise(self, x):
        return x


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


def shared_weight():
    one, two = ln.Conv2d(4, 4, 1), ln.Conv2d(4, 4, 1)
    two.weight = one.weight
    return behind_stem(one, LIF(), two, LIF())


def patched():
    pool = ln.MaxPool2d(2)
    pool.forward = lambda x: x
    return behind_stem(pool)


def loop_over_steps(net, x):
    return sum(step for step in x)


def branch_on_values(net, x):
    return net.conv(x) if x.mean() > 0 else x


def branch_on_axes(net, x):
    return net.conv(x.flatten(0, 1)) if x.ndim == 5 else x


def with_conv(forward):
    return block(forward, conv=ln.Conv2d(4, 4, 1), lif=LIF())


UNSUPPORTED = {
    # settings of layers
    "groups": (lambda: conv_with(groups=2), "1", "Conv2d", "groups=2"),
    "dilation": (lambda: conv_with(dilation=2), "1", "Conv2d", "dilation=(2, 2)"),
    "padding mode": (lambda: conv_with(padding=1, padding_mode="reflect"), "1", "Conv2d", "'reflect'"),
    "stride 3": (lambda: conv_with(stride=3), "1", "Conv2d", "stride=(3, 3)"),
    "stride 2×1": (lambda: conv_with(stride=(2, 1)), "1", "Conv2d", "stride=(2, 1)"),
    "even kernel": (lambda: conv_with(kernel_size=(3, 2)), "1", "Conv2d", "even kernel (3, 2)"),
    "max-pool stride": (lambda: behind_stem(nn.MaxPool2d(3, 2)), "1", "MaxPool2d", "stride=(2, 2)"),
    "max-pool oblong": (lambda: behind_stem(nn.MaxPool2d((2, 1))), "1", "MaxPool2d", "kernel_size=(2, 1)"),
    "max-pool padding": (lambda: behind_stem(nn.MaxPool2d(2, padding=1)), "1", "MaxPool2d", "padding=(1, 1)"),
    "max-pool dilation": (lambda: behind_stem(nn.MaxPool2d(2, dilation=2)), "1", "MaxPool2d", "dilation=(2, 2)"),
    "max-pool ceil": (lambda: behind_stem(nn.MaxPool2d(2, ceil_mode=True)), "1", "MaxPool2d", "ceil_mode"),
    "max-pool indices": (lambda: behind_stem(nn.MaxPool2d(2, return_indices=True)), "1", "MaxPool2d", "indices"),
    "avg-pool stride": (lambda: behind_stem(nn.AvgPool2d(2, 1)), "1", "AvgPool2d", "stride=(1, 1)"),
    "avg-pool padding": (lambda: behind_stem(nn.AvgPool2d(2, padding=1)), "1", "AvgPool2d", "padding=(1, 1)"),
    "avg-pool divisor": (lambda: behind_stem(nn.AvgPool2d(2, divisor_override=3)), "1", "AvgPool2d", "=3"),
    "adaptive open": (lambda: behind_stem(nn.AdaptiveAvgPool2d((1, None))), "1", "AdaptiveAvgPool2d", "(1, None)"),
    "adaptive zero": (lambda: behind_stem(nn.AdaptiveAvgPool2d(0)), "1", "AdaptiveAvgPool2d", "output_size=0"),
    "flatten": (lambda: behind_stem(nn.Flatten(0)), "1", "Flatten", "dimensions 0 to -1"),
    "flatten part": (lambda: behind_stem(nn.Flatten(3)), "1", "Flatten", "dimensions 3 to -1"),
    "flatten function": (lambda: block(lambda _, x: x.flatten(0, 1)), "1", "Calls", "dimensions 0 to 1"),
    "dropout": (lambda: behind_stem(nn.Dropout(0.2)), "1", "Dropout", "p=0.2"),
    "stateful": (lambda: behind_stem(LIF(stateful=True)), "1", "LIF", "stateful=True"),
    # layers
    "relu": (lambda: behind_stem(nn.ReLU()), "1", "ReLU", "no lowering for this layer; supported are Conv2d"),
    "instance norm": (
        lambda: behind_stem(ln.Conv2d(4, 4, 1), nn.InstanceNorm2d(4), LIF()),
        "2",
        "InstanceNorm2d",
        "",
    ),
    "group norm": (lambda: behind_stem(ln.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), LIF()), "2", "GroupNorm", ""),
    "transposed": (lambda: behind_stem(nn.ConvTranspose2d(4, 4, 3), LIF()), "1", "ConvTranspose2d", ""),
    "dropout2d": (lambda: behind_stem(nn.Dropout2d(0.0)), "1", "Dropout2d", ""),
    "spikingjelly neuron": (
        lambda: behind_stem(KLIFNode(step_mode="m")),
        "1",
        "KLIFNode",
        "supported neurons are ndsnn.LIF, IFNode of SpikingJelly, LIFNode",
    ),
    "snntorch neuron": (
        lambda: behind_stem(Synaptic(0.9, 0.8)),
        "1",
        "Synaptic",
        "supported neurons are ndsnn.LIF, Leaky of snnTorch",
    ),
    "spikingjelly conv": (
        lambda: behind_stem(sj_layer.Conv2d(4, 4, 1), LIF()),
        "1",
        "Conv2d",
        "step_mode='s', but the engine runs all steps in one call; call functional.set_step_mode",
    ),
    "overridden": (lambda: behind_stem(Overriding(4, 4, 1), LIF()), "1", "Overriding", "overrides forward"),
    "overridden part": (
        lambda: behind_stem(ln.Conv2d(4, 4, 1), OverridingPart(4), LIF()),
        "2",
        "OverridingPart",
        "overrides _normalise of BatchNorm2d",
    ),
    "patched": (patched, "1", "MaxPool2d", "overrides forward"),
    "hooks": (lambda: behind_stem(hooked(ln.MaxPool2d(2))), "1", "MaxPool2d", "hooks"),
    "parametrized": (
        lambda: behind_stem(nn.utils.parametrizations.weight_norm(ln.Conv2d(4, 4, 1)), LIF()),
        "1",
        "ParametrizedConv2d",
        "not a plain parameter",
    ),
    "lazy": (lambda: behind_stem(nn.LazyConv2d(4, 1), LIF()), "1", "LazyConv2d", "not a plain parameter"),
    "single layer": (lambda: ln.Linear(3, 4), "", "Linear", "single layer"),
    # places
    "called twice": (
        lambda: behind_stem(nn.Sequential(*[ln.Conv2d(4, 4, 1), LIF()] * 2)),
        "1.0",
        "Conv2d",
        "once",
    ),
    "neuron called twice": (
        lambda: block(lambda net, x: net.lif(net.conv(net.lif(x))), conv=ln.Conv2d(4, 4, 1), lif=LIF()),
        "1.lif",
        "LIF",
        "more than once",
    ),
    "shared weight": (shared_weight, "3", "Conv2d", "shares a parameter with '1'"),
    "norm of spikes": (lambda: behind_stem(ln.BatchNorm2d(4), LIF()), "1", "BatchNorm2d", "directly behind"),
    "two norms": (
        lambda: behind_stem(ln.Conv2d(4, 4, 1), ln.BatchNorm2d(4), ln.BatchNorm2d(4), LIF()),
        "3",
        "BatchNorm2d",
        "directly behind",
    ),
    "norm of a sum": (
        lambda: block(
            lambda net, x: net.lif(net.norm(net.conv(x) + x)),
            conv=ln.Conv2d(4, 4, 1),
            norm=ln.BatchNorm2d(4),
            lif=LIF(),
        ),
        "1.norm",
        "BatchNorm2d",
        "directly behind",
    ),
    "norm behind repetition": (
        lambda: nn.Sequential(ln.Conv2d(2, 4, 1), ln.RepeatOverTime(2), ln.BatchNorm2d(4), LIF(), head()),
        "2",
        "BatchNorm2d",
        "behind RepeatOverTime",
    ),
    "1d norm behind a conv": (
        lambda: behind_stem(ln.Conv2d(4, 4, 1), nn.BatchNorm1d(4), LIF()),
        "2",
        "BatchNorm1d",
        "use BatchNorm2d there",
    ),
    "2d norm behind a linear layer": (
        lambda: nn.Sequential(stem(), ln.Flatten(), ln.Linear(4, 4), ln.BatchNorm2d(4), LIF(), ln.Linear(4, 2)),
        "3",
        "BatchNorm2d",
        "use BatchNorm1d there",
    ),
    "max-pool of floats": (lambda: behind_stem(nn.AvgPool2d(2), ln.MaxPool2d(2)), "2", "MaxPool2d", "than spikes"),
    "max-pool of a current": (
        lambda: behind_stem(ln.Conv2d(4, 4, 1), ln.MaxPool2d(2), LIF()),
        "2",
        "MaxPool2d",
        "'1'",
    ),
    "conv of a current": (
        lambda: behind_stem(ln.Conv2d(4, 4, 1), ln.Conv2d(4, 4, 1), LIF()),
        "2",
        "Conv2d",
        "it reads the output of '1', which no neuron has turned into spikes",
    ),
    "conv of features": (lambda: behind_stem(ln.Flatten(), ln.Conv2d(4, 4, 1)), "2", "Conv2d", "flattening"),
    "linear of a map": (lambda: behind_stem(ln.Linear(4, 4), LIF()), "1", "Linear", "put Flatten in front"),
    "flatten twice": (lambda: behind_stem(ln.Flatten(), ln.Flatten()), "2", "Flatten", "behind a flattening"),
    "pad elsewhere": (lambda: behind_stem(ln.ZeroPad(9)), "1", "ZeroPad", "input only"),
    "pad twice": (lambda: nn.Sequential(ln.ZeroPad(8), ln.ZeroPad(9), behind_stem()), "1", "ZeroPad", "once"),
    "read twice": (
        lambda: block(
            lambda net, x: net.lif((y := net.conv(x)) + net.other(net.lif2(y))),
            conv=ln.Conv2d(4, 4, 1),
            other=ln.Conv2d(4, 4, 1),
            lif=LIF(),
            lif2=LIF(),
        ),
        "1.conv",
        "Conv2d",
        "read at 2 places",
    ),
    "added to itself": (
        lambda: with_conv(lambda n, x: n.lif((y := n.conv(x)) + y)),
        "1",
        "Calls",
        "'1.conv' to itself",
    ),
    "features and map": (
        lambda: with_conv(lambda n, x: n.lif(n.conv(x) + x.flatten(2))),
        "1",
        "Calls",
        "features",
    ),
    "unused": (lambda: with_conv(lambda n, x: (n.lif(n.conv(x)), x)[1]), "1.lif", "LIF", "nothing uses"),
    # repetition over time
    "two numbers of steps": (
        lambda: nn.Sequential(ln.RepeatOverTime(2), stem(), head()),
        "1.2",
        "RepeatOverTime",
        "time_steps=3, another RepeatOverTime 2",
    ),
    "image branch in a sum": (
        lambda: Calls(
            lambda net, x: net.head(net.lif(net.one(x) + net.repeat(net.two(x)))),
            one=ln.Conv2d(2, 4, 1),
            two=ln.Conv2d(2, 4, 1),
            repeat=ln.RepeatOverTime(2),
            lif=LIF(),
            head=head(),
        ),
        "",
        "Calls",
        "once per image, in front of RepeatOverTime; put RepeatOverTime directly on the network's input",
    ),
    "input both ways": (
        lambda: Calls(
            lambda net, x: net.head(net.lif(net.one(net.repeat(x)) + net.repeat(net.two(x)))),
            one=ln.Conv2d(2, 4, 1),
            two=ln.Conv2d(2, 4, 1),
            repeat=ln.RepeatOverTime(2),
            lif=LIF(),
            head=head(),
        ),
        "",
        "Calls",
        "two ways",
    ),
    "repetition of a pooled image": (
        lambda: nn.Sequential(nn.AvgPool2d(2), ln.RepeatOverTime(2), ln.Conv2d(2, 4, 1), LIF(), head()),
        "1",
        "RepeatOverTime",
        "directly on the network's input",
    ),
    "repetition of features": (
        lambda: nn.Sequential(ln.Flatten(), ln.Linear(4, 4), ln.RepeatOverTime(2), LIF(), ln.Linear(4, 2)),
        "2",
        "RepeatOverTime",
        "behind a flattening",
    ),
    "neuron of an image": (
        lambda: nn.Sequential(ln.Conv2d(2, 4, 1), LIF(), ln.Conv2d(4, 2, 1), Repeating(2), LIF(), head(2)),
        "1",
        "LIF",
        "put RepeatOverTime in front of it",
    ),
    "readout of an image": (
        lambda: Calls(lambda net, x: net.one(x), one=nn.Sequential(ln.Conv2d(2, 4, 1), ln.RepeatOverTime(2))),
        "one.0",
        "Conv2d",
        "reaches it without steps",
    ),
    # the end
    "ends in a neuron": (stem, "3", "LIF", "the network ends here, without a readout"),
    "ends in a pool": (lambda: nn.Sequential(stem(), ln.MaxPool2d(2)), "1", "MaxPool2d", "without a readout"),
    "ends in a sum": (
        lambda: Calls(
            lambda net, x: net.one(y := net.stem(x)) + net.two(y),
            stem=stem(),
            one=ln.Conv2d(4, 4, 1),
            two=ln.Conv2d(4, 4, 1),
        ),
        "",
        "Calls",
        "without a readout",
    ),
    "returns its input": (lambda: Calls(lambda net, x: x), "", "Calls", "without a readout"),
    "norm behind the readout": (
        lambda: nn.Sequential(stem(), ln.Flatten(), ln.Linear(4, 3), nn.BatchNorm1d(3)),
        "3",
        "BatchNorm1d",
        "return the output of '2'",
    ),
    "pool behind the readout": (
        lambda: nn.Sequential(stem(), ln.Conv2d(4, 3, 1), ln.AdaptiveAvgPool2d(1)),
        "2",
        "AdaptiveAvgPool2d",
        "or return that output if it is the readout",
    ),
    "mean of the readout": (
        lambda: Calls(lambda net, x: net.net(x).mean(0), net=behind_stem()),
        "",
        "Calls",
        "its forward uses mean()",
    ),
    "two outputs": (lambda: Calls(lambda n, x: (n.net(x), 1), net=behind_stem()), "", "Calls", "one tensor"),
    # forwards that are no composition of layers
    "product": (lambda: with_conv(lambda n, x: n.lif(n.conv(x) * x)), "1", "Calls", "uses mul()"),
    "constant": (lambda: with_conv(lambda n, x: n.lif(n.conv(x) + 1)), "1", "Calls", "adds a constant"),
    "factor": (lambda: with_conv(lambda n, x: n.lif(torch.add(n.conv(x), x, alpha=2))), "1", "Calls", "factor"),
    "attribute": (lambda: with_conv(lambda n, x: n.lif(n.conv(x) + x.real)), "1", "Calls", "uses .real"),
    "functional": (lambda: with_conv(lambda n, x: torch.relu(x)), "1", "Calls", "uses relu()"),
    "own parameter": (
        lambda: with_conv(lambda n, x: n.lif(x + n.conv.bias)),
        "1",
        "Calls",
        "the tensor '1.conv.bias'",
    ),
    "values": (lambda: with_conv(branch_on_values), "1", "Calls", "torch.fx cannot trace its forward (TraceError"),
    "axes": (lambda: with_conv(branch_on_axes), "1", "Calls", "torch.fx cannot trace its forward (TraceError"),
    "loop": (lambda: with_conv(loop_over_steps), "1", "Calls", "torch.fx cannot trace its forward (TraceError"),
    "broken": (
        lambda: with_conv(lambda n, x: n.absent(x)),
        "1",
        "Calls",
        "(AttributeError: 'Calls' object has no",
    ),
    "two arguments": (lambda: with_conv(lambda n, x: n.lif(x, x)), "1.lif", "LIF", "call it with one tensor"),
    "hidden module": (
        lambda: with_conv(lambda n, x, make=LIF: make()(x)),
        "1",
        "Calls",
        "module is not installed as a submodule",
    ),
}


@pytest.mark.parametrize("case", sorted(UNSUPPORTED))
def test_unsupported(case):
    make, path, kind, fragment = UNSUPPORTED[case]
    net = make()
    with pytest.raises(UnsupportedLayerError) as caught:
        lower(net)
    message = str(caught.value)
    assert message.startswith(f"layer {path!r} ({kind}): " if path else f"the network ({kind}): ")
    assert fragment in message
    assert re.search(r": .+; .+", message), "says what is wrong, and what to do"
    assert isinstance(caught.value, NdsnnError)


def test_a_second_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.conv, self.lif, self.head = stem(), ln.Conv2d(4, 4, 1), LIF(), head()

        def forward(self, x, y):
            return self.head(self.lif(self.conv(self.net(x)) + y))

    with pytest.raises(UnsupportedLayerError, match=r"the network \(Net\): it has a second input 'y'"):
        lower(Net())


def test_a_norm_of_other_channels():
    with pytest.raises(ShapeError, match=r"layer '2' \(BatchNorm2d\) expects 5 .* got 4 from '1'"):
        lower(behind_stem(ln.Conv2d(4, 4, 1), ln.BatchNorm2d(5), LIF()))


def test_the_cause_of_a_failed_trace_is_kept():
    with pytest.raises(UnsupportedLayerError) as caught:
        lower(with_conv(branch_on_values))
    assert isinstance(caught.value.__cause__, torch.fx.proxy.TraceError)
