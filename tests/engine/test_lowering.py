import copy

import pytest
import torch
from graph_interpreter import logits
from lowering_nets import Calls, Repeating, head, stem
from torch import nn

from ndsnn import models
from ndsnn.engine.graph import AvgPool, Flatten, Graph, MaxPool, Neuron, Readout, Source, Synapse, Term
from ndsnn.engine.lowering import lower
from ndsnn.models import layers as ln
from ndsnn.models.resnet import BasicBlock
from ndsnn.neurons import LIF, LIFParameters

P = LIFParameters()


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_as_plan(net, x, train=True):
    """Check that carrying out the plan in torch does what the network does, running statistics included."""
    other = copy.deepcopy(net)
    torch.testing.assert_close(logits(lower(net), other.train(train), x), net.train(train)(x))
    for (name, one), two in zip(net.named_buffers(), other.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(two, one, msg=name)


def test_vgg_with_pool():
    net = models.vgg([4, "M", 6, 8], num_classes=7, time_steps=2, in_channels=2)
    norm = {"kernel": (3, 3), "padding": (1, 1)}
    assert lower(net) == Graph(
        (
            Source(),
            Neuron(
                "features.3",
                P,
                (Term(0, Synapse("features.0", 4, 2, norm="features.1", **norm)),),
                pool=2,
                pool_path="features.4",
            ),
            Neuron("features.7", P, (Term(1, Synapse("features.5", 6, 4, norm="features.6", **norm)),)),
            Neuron("features.10", P, (Term(2, Synapse("features.8", 8, 6, norm="features.9", **norm)),)),
            AvgPool("pool", 3, output=(1, 1)),
            Flatten("flatten", 4),
            Readout(Term(5, Synapse("classifier", 7, 8))),
        ),
        time_steps=2,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block(stride):
    channels = 4 * stride
    block = BasicBlock(4, channels, stride, LIF, lambda c, alpha=1.0: ln.BatchNorm2d(c))
    shortcut = (
        Term(1, None) if stride == 1 else Term(1, Synapse("1.shortcut.0", 8, 4, (1, 1), 2, (0, 0), "1.shortcut.1"))
    )
    assert lower(nn.Sequential(stem(), block, head(channels))) == Graph(
        (
            Source(),
            Neuron("0.3", P, (Term(0, Synapse("0.0", 4, 2, (3, 3), 1, (1, 1), "0.1")),)),
            Neuron("1.neuron1", P, (Term(1, Synapse("1.conv1", channels, 4, (3, 3), stride, (1, 1), "1.norm1")),)),
            Neuron(
                "1.neuron2",
                P,
                (Term(2, Synapse("1.conv2", channels, channels, (3, 3), 1, (1, 1), "1.norm2")), shortcut),
            ),
            AvgPool("2.0", 3, output=(1, 1)),
            Flatten("2.1", 4),
            Readout(Term(5, Synapse("2.2", 3, channels))),
        ),
        time_steps=3,
    )


def test_lenet_with_pad_and_biases():
    net = models.lenet5(num_classes=5, time_steps=4, in_channels=1, neuron=LIFParameters(v_threshold=0.5))
    p = LIFParameters(v_threshold=0.5)
    assert lower(net) == Graph(
        (
            Source(pad_to=32),
            Neuron(
                "features.4",
                p,
                (Term(0, Synapse("features.1", 6, 1, (5, 5), norm="features.2")),),
                pool=2,
                pool_path="features.5",
            ),
            Neuron(
                "features.8",
                p,
                (Term(1, Synapse("features.6", 16, 6, (5, 5), norm="features.7")),),
                pool=2,
                pool_path="features.9",
            ),
            AvgPool("pool", 2, output=(5, 5)),
            Flatten("flatten", 3),
            Neuron("hidden.1", p, (Term(4, Synapse("hidden.0", 120, 400)),)),
            Neuron("hidden.3", p, (Term(5, Synapse("hidden.2", 84, 120)),)),
            Readout(Term(6, Synapse("classifier", 5, 84))),
        ),
        time_steps=4,
    )


def test_max_pools_that_cannot_be_merged_into_the_neuron():
    def forward(net, x):
        spikes = net.stem(x)
        return net.head(net.neuron(net.conv(net.pool(spikes)) + net.pool(net.again(spikes))))

    pools = {"pool": ln.MaxPool2d(2), "again": ln.MaxPool2d(1)}
    net = Calls(forward, stem=stem(), conv=ln.Conv2d(4, 4, 1), neuron=LIF(), head=head(), **pools)
    plan = lower(net)
    assert plan.nodes[1:4] == (
        Neuron("stem.3", P, (Term(0, Synapse("stem.0", 4, 2, (3, 3), 1, (1, 1), "stem.1")),)),
        MaxPool("pool", 1, 2),
        MaxPool("pool", 1, 2),
    )
    assert plan.nodes[4] == Neuron("neuron", P, (Term(2, Synapse("conv", 4, 4)), Term(3, None)))
    assert [plan.inputs(i) for i in range(8)] == [(), (0,), (1,), (1,), (2, 3), (4,), (5,), (6,)]
    same_as_plan(net, images(2, 2, 6, 6))


def test_the_second_of_two_max_pools_stays_a_node():
    net = nn.Sequential(stem(), ln.MaxPool2d(2), nn.Identity(), nn.MaxPool2d(3), ln.Conv2d(4, 4, 1), LIF(), head())
    plan = lower(net)
    assert [type(node) for node in plan.nodes] == [Source, Neuron, MaxPool, Neuron, AvgPool, Flatten, Readout]
    assert (plan.nodes[1].pool, plan.nodes[1].pool_path, plan.nodes[1].whole_windows) == (2, "1", False)
    assert plan.nodes[2] == MaxPool("3", 1, 3, whole_windows=True)
    assert plan.nodes[3].terms[0].node == 2


@pytest.mark.parametrize(
    ("name", "nodes", "neurons", "synapses", "weights"),
    [
        ("vgg16", 17, 13, 14, 14_715_584),
        ("resnet19", 22, 18, 22, 12_619_968),
        ("resnet19_tdbn", 22, 18, 21, 12_687_232),
        ("lenet5", 8, 4, 5, 61_770),
    ],
)
def test_numbers_of_nodes_and_weights(name, nodes, neurons, synapses, weights):
    with torch.device("meta"):
        net = models.MODELS[name](num_classes=10)
    plan = lower(net)
    assert plan.time_steps == 5
    assert len(plan.nodes) == nodes
    assert sum(isinstance(node, Neuron) for node in plan.nodes) == neurons
    found = plan.synapses()
    assert len(found) == synapses
    assert sum(s.out_channels * s.in_channels * s.kernel[0] * s.kernel[1] for s in found) == weights
    modules = dict(net.named_modules())
    assert {s.layer for s in found} == {n for n, m in modules.items() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {s.norm for s in found} - {None} == {n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
    paths = [node.path for node in plan.nodes if isinstance(node, Neuron)]
    assert paths == [n for n, m in modules.items() if isinstance(m, LIF)]


SMALL = {
    "vgg": {"layers": [8, "M", 12, 12, "M"], "width": 0.5},
    "vgg16": {"width": 0.06},
    "resnet19": {"width": 0.06},
    "resnet19_tdbn": {"width": 0.06},
    "lenet5": {"width": 0.5},
}


@pytest.mark.parametrize("norm", ["bn", "tdbn"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_plan_does_what_its_network_does(name, norm):
    assert {*SMALL, "mlp"} == set(models.MODELS)
    torch.manual_seed(0)
    neuron = LIF(v_threshold=0.4, v_reset=None, tau=2.0)
    net = models.MODELS[name](num_classes=7, time_steps=3, norm=norm, neuron=neuron, **SMALL[name])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.2, 0.6)
    for x in (images(3, 3, 16, 16), images(3, 3, 3, 17, 12)):
        same_as_plan(net, x)
        same_as_plan(net, x, train=False)


def test_a_plan_of_a_fully_connected_network():
    torch.manual_seed(0)
    neuron = LIF(v_threshold=0.2, tau=2.0)
    net = models.mlp([12, 9], num_classes=7, time_steps=3, in_channels=2, image_size=(4, 5), neuron=neuron)
    for x in (images(3, 2, 4, 5), images(3, 3, 2, 4, 5)):
        same_as_plan(net, x)


def test_lowering_neither_runs_nor_changes_the_network():
    net = models.resnet19(width=0.05)
    before = copy.deepcopy(net.state_dict())
    x = images(2, 3, 8, 8)
    expected = copy.deepcopy(net)(x)
    lower(net)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(x), expected)


class ThreeBranches(nn.Module):
    """Three convolutions and the pooled spikes themselves, summed in every spelling there is."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(ln.Conv2d(4, 4, k, padding="same", bias=k == 1), ln.BatchNorm2d(4)) for k in (1, 3, 5)
        )
        self.drop = nn.Dropout(0)
        self.neuron = LIF(tau=2.0)

    def forward(self, x):
        one, two, three = (branch(x) for branch in self.branches)
        first = torch.add(one, other=self.drop(two))
        return self.neuron(sum([first.add(three), x, x]))


def test_a_users_module_with_branches():
    torch.manual_seed(0)
    net = nn.Sequential(stem(), ln.MaxPool2d(2), ThreeBranches(), ThreeBranches(), head())
    block = lower(net).nodes[2]
    assert block == Neuron(
        "2.neuron",
        LIFParameters(tau=2.0),
        (
            Term(1, Synapse("2.branches.0.0", 4, 4, norm="2.branches.0.1")),
            Term(1, Synapse("2.branches.1.0", 4, 4, (3, 3), 1, (1, 1), "2.branches.1.1")),
            Term(1, Synapse("2.branches.2.0", 4, 4, (5, 5), 1, (2, 2), "2.branches.2.1")),
            Term(1, None),
            Term(1, None),
        ),
    )
    same_as_plan(net, images(3, 2, 8, 8))


def test_repetition_at_every_place():
    torch.manual_seed(0)
    layers = {"conv": ln.Conv2d(2, 4, 3), "norm": ln.BatchNorm2d(4), "lif": LIF(v_threshold=0.3), "head": head()}
    layers |= {"pad": ln.ZeroPad(9), "repeat": ln.RepeatOverTime(3)}
    orders = {
        ("repeat", "conv", "norm"): (0, True),
        ("conv", "norm", "repeat"): (0, False),
        ("conv", "norm", "repeat", "repeat"): (0, False),
        ("conv", "repeat"): (0, False),
        ("pad", "repeat", "conv", "norm"): (9, True),
        ("repeat", "pad", "conv", "norm", "repeat"): (9, True),
        ("pad", "conv", "norm", "repeat"): (9, False),
    }
    for order, (pad_to, repeated) in orders.items():
        net = nn.Sequential(*(copy.deepcopy(layers[name]) for name in (*order, "lif", "head")))
        plan = lower(net)
        assert plan.nodes[0] == Source(pad_to, repeated), order
        assert plan.time_steps == 3
        assert len(plan.nodes) == 5
        same_as_plan(net, images(2, 2, 8, 8))
        same_as_plan(net, images(3, 2, 2, 8, 8))


def test_branches_of_a_repeated_image():
    torch.manual_seed(0)

    def forward(net, x):
        x = net.repeat(x)
        return net.head(net.neuron(net.one(x) + net.two(x) + x))

    net = Calls(
        forward,
        repeat=ln.RepeatOverTime(3),
        one=ln.Conv2d(4, 4, 1),
        two=ln.Conv2d(4, 4, 3, padding=1),
        neuron=LIF(),
        head=head(),
    )
    assert [term.node for term in lower(net).nodes[1].terms] == [0, 0, 0]
    same_as_plan(net, images(2, 4, 5, 5))


def test_event_network_without_repetition():
    torch.manual_seed(0)

    def forward(net, x):
        return net.head(net.neuron(net.one(x) + net.two(x) + net.average(x)))

    net = Calls(
        forward,
        one=ln.Conv2d(2, 2, 3, stride=2, padding=1),
        two=ln.Conv2d(2, 2, 1, stride=2),
        average=ln.AdaptiveAvgPool2d((4, 3)),
        neuron=LIF(),
        head=head(2),
    )
    plan = lower(net)
    assert plan.time_steps is None
    assert plan.nodes[1] == AvgPool("average", 0, (4, 3))
    assert plan.nodes[2].terms[2] == Term(1, None)
    same_as_plan(net, images(4, 2, 2, 8, 6))


def test_network_of_linear_layers():
    torch.manual_seed(0)
    net = nn.Sequential(
        ln.RepeatOverTime(2),
        ln.Flatten(),
        nn.Linear(12, 8, bias=False),
        LIF(v_threshold=0.2),
        nn.Sequential(nn.Identity(), nn.Linear(8, 5)),
        LIF(),
        nn.Linear(5, 2),
    )
    assert [type(node) for node in lower(net).nodes] == [Source, Flatten, Neuron, Neuron, Readout]
    assert lower(net).nodes[0] == Source(repeated=True)
    same_as_plan(net, images(3, 3, 2, 2))


def plain_torch(flat):
    """Torch's own layers; [N, ...] in front of RepeatOverTime, so that torch itself can run the convolution."""
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 1), padding=(1, 0)),
        nn.BatchNorm2d(4, track_running_stats=False),
        ln.RepeatOverTime(3),
        LIF(v_threshold=0.2),
        flat,
        nn.Linear(4 * 20, 6, bias=False),
        LIF(),
        nn.Dropout(p=0.0),
        nn.Linear(6, 3),
    )


@pytest.mark.parametrize("flat", [nn.Flatten(2), nn.Flatten(-3), nn.Flatten(2, 4), ln.Flatten()], ids=repr)
def test_plain_torch_layers_that_torch_can_run(flat):
    torch.manual_seed(0)
    net = plain_torch(flat)
    plan = lower(net)
    assert plan.nodes[1].terms[0].synapse == Synapse("0", 4, 2, (3, 1), 1, (1, 0), "1")
    assert plan.nodes[2] == Flatten("4", 1)
    same_as_plan(net, images(2, 2, 5, 4))


@pytest.mark.parametrize(
    "flatten",
    [lambda _, x: torch.flatten(x, 2), lambda _, x: x.flatten(2), lambda _, x: torch.flatten(x, start_dim=-3)],
)
def test_flatten_as_a_function(flatten):
    net = plain_torch(Calls(flatten))
    assert lower(net).nodes[2] == Flatten("4", 1)
    same_as_plan(net, images(2, 2, 5, 4))


def test_torch_layers_mean_for_all_steps_what_they_do_to_one():
    torch.manual_seed(0)
    torchs = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="valid"),
        nn.BatchNorm2d(4),
        ln.RepeatOverTime(3),
        LIF(v_threshold=0.3),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, 2, 1),
        LIF(v_threshold=0.1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.BatchNorm1d(6),
        LIF(),
        nn.Linear(6, 3),
    )
    plan = lower(torchs)
    assert plan.nodes[1].pool == 2
    assert plan.nodes[1].whole_windows
    assert plan.nodes[3] == AvgPool("7", 2, None, 2)
    assert plan.nodes[4] == AvgPool("8", 3, (2, 1))
    assert plan.nodes[6].terms[0].synapse.norm == "11"
    torchs.eval()
    x = images(2, 2, 14, 14)

    def folded(layer, value):
        stepwise = value.ndim == 5 or (value.ndim == 3 and not isinstance(layer, nn.Linear))
        if isinstance(layer, LIF | ln.RepeatOverTime) or not stepwise:
            return layer(value)
        return layer(value.flatten(0, 1)).unflatten(0, value.shape[:2])

    expected = x
    for layer in torchs:
        expected = folded(layer, expected)
    torch.testing.assert_close(logits(plan, torchs, x), expected)


class Compressed(nn.Module):
    """What the lowering knows of a compressed layer."""

    def __init__(self, dense_shape, **attributes):
        super().__init__()
        self.dense_shape = dense_shape
        self.weight = nn.Parameter(torch.zeros(5))
        self.bias = None
        for name, value in attributes.items():
            setattr(self, name, value)


def test_compressed_layers():
    conv = Compressed(
        (4, 2, 3, 3), in_channels=2, out_channels=4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)
    )
    square = Compressed((4, 4, 3, 3), in_channels=4, out_channels=4, kernel_size=3, stride=1, padding="same")
    linear = Compressed((3, 4), in_features=4, out_features=3)
    net = nn.Sequential(conv, ln.BatchNorm2d(4), ln.RepeatOverTime(2), LIF(), square, LIF(), *head()[:2], linear)
    assert lower(net).synapses() == (
        Synapse("0", 4, 2, (3, 3), 2, (1, 1), "1"),
        Synapse("4", 4, 4, (3, 3), 1, (1, 1)),
        Synapse("8", 3, 4),
    )


def test_a_conv_as_readout():
    net = nn.Sequential(stem(), ln.Conv2d(4, 3, 1))
    assert lower(net).nodes[-1] == Readout(Term(1, Synapse("1", 3, 4)))
    same_as_plan(net, images(2, 2, 4, 4))


def test_unused_further_input_and_keyword_call():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = stem(), head()

        def forward(self, x, verbose=False):
            return self.head(self.stem[3](x_tn=self.stem[:3](x)))

    assert len(lower(Net()).nodes) == 5


def test_subclasses_that_compute_the_same():
    net = nn.Sequential(ln.Conv2d(2, 4, 1), ln.ThresholdBatchNorm2d(4), Repeating(2), LIF(), head())
    assert lower(net).time_steps == 2
