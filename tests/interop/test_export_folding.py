"""The deployable network computes what the network computes in evaluation mode."""

import copy

import numpy as np
import pytest
import torch
from export_nets import awake, noise, residual, small_vgg, sparse
from torch import nn

import ndsnn
from ndsnn.errors import ExportError, ShapeError
from ndsnn.interop.export.folding import fold, with_unit_gain
from ndsnn.interop.export.network import AvgPoolNode, MaxPoolNode, NeuronNode
from ndsnn.interop.export.simulation import simulate

NEURONS = [
    {},
    {"v_reset": None, "tau": 2.0},
    {"v_reset": -0.2, "decay_input": False, "tau": 3.0},
    {"v_threshold": 0.7, "v_reset": None, "decay_input": False},
]


def spikes_of(net, x):
    """Logits, and the spikes of every LIF module, by torch's own hooks."""
    seen = {}
    for path, module in net.named_modules():
        if isinstance(module, ndsnn.LIF):
            module.register_forward_hook(lambda m, i, o, path=path: seen.update({path: o}))
    with torch.no_grad():
        return net(x), seen


def require_same(net, network, x):
    logits, spikes = spikes_of(copy.deepcopy(net), x)
    run = simulate(network, x)
    assert torch.allclose(run.logits, logits, rtol=1e-4, atol=1e-5)
    assert run.spikes.keys() == spikes.keys()
    for path, own in spikes.items():
        assert torch.equal(run.spikes[path].flatten(2), own.flatten(2)), path
        assert 0.002 < own.mean() < 0.98, path


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (small_vgg, (1, 11, 9)),
        (lambda **s: ndsnn.models.lenet5(4, 3, 1, **s), (1, 17, 28)),
        (lambda **s: ndsnn.models.lenet5(4, 3, 1, 0.5, **s), (1, 47, 40)),
        (residual, (3, 16, 16)),
        (lambda **s: ndsnn.models.resnet19_tdbn(5, 2, 3, 0.0625, norm="tdbn", **s), (3, 16, 16)),
    ],
)
def test_a_folded_network_is_the_network(build, shape, neuron):
    net = sparse(build(neuron=neuron))
    x = noise(3, *shape)
    network = fold(net, shape)
    require_same(net, network, x)
    require_same(net, with_unit_gain(network), x)
    assert not any(n.parameters.decay_input for n in with_unit_gain(network).nodes if isinstance(n, NeuronNode))


def test_by_hand():
    """One neuron, one weight, one norm: the numbers of the docstring."""
    net = nn.Sequential(
        ndsnn.models.layers.RepeatOverTime(2),
        nn.Conv2d(1, 1, 1),
        ndsnn.models.layers.BatchNorm2d(1),
        ndsnn.LIF(tau=2.0),
        ndsnn.models.layers.Flatten(),
        nn.Linear(1, 1, bias=False),
    )
    net[1] = ndsnn.models.layers.Conv2d(1, 1, 1)
    net[5] = ndsnn.models.layers.Linear(1, 1, bias=False)
    for tensor, value in (
        (net[1].weight.data, 3.0),
        (net[1].bias.data, 0.5),
        (net[2].weight.data, -2.0),
        (net[2].bias.data, 0.25),
        (net[2].running_mean, 1.5),
        (net[2].running_var, 4.0 - net[2].eps),
        (net[5].weight.data, 7.0),
    ):
        tensor.fill_(value)
    first, last = fold(net.eval(), (1, 1, 1)).synapses()
    # k = −2/√4 = −1; W' = −3; b' = 0.25 − (0.5 − 1.5) = 1.25.
    assert first.dense().item() == pytest.approx(-3.0)
    assert first.bias.item() == pytest.approx(1.25)
    assert (first.norm, last.norm, last.has_bias) == ("2", None, False)
    (neuron,) = (n for n in with_unit_gain(fold(net, (1, 1, 1))).nodes if isinstance(n, NeuronNode))
    assert neuron.terms[0].synapse.dense().item() == pytest.approx(-1.5)
    assert (neuron.leak, neuron.gain) == (0.5, 1.0)


def test_true_zeros_only():
    """A negative gain makes −0.0 of a masked 0.0; alive zeros count as alive and are not stored."""
    net = sparse(small_vgg())
    net.features[1].weight.data.fill_(-1.0)
    net.features[1].bias.data.fill_(-0.0)
    net.features[1].running_mean.fill_(0.0)
    layer = net.features[0]
    places = layer.sparsity_mask.flatten().nonzero().flatten()
    layer.weight.data.view(-1)[places[0]] = 0.0
    for network in (fold(net, (1, 8, 8)), with_unit_gain(fold(net, (1, 8, 8)))):
        first = network.synapses()[0]
        assert (first.alive, first.nnz) == (len(places), len(places) - 1)
        for array in (first.dense(), first.bias):
            assert not np.signbit(array[array == 0]).any()


def test_masked_compressed_and_dense_fold_alike():
    net = sparse(small_vgg())
    reference = fold(net, (1, 8, 8))
    for other in (ndsnn.accelerate(net, backend="reference"), ndsnn.to_dense(net)):
        for one, two in zip(reference.synapses(), fold(other, (1, 8, 8)).synapses(), strict=True):
            assert np.array_equal(one.dense(), two.dense())
            assert np.array_equal(one.bias, two.bias)


def test_events():
    net = sparse(small_vgg(channels=2))
    network = fold(net, (2, 8, 8), events=True)
    require_same(net, network, noise(4, 3, 2, 8, 8))
    with pytest.raises(ShapeError, match="folded for an input"):
        simulate(network, noise(3, 2, 8, 8))


def test_pools_are_nodes_with_windows():
    network = fold(sparse(small_vgg()), (1, 11, 3))
    pools = [node for node in network.nodes if isinstance(node, MaxPoolNode)]
    assert [(p.window, p.shape.height, p.shape.width) for p in pools] == [((2, 2), 5, 1), ((2, 1), 2, 1)]
    (average,) = (node for node in network.nodes if isinstance(node, AvgPoolNode))
    assert (average.rows, average.columns) == (((0, 2),), ((0, 1),))
    adaptive = fold(sparse(ndsnn.models.lenet5(4, 2, 1)), (1, 44, 48))
    (average,) = (node for node in adaptive.nodes if isinstance(node, AvgPoolNode))
    # torch's rule on 8 rows to 5, and 9 columns to 5.
    assert average.rows == ((0, 2), (1, 4), (3, 5), (4, 7), (6, 8))
    assert average.columns == ((0, 2), (1, 4), (3, 6), (5, 8), (7, 9))
    assert average.uniform is None


def test_what_cannot_be_folded():
    net = awake(small_vgg())
    net.features[1].running_mean = net.features[1].running_var = None
    with pytest.raises(ExportError, match=r"features\.1.*running statistics"):
        fold(net, (1, 8, 8))
    net = awake(small_vgg())
    net.features[5].weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(ExportError, match=r"features\.5.*not finite"):
        fold(net, (1, 8, 8))
    with pytest.raises(ShapeError, match="channels"):
        fold(awake(small_vgg()), (2, 8, 8))
