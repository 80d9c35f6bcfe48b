"""Networks of SpikingJelly compute on the engine what they compute themselves: block by block, then whole ones."""

import copy

import pytest
import torch
from framework_parity import lively, same_network
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg
from torch import nn

import ndsnn
from ndsnn.engine.graph import Dropout, Source, Sum
from ndsnn.sparse.topology import sparse_layers

T, N = 4, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def lif(kind=neuron.LIFNode, **settings):
    return kind(**{"surrogate_function": surrogate.ATan(), "detach_reset": True} | settings)


def multi_step(net):
    functional.set_step_mode(net, "m")
    return lively(net)


def multi_step_outside(net):
    """Set the step mode of all but what is inside a container."""
    for module in net:
        if not isinstance(module, layer.SeqToANNContainer):
            functional.set_step_mode(module, "m")
    return lively(net)


def accelerated(net, sparsity=0.5):
    if sparsity:
        ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(3))
    return ndsnn.accelerate(net)


def events(*shape):
    return torch.randn(T, N, *shape, generator=torch.Generator().manual_seed(5))


def conv_block(*behind, **settings):
    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        lif(**settings),
        *behind,
        layer.Flatten(),
        layer.Linear(8 * 6 * 6, 5),
    )


NEURONS = {
    "default": {},
    "tau": {"tau": 1.3},
    "no decay of the input": {"tau": 4.0, "decay_input": False},
    "soft reset": {"v_reset": None},
    "reset elsewhere": {"v_reset": -0.3, "v_threshold": 0.7},
    "gradient through the reset": {"detach_reset": False},
    "gradient through a soft reset": {"detach_reset": False, "v_reset": None, "decay_input": False},
    "if": {"kind": neuron.IFNode},
    "if with a soft reset": {"kind": neuron.IFNode, "v_reset": None, "detach_reset": False},
    "if reset elsewhere": {"kind": neuron.IFNode, "v_reset": -0.5},
    "sigmoid": {"surrogate_function": surrogate.Sigmoid(alpha=3.0)},
    "triangle": {"surrogate_function": surrogate.PiecewiseQuadratic(alpha=0.8)},
    "rectangle": {"surrogate_function": surrogate.Rect(alpha=0.6)},
}


@pytest.mark.parametrize("case", sorted(NEURONS))
@pytest.mark.parametrize("training", [True, False])
def test_conv_norm_neuron(case, training):
    net = multi_step(conv_block(**NEURONS[case])).train(training)
    same_network(accelerated(net), net, events(2, 6, 6), functional.reset_net)


PARAMETRIC = {
    "default": {},
    "no decay of the input": {"decay_input": False},
    "reset elsewhere": {"v_reset": -0.3},
    "soft reset": {"v_reset": None, "detach_reset": False},
}


@pytest.mark.parametrize("case", sorted(PARAMETRIC))
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_trained_time_constant(case, backend):
    net = multi_step(conv_block(kind=neuron.ParametricLIFNode, init_tau=3.0, **PARAMETRIC[case]))
    fast = ndsnn.accelerate(net, backend=backend)
    for leak in (-0.7, 0.4):
        for one in (net, fast):
            one.get_submodule("2").w.data.fill_(leak)
        same_network(fast, net, events(2, 6, 6), functional.reset_net)
        assert net[2].w.grad.abs() > 0.1


def test_a_frozen_time_constant_and_frozen_weights():
    net = multi_step(nn.Sequential(*conv_block(kind=neuron.ParametricLIFNode), layer.Linear(5, 5)))
    net = multi_step(nn.Sequential(*net[:-1], lif(kind=neuron.ParametricLIFNode), net[-1]))
    net[2].w.requires_grad_(False)
    for module in (net[0], net[1], net[4]):
        module.requires_grad_(False)
    same_network(ndsnn.accelerate(net), net, events(2, 6, 6), functional.reset_net)
    assert net[2].w.grad is None
    assert net[-2].w.grad is not None


@pytest.mark.parametrize(
    "pool",
    [layer.MaxPool2d(2, 2), layer.AvgPool2d(2), layer.AdaptiveAvgPool2d((7, 7))],
    ids=lambda p: type(p).__name__,
)
def test_pools(pool):
    side = 7 if isinstance(pool, layer.AdaptiveAvgPool2d) else 3
    net = conv_block(copy.deepcopy(pool))
    net[-1] = layer.Linear(8 * side * side, 5)
    net = multi_step(net)
    same_network(accelerated(net), net, events(2, 6, 6), functional.reset_net)


def test_linear_norm_neuron():
    net = nn.Sequential(
        layer.Linear(12, 20), layer.BatchNorm1d(20), lif(), layer.Linear(20, 20), lif(kind=neuron.IFNode)
    )
    net = multi_step(nn.Sequential(*net, layer.Linear(20, 4)))
    fast = accelerated(net)
    assert fast.graph.nodes[0] == Source(features=True)
    same_network(fast, net, events(12), functional.reset_net)
    functional.reset_net(fast)
    with pytest.raises(ndsnn.errors.ShapeError, match=r"expects \[N, F\] or \[T, N, F\]"):
        fast(events(2, 2, 12))


def test_threshold_dependent_norm():
    net = conv_block()
    net[1] = layer.ThresholdDependentBatchNorm2d(0.7, 1.0, 8)
    functional.set_step_mode(net, "m")
    net[1].bias.data.fill_(0.8)
    same_network(accelerated(net), net, events(2, 6, 6), functional.reset_net)


def test_torch_layers_in_a_container():
    net = nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)),
        lif(),
        layer.SeqToANNContainer(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 6)),
        lif(),
        layer.Linear(6, 3),
    )
    net = multi_step_outside(net)
    same_network(accelerated(net), net, events(2, 6, 6), functional.reset_net)


def test_containers_behind_the_last_layer():
    net = nn.Sequential(
        layer.Linear(6, 12), lif(), layer.SeqToANNContainer(nn.Linear(12, N), nn.BatchNorm1d(N), nn.Softmax(dim=1))
    )
    net = multi_step_outside(net)
    same_network(ndsnn.accelerate(net), net, events(6), functional.reset_net)


class Repeating(nn.Module):
    """Direct encoding, output neurons and their mean firing rate, as SpikingJelly's tutorials have it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*conv_block(layer.Dropout(0.3)), lif(v_threshold=0.3))
        multi_step(self)

    def forward(self, x_nchw):
        x = x_nchw.unsqueeze(0).repeat(T, 1, 1, 1, 1)
        return self.body(x).mean(0)


def test_what_stands_around_the_layers():
    net = Repeating()
    fast = accelerated(net)
    rate = same_network(fast, net, events(2, 6, 6)[0], functional.reset_net)
    assert rate.shape == (N, 5)
    assert rate.max() > 0


def test_the_output_neurons_keep_their_potentials_as_the_framework_does():
    net = nn.Sequential(layer.Linear(4, 3), lif(tau=5.0, v_threshold=50.0))
    functional.set_step_mode(net, "m")
    fast, x = ndsnn.accelerate(net), events(4)
    for _ in range(2):
        net(x), fast(x)
    torch.testing.assert_close(fast.get_submodule("1").v, net[1].v)
    assert not torch.equal(net[1].v, ndsnn.to_dense(fast)(x)[0])


def test_dropout_draws_the_same_masks_and_does_nothing_in_evaluation():
    net = multi_step(conv_block(layer.Dropout2d(0.5)))
    fast = accelerated(net)
    assert any(isinstance(node, Dropout) for node in fast.graph.nodes)
    x = events(2, 6, 6)
    same_network(fast, net, x, functional.reset_net)
    same_network(fast.eval(), net.eval(), x, functional.reset_net)


def test_spike_element_wise_residuals():
    """Sums of spikes are read by convolutions, by the next sum, and by a pool."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(layer.Conv2d(2, 8, 3, padding=1), layer.BatchNorm2d(8), lif())
            down = nn.Sequential(layer.Conv2d(8, 12, 1, stride=2, bias=False), layer.BatchNorm2d(12))
            self.blocks = nn.Sequential(
                sew_resnet.BasicBlock(8, 8, cnf="ADD", spiking_neuron=lif),
                sew_resnet.BasicBlock(8, 12, 2, down, cnf="ADD", spiking_neuron=lif),
            )
            self.blocks.append(sew_resnet.BasicBlock(12, 12, cnf="ADD", spiking_neuron=lif))
            self.head = nn.Sequential(layer.AdaptiveAvgPool2d((1, 1)), layer.Flatten(), layer.Linear(12, 4))

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)))

    net = multi_step(Net())
    fast = accelerated(net)
    assert sum(isinstance(node, Sum) for node in fast.graph.nodes) == 3
    for mode in (True, False):
        same_network(fast.train(mode), net.train(mode), events(2, 6, 6), functional.reset_net)


def test_a_residual_block_of_currents():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(layer.Conv2d(2, 8, 3, padding=1), layer.BatchNorm2d(8), lif())
            self.block = spiking_resnet.BasicBlock(8, 8, spiking_neuron=lif)
            self.head = nn.Sequential(layer.AdaptiveAvgPool2d((1, 1)), layer.Flatten(), layer.Linear(8, 4))

        def forward(self, x):
            return self.head(self.block(self.stem(x)))

    net = multi_step(Net())
    same_network(accelerated(net), net, events(2, 6, 6), functional.reset_net)


class SmallVGG(spiking_vgg.SpikingVGG):
    """SpikingJelly's SpikingVGG with a few channels: its layers, its forward, its dropout."""

    def __init__(self):
        kwargs = {"surrogate_function": surrogate.ATan(), "detach_reset": True}
        cfg = [8, "M", 12, 12, "M"]
        nn.Module.__init__(self)
        self.features = self.make_layers(cfg, batch_norm=True, neuron=neuron.LIFNode, **kwargs)
        self.avgpool = layer.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            layer.Linear(12 * 7 * 7, 32),
            neuron.LIFNode(**copy.deepcopy(kwargs)),
            layer.Dropout(),
            layer.Linear(32, 32),
            neuron.LIFNode(**copy.deepcopy(kwargs)),
            layer.Dropout(),
            layer.Linear(32, 6),
        )
        self._initialize_weights()
        multi_step(self)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_small_spiking_vgg(backend):
    torch.manual_seed(0)
    net = ndsnn.sparsify(SmallVGG(), 0.6, generator=torch.Generator().manual_seed(3))
    fast = ndsnn.accelerate(net, backend=backend)
    for mode in (True, False):
        logits = same_network(fast.train(mode), net.train(mode), events(3, 8, 8), functional.reset_net)
        assert logits.shape == (T, N, 6)


def test_state_dicts_have_plain_keys_both_ways():
    net = SmallVGG()
    keys = list(net.state_dict())
    fast = accelerated(net)
    assert list(net.state_dict()) == keys
    functional.reset_net(fast)
    fast(events(3, 8, 8)).sum().backward()
    plain = ndsnn.to_dense(fast)
    assert type(plain) is SmallVGG
    assert list(plain.state_dict()) == keys
    other = SmallVGG()
    other.load_state_dict(plain.state_dict())
    x = events(3, 8, 8)
    assert torch.equal(other.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", ["ndsnn", "rigl"])
def test_training_takes_the_same_decisions(name):
    torch.manual_seed(0)
    net = multi_step(conv_block(layer.MaxPool2d(2, 2)))
    net[-1] = layer.Linear(72, 5)
    ndsnn.sparsify(lively(net), 0.5, generator=torch.Generator().manual_seed(1))
    before = [handle.mask.clone() for handle in sparse_layers(net)]
    masks = []
    for one in (ndsnn.accelerate(net), net):
        optimizer = torch.optim.SGD(one.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        final = 0.8 if name == "ndsnn" else 0.5
        method = ndsnn.methods[name](one, optimizer, final, 12, update_every=3)
        source = torch.Generator().manual_seed(7)
        for _ in range(12):
            x, y = torch.randn(T, 8, 2, 6, 6, generator=source), torch.randint(0, 5, (8,), generator=source)
            loss = nn.functional.cross_entropy(one(x).mean(0), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.step()
            functional.reset_net(one)
        masks.append([handle.mask.clone() for handle in sparse_layers(one)])
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(masks[0], before, strict=True))


def test_saved_and_loaded(tmp_path):
    fast = accelerated(SmallVGG(), 0.6).eval()
    ndsnn.save(fast, tmp_path / "net.safetensors")
    other = ndsnn.load(tmp_path / "net.safetensors", SmallVGG()).eval()
    x = events(3, 8, 8)
    assert ndsnn.sparsity(other) == ndsnn.sparsity(fast)
    torch.testing.assert_close(other(x), fast(x))


def test_half_precision_gradients_of_sums_and_dropout():
    """Without stored currents, which could make other neurons fire."""
    torch.manual_seed(0)
    stem = nn.Sequential(layer.Conv2d(2, 8, 3, padding=1), layer.BatchNorm2d(8), lif())
    blocks = [sew_resnet.BasicBlock(8, 8, cnf="ADD", spiking_neuron=lif) for _ in range(2)]
    net = multi_step(nn.Sequential(stem, *blocks, layer.Flatten(), layer.Dropout(0.3), layer.Linear(288, 4)))
    gradients = []
    for precision in ("fp32", "mixed"):
        fast = ndsnn.accelerate(net, memory="recompute", precision=precision)
        torch.manual_seed(1)
        fast(events(2, 6, 6)).square().sum().backward()
        gradients.append(fast.get_submodule("0.0").weight.grad)
    assert (gradients[0] - gradients[1]).norm() < 2e-3 * gradients[0].norm()
    assert not torch.equal(*gradients)
