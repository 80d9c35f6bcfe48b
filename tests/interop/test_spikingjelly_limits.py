"""What of SpikingJelly the engine does not take is refused by name; states are never silently different."""

import copy
import re
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_vgg
from torch import nn

import ndsnn
from ndsnn.errors import ConfigError, StateError, UnsupportedLayerError


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def lif(kind=neuron.LIFNode, **settings):
    return kind(**{"surrogate_function": surrogate.ATan(), "step_mode": "m"} | settings)


def net(middle, *behind):
    conv = layer.Conv2d(2, 4, 3, padding=1, step_mode="m")
    return nn.Sequential(
        conv, middle, *behind, layer.Flatten(step_mode="m"), layer.Linear(4 * 16, 3, step_mode="m")
    )


class Doubling(neuron.LIFNode):
    def multi_step_forward(self, x_seq):
        return 2 * super().multi_step_forward(x_seq)


class Renamed(neuron.LIFNode):
    def __init__(self):
        super().__init__(surrogate_function=surrogate.ATan(), step_mode="m")


def sew(cnf, maxpool=True):
    made = sew_resnet.sew_resnet18(cnf=cnf, spiking_neuron=neuron.IFNode, surrogate_function=surrogate.ATan())
    functional.set_step_mode(made, "m")
    if not maxpool:
        made.maxpool = nn.Identity()
    return made


UNSUPPORTED = {
    "single step": (lambda: net(lif(step_mode="s")), "1", "LIFNode", 'set_step_mode(net, "m")'),
    "single step conv": (lambda: net(lif(), layer.MaxPool2d(2)), "2", "MaxPool2d", "step_mode='s'"),
    "surrogate": (
        lambda: net(lif(surrogate_function=surrogate.Erf())),
        "1",
        "LIFNode",
        "no surrogate function Erf; use one of ATan, Sigmoid, PiecewiseQuadratic, Rect",
    ),
    "surrogate that does not fire": (
        lambda: net(lif(surrogate_function=surrogate.ATan(spiking=False))),
        "1",
        "LIFNode",
        "ATan with spiking=False",
    ),
    "surrogate of one's own": (lambda: net(lif(surrogate_function=torch.sigmoid)), "1", "LIFNode", "surrogate"),
    "kept potentials": (lambda: net(lif(store_v_seq=True)), "1", "LIFNode", "store_v_seq=True"),
    "reset above the threshold": (lambda: net(lif(v_reset=2.0)), "1", "LIFNode", "must be above v_reset"),
    "other neuron": (
        lambda: net(neuron.QIFNode(step_mode="m")),
        "1",
        "QIFNode",
        "supported neurons are ndsnn.LIF",
    ),
    "overridden neuron": (
        lambda: net(Doubling(step_mode="m")),
        "1",
        "Doubling",
        "it defines multi_step_forward() beside what LIFNode",
    ),
    "neuron in a container": (
        lambda: nn.Sequential(layer.SeqToANNContainer(nn.Conv2d(2, 4, 3), neuron.LIFNode()), nn.Linear(4, 2)),
        "0.1",
        "LIFNode",
        "takes all steps for samples of one step",
    ),
    "multi-step container": (
        lambda: nn.Sequential(layer.MultiStepContainer(nn.Conv2d(2, 4, 3), neuron.LIFNode()), nn.Linear(4, 2)),
        "0",
        "MultiStepContainer",
        "cannot trace its forward",
    ),
    "torch's norm of features": (
        lambda: nn.Sequential(layer.Linear(3, 4), nn.BatchNorm1d(4), lif(), layer.Linear(4, 2)),
        "1",
        "BatchNorm1d",
        "takes [T, N, C] for N channels; use the framework's BatchNorm1d",
    ),
    "part of a flattening": (
        lambda: net(lif(), layer.Flatten(2, step_mode="m")),
        "2",
        "Flatten",
        "dimensions 2 to",
    ),
    "part of a flattening in a container": (
        lambda: net(lif(), layer.SeqToANNContainer(nn.Flatten(2))),
        "2.0",
        "Flatten",
        "flattening from dimension 2 on",
    ),
    "norm through time": (
        lambda: net(layer.BatchNormThroughTime2d(4, 4, step_mode="m"), lif()),
        "1",
        "BatchNormThroughTime2d",
        "",
    ),
    "grouped conv": (
        lambda: net(lif(), layer.Conv2d(4, 4, 3, padding=1, groups=2, step_mode="m"), lif()),
        "2",
        "Conv2d",
        "groups=2",
    ),
    "sew and": (lambda: sew("AND", maxpool=False), "layer1.0", "BasicBlock", "mul(), for which the engine has no"),
    "sew iand": (lambda: sew("IAND", maxpool=False), "layer1.0", "BasicBlock", "(cnf='IAND'; the engine has cnf="),
    "sew resnet": (lambda: sew("ADD"), "maxpool", "MaxPool2d", "stride=(2, 2) of windows (3, 3)"),
    "vgg in single-step mode": (
        lambda: spiking_vgg.SpikingVGG([8, "M"], spiking_neuron=neuron.LIFNode, num_classes=2, init_weights=False),
        "features.0",
        "Conv2d",
        "step_mode='s'",
    ),
}


@pytest.mark.parametrize("case", sorted(UNSUPPORTED))
def test_unsupported(case):
    make, path, kind, fragment = UNSUPPORTED[case]
    with torch.device("meta") if case.startswith("vgg") else torch.device("cpu"):
        made = make()
    with pytest.raises(UnsupportedLayerError) as caught:
        ndsnn.accelerate(made)
    message = str(caught.value)
    assert message.startswith(f"layer {path!r} ({kind}): "), message
    assert fragment in message
    assert re.search(r": .+; .+", message), "says what is wrong, and what to do"


def test_a_subclass_that_changes_nothing():
    ndsnn.accelerate(net(Renamed()))


def test_a_second_call_without_reset_is_refused_as_the_framework_would_go_on():
    plain = net(lif())
    fast, x = ndsnn.accelerate(plain), 4 * torch.rand(3, 2, 2, 4, 4)
    first = fast(x)
    assert not torch.equal(plain(x), plain(x)), "SpikingJelly goes on from the last potentials"
    with pytest.raises(StateError, match=r"layer '1' \(LIFNode\) .* call functional.reset_net\(net\) before"):
        fast(x)
    with pytest.raises(StateError):
        copy.deepcopy(fast)(x)
    functional.detach_net(fast)
    with pytest.raises(StateError):
        fast(x)
    functional.reset_net(fast)
    assert torch.equal(fast(x), first)


def test_a_state_of_rest_that_is_not_the_reset_potential():
    plain = net(lif())
    plain[1].set_reset_value("v", 0.5)
    functional.reset_net(plain)
    with pytest.raises(StateError):
        ndsnn.accelerate(plain)


def test_a_network_that_has_run_is_not_at_rest():
    plain = net(lif())
    plain(torch.rand(3, 2, 2, 4, 4))
    with pytest.raises(StateError, match=r"layer '1' \(LIFNode\) has not been reset"):
        ndsnn.accelerate(plain)
    functional.reset_net(plain)
    ndsnn.accelerate(plain)


def test_a_forward_that_resets_itself_may_be_called_again():
    class Resetting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net(lif(), layer.Dropout(0.5, step_mode="m"))

        def forward(self, x):
            functional.reset_net(self)
            return self.body(x)

    plain = Resetting()
    plain.body(torch.rand(3, 2, 2, 4, 4))
    fast, x = ndsnn.accelerate(plain), torch.rand(3, 2, 2, 4, 4)
    potentials = plain.body[1].v.clone()
    for _ in range(2):
        torch.manual_seed(1)
        found = fast(x)
        torch.manual_seed(1)
        torch.testing.assert_close(found, plain(x))
    assert not torch.equal(potentials, plain.body[1].v), "the trace had left them alone"


def test_a_dropout_that_has_dropped_needs_a_reset():
    plain = net(nn.Identity(), lif(), layer.Dropout(0.5, step_mode="m"))
    fast, x = ndsnn.accelerate(plain), torch.rand(3, 2, 2, 4, 4)
    fast(x)
    fast.get_submodule("2").reset()
    with pytest.raises(StateError, match=r"layer '3' \(Dropout\)"):
        fast(x)


def test_a_neuron_that_was_changed_afterwards():
    fast = ndsnn.accelerate(net(lif()))
    fast.get_submodule("1").tau = 3.0
    with pytest.raises(ConfigError, match=r"layer '1' \(LIFNode\) has been changed since"):
        fast(torch.rand(3, 2, 2, 4, 4))


def test_plain_again_after_training_without_a_reset():
    fast = ndsnn.accelerate(nn.Sequential(*net(lif()), lif()))
    fast(torch.rand(3, 2, 2, 4, 4)).sum().backward()
    plain = ndsnn.to_dense(fast)
    assert plain[1].v == plain[-1].v == 0.0
    ndsnn.accelerate(plain)


def test_only_adapters_import_frameworks():
    source = Path(ndsnn.__file__).parent
    imports = re.compile(r"^\s*(?:import|from) (spikingjelly|snntorch|norse)\b", re.MULTILINE)
    found = {
        (path.relative_to(source).as_posix(), name)
        for room in ("engine", "sparse", "interop")
        for path in (source / room).glob("*.py")
        for name in imports.findall(path.read_text(encoding="utf-8"))
    }
    assert {name for _, name in found} <= {"spikingjelly", "snntorch", "norse"}
    assert all(path == f"interop/{name}.py" for path, name in found)
