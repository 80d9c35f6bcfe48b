"""Compressed modules by themselves: what they hold, compute, save and load; compressing and decompressing nets."""

import copy
import io

import pytest
import torch
from compressed_nets import conv_net
from small_nets import optimizer_of
from spikingjelly.activation_based import layer as spiking
from torch import nn
from torch.nn.utils import parametrizations

import ndsnn
from ndsnn.errors import ShapeError, SparsityError
from ndsnn.models import layers
from ndsnn.sparse import CompressedConv2d, CompressedLinear, Distribution, compress, decompress, set_masks
from ndsnn.sparse.sparsify import layer_report, recorded_distribution, sparsify, sparsity, to_dense
from ndsnn.sparse.topology import sparse_layers
from ndsnn.training.costs import alive_mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_linear(**changes):
    """W = [[0, 1, 0], [2, 0, 3]]."""
    settings = {"values": torch.tensor([1.0, 2.0, 3.0]), "positions": torch.tensor([1, 3, 5])} | changes
    return CompressedLinear(3, 2, **settings)


def test_values_and_places_by_hand():
    layer = small_linear(bias=torch.tensor([10.0, 20.0]))
    assert layer(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[12.0, 34.0]]
    assert layer.mask().tolist() == [[False, True, False], [True, False, True]]
    assert layer.dense_weight().tolist() == [[0, 1, 0], [2, 0, 3]]
    assert (layer.nnz, layer.size, layer.dense_shape) == (3, 6, (2, 3))
    assert layer.positions.dtype == torch.int32
    assert "3 of 6 weights" in repr(layer)
    layer(torch.tensor([[1.0, 2.0, 4.0]])).sum().backward()
    assert layer.weight.grad.tolist() == [2.0, 1.0, 4.0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("steps", [(), (4,)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, (0, 2)), ((2, 1), 0)])
def test_convolutions_are_those_of_torch(stride, padding, steps, bias):
    torch.manual_seed(0)
    conv = layers.Conv2d(3, 5, (3, 2), stride, padding, bias=bias)
    net = nn.Sequential(sparsify(conv, 0.6))
    reference = copy.deepcopy(conv)
    compress(net)
    x = torch.randn(*steps, 2, 3, 7, 6)
    one, other = reference(x), net(x)
    assert torch.equal(one, other)
    one.square().sum().backward()
    other.square().sum().backward()
    assert torch.equal(net[0].weight.grad, reference.weight.grad[reference.sparsity_mask])
    assert not bias or torch.equal(net[0].bias.grad, reference.bias.grad)
    assert (net[0].in_channels, net[0].out_channels, net[0].kernel_size) == (3, 5, (3, 2))
    assert all(len(pair) == 2 for pair in (net[0].stride, net[0].padding))


def test_wrong_axes_are_refused():
    net = compress(sparsify(conv_net(), 0.5))
    with pytest.raises(ShapeError, match="CompressedConv2d expects"):
        net[0](torch.zeros(2, 3, 6, 6))
    with pytest.raises(ShapeError, match="CompressedLinear expects"):
        net[6](torch.zeros(72))


def test_the_gradient_is_right_by_finite_differences():
    net = compress(sparsify(conv_net(), 0.7)).double()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    parameters = dict(net[3].named_parameters())

    def convolve(weight, bias):
        return torch.func.functional_call(net[3], {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(convolve, (parameters["weight"], parameters["bias"]))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding):
    conv = nn.Conv2d(2, 3, (3, 5), padding=padding)
    reference = copy.deepcopy(conv)
    net = compress(nn.Sequential(conv))
    assert net[0].padding == ((1, 2) if padding == "same" else (0, 0))
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(net(x), reference(x))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": torch.tensor([1, 5, 3])}, "not ascending"),
        ({"positions": torch.tensor([1, 3, 3])}, "not ascending"),
        ({"positions": torch.tensor([-1, 3, 5])}, "not ascending"),
        ({"positions": torch.tensor([1, 3, 6])}, "not ascending places of a weight of shape \\(2, 3\\)"),
        ({"positions": torch.tensor([1, 3])}, "goes with 3 values"),
        ({"positions": torch.tensor([1.0, 3.0, 5.0])}, "no int32 or int64 vector"),
        ({"positions": None}, "3 values without positions for 6 places"),
        ({"values": torch.ones(1, 3)}, "vector"),
    ],
)
def test_topologies_that_are_none(changes, words):
    with pytest.raises(SparsityError, match=words):
        small_linear(**changes)
    layer = small_linear()
    weight, before = layer.weight, copy.deepcopy(layer.state_dict())
    wrong = {"values": torch.ones(3), "positions": torch.tensor([1, 3, 5])} | changes
    state = {"weight": wrong["values"], "positions": wrong["positions"]}
    with pytest.raises(RuntimeError, match=words):
        layer.load_state_dict({key: value for key, value in state.items() if value is not None})
    assert layer.weight is weight
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert layer.version == 0


# State dicts and copies --------------------------------------------------------------------------------------


def test_the_state_dict():
    net = compress(sparsify(conv_net(), 0.8, dense_layers=["0"]))
    keys = set(net.state_dict())
    assert {"0.weight", "3.weight", "3.positions", "3.bias", "6.positions"} < keys
    assert "0.positions" not in keys
    assert net.state_dict()["3.weight"].shape == net.state_dict()["3.positions"].shape
    assert not [key for key in keys if "mask" in key]


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("there", [0.9, 0.5, 0.0])
@pytest.mark.parametrize("here", [0.8, 0.3, 0.0])
def test_loading_another_number_of_weights(there, here):
    source = compress(sparsify(conv_net(1), there, generator=seeded(1)))
    net = compress(sparsify(conv_net(2), here, generator=seeded(2)))
    parameters = list(net.parameters())
    optimizer = optimizer_of(net)
    net(torch.randn(2, 2, 6, 6)).sum().backward()
    versions = [net[3].version, net[6].version]
    net.load_state_dict(through_file(source.state_dict()))
    assert all(one is other for one, other in zip(parameters, net.parameters(), strict=True))
    assert source.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in source.state_dict().items())
    changed = here != 0.0 or there != 0.0
    assert ([net[3].version, net[6].version] > versions) == changed
    x = torch.randn(2, 2, 6, 6)
    assert torch.equal(net.eval()(x), source.eval()(x))
    net.train()(x).sum().backward()
    optimizer.step()
    version = net[3].version
    net.load_state_dict(net.state_dict())
    assert net[3].version == version


def test_positions_that_name_every_place_are_none():
    layer = small_linear()
    layer.load_state_dict({"weight": torch.ones(6), "positions": torch.arange(6, dtype=torch.int32)})
    assert layer.positions is None
    assert layer.dense_weight().tolist() == [[1, 1, 1], [1, 1, 1]]
    layer.load_state_dict({"weight": torch.ones(1), "positions": torch.tensor([4], dtype=torch.int32)})
    assert layer.dense_weight().tolist() == [[0, 0, 0], [0, 1, 0]]
    layer.load_state_dict({"weight": torch.ones(0), "positions": torch.tensor([], dtype=torch.int32)})
    assert layer.dense_weight().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_missing_and_unexpected_keys_are_told():
    layer = small_linear()
    with pytest.raises(RuntimeError, match=r"Missing key.*weight.*positions"):
        layer.load_state_dict({"positions": torch.tensor([0, 1, 2], dtype=torch.int32)})
    assert layer.positions.tolist() == [1, 3, 5]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*more"):
        layer.load_state_dict(layer.state_dict() | {"more": torch.ones(1)})
    with pytest.raises(RuntimeError, match="a dense weight is loaded before it is compressed"):
        layer.load_state_dict({"weight": torch.ones(2, 3)})


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_share_nothing_and_nobody_watches_them(way):
    net = compress(sparsify(conv_net(), 0.8, generator=seeded()))
    method = ndsnn.RigL(net, optimizer_of(net), 0.8, 10, update_every=1)
    if way == "deepcopy":
        twin = copy.deepcopy(net)
    else:
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert net[0].dense_gradient_sink() is not None
    assert twin[0].dense_gradient_sink() is None
    assert torch.equal(twin[3].mask(), method.layers[1].mask)
    assert recorded_distribution(twin) == recorded_distribution(net)
    with torch.no_grad():
        twin[3].weight.zero_()
        twin[3].positions.zero_()
    assert net[3].weight.all()
    assert net[3].positions.any()
    assert type(decompress(twin)[3]) is layers.Conv2d


def test_dtype_and_moving():
    net = compress(sparsify(conv_net(), 0.8).double())
    assert net[3].weight.dtype == torch.float64
    assert net[3].positions.dtype == torch.int32
    net.to(torch.bfloat16)
    assert net[3].weight.dtype == torch.bfloat16
    assert net[3].positions.dtype == torch.int32
    assert decompress(net)[3].weight.dtype == torch.bfloat16


# Whole networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        conv_net,
        lambda: ndsnn.models.vgg([8, "M", 16, "M"], num_classes=4, time_steps=2, in_channels=2),
        lambda: nn.Sequential(spiking.Conv2d(2, 4, 3, step_mode="s"), nn.Flatten(), nn.Linear(64, 3)),
    ],
    ids=["ndsnn layers", "vgg", "spikingjelly and torch layers"],
)
def test_there_and_back(build):
    torch.manual_seed(0)
    net = sparsify(build(), 0.7, "uniform", generator=seeded())
    net.eval()
    before = copy.deepcopy(net)
    modules = list(net.modules())
    x = torch.randn(3, 2, 6, 6)
    assert compress(net) is net
    assert not any(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules())
    assert layer_report(net) == layer_report(before)
    assert sparsity(net) == sparsity(before)
    assert recorded_distribution(net) == Distribution("uniform")
    torch.testing.assert_close(net(x), before(x), rtol=1e-5, atol=1e-6)
    for one, other in zip(sparse_layers(before), sparse_layers(net), strict=True):
        assert torch.equal(one.mask, alive_mask(other.module))
    assert decompress(net) is net
    assert all(one is other for one, other in zip(modules, net.modules(), strict=True))
    assert before.state_dict().keys() == net.state_dict().keys()
    for (key, one), other in zip(before.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    for one, other in zip(sparse_layers(before), sparse_layers(net), strict=True):
        assert torch.equal(one.mask, other.mask)
        assert not torch.signbit(other.weight[~other.mask]).any()
    assert recorded_distribution(net) == Distribution("uniform")
    assert torch.equal(net(x), before(x))
    assert not net.training


def test_what_is_true_of_the_present_goes_back():
    net = sparsify(conv_net(), 0.7, generator=seeded())
    net[6].weight.requires_grad_(False)
    bias = net[3].bias
    compress(net)
    assert net[3].bias is bias
    assert not net[6].weight.requires_grad
    net[6].weight.requires_grad_(True)
    net[3].weight.requires_grad_(False)
    net.half().eval()
    decompress(net)
    assert net[3].bias is bias
    assert net[6].weight.requires_grad
    assert not net[3].weight.requires_grad
    assert net[3].weight.dtype == torch.float16
    assert not net[3].training


def test_plain_layers_are_dense_and_not_under_training_and_full_masks_are():
    net = conv_net()
    set_masks(net, {"3": torch.ones(8, 6, 3, 3, dtype=torch.bool)}, Distribution())
    compress(net)
    assert [layer.name for layer in sparse_layers(net)] == ["3"]
    assert [net[i].positions for i in (0, 3, 6)] == [None] * 3
    assert all(alive_mask(net[i]).all() for i in (0, 3, 6))
    assert [row.alive for row in layer_report(net)] == [108, 432, 360]
    decompress(net)
    assert [layer.name for layer in sparse_layers(net)] == ["3"]


def test_compressing_twice_changes_nothing_more():
    net = compress(sparsify(conv_net(), 0.7))
    modules = list(net.modules())
    compress(net)
    assert all(one is other for one, other in zip(modules, net.modules(), strict=True))


def test_layers_made_compressed_become_layers_of_ndsnn():
    torch.manual_seed(0)
    conv = CompressedConv2d(
        2, 3, (3, 3), torch.ones(4), torch.tensor([0, 1, 20, 53]), torch.ones(3), stride=(2, 2), padding=(1, 1)
    )
    net = nn.Sequential(conv, nn.Flatten(), CompressedLinear(12, 2, torch.randn(24), sparse=False))
    x = torch.randn(2, 2, 4, 4)
    expected = net(x)
    decompress(net)
    assert type(net[0]) is layers.Conv2d
    assert type(net[2]) is layers.Linear
    assert torch.equal(net(x), expected)
    assert net[0].sparsity_mask.flatten().nonzero().flatten().tolist() == [0, 1, 20, 53]
    assert not hasattr(net[2], "sparsity_mask")


def test_to_dense_gives_a_plain_net():
    net = sparsify(conv_net(), 0.7, generator=seeded())
    values = {key: value.clone() for key, value in net.state_dict().items()}
    ndsnn.GMP(compress(net), optimizer_of(net), 0.9, 20)
    assert to_dense(net) is net
    assert not sparse_layers(net)
    assert recorded_distribution(net) is None
    assert sparsity(net) == 0
    assert all(torch.equal(net.state_dict()[key], value) for key, value in values.items())
    net(torch.randn(4, 2, 6, 6)).square().sum().backward()
    zeros = net[3].weight == 0
    assert (net[3].weight.grad[zeros] != 0).sum() > zeros.sum() / 2
    sparsify(net, 0.9)
    assert sparsity(net) == pytest.approx(0.9, abs=1e-12)


def test_sparsify_of_a_compressed_net():
    """A dense one is sparsified as the plain one would be; a sparse one is refused."""
    plain = sparsify(conv_net(), 0.8, generator=seeded())
    net = sparsify(compress(conv_net()), 0.8, generator=seeded())
    for one, other in zip(sparse_layers(plain), sparse_layers(net), strict=True):
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.active_values(), other.active_values())
    with pytest.raises(SparsityError, match="sparse already"):
        sparsify(net, 0.9)


def test_set_masks_of_a_compressed_net():
    net = compress(sparsify(conv_net(), 0.7, generator=seeded()))
    before = net[3].dense_weight().detach()
    given = torch.rand(8, 6, 3, 3, generator=seeded()) < 0.5
    set_masks(net, {"3": given}, Distribution("er"))
    assert torch.equal(net[3].mask(), given)
    assert torch.equal(net[3].dense_weight(), torch.where(given, before, 0.0))
    assert recorded_distribution(net) == Distribution("er")
    with pytest.raises(SparsityError, match=r"'3' has shape \(432,\), its weight \(8, 6, 3, 3\)"):
        set_masks(net, {"3": given.flatten()}, Distribution())


def test_a_sparsified_layer_inside_carries_its_distribution_along():
    net = nn.Sequential(nn.Sequential(nn.Linear(20, 20)), nn.Linear(20, 5))
    sparsify(net[0][0], 0.3, "uniform")
    compress(net)
    assert recorded_distribution(net) == Distribution("uniform")


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


def shared():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    return net


def twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Conv2d(4, 4, 3, groups=2), "layer '1' has groups=2"),
        (lambda: nn.Conv2d(4, 4, 3, dilation=2), "layer '1' has dilation"),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "layer '1' has padding_mode='circular'"),
        (lambda: nn.Conv2d(4, 4, 4, padding="same"), "layer '1' has padding='same'"),
        (lambda: nn.Conv1d(4, 4, 3), "layer '1' is a Conv1d"),
        (lambda: nn.ConvTranspose2d(4, 4, 3), "layer '1' is a ConvTranspose2d"),
        (Scaled, "layer '1' .Scaled. has 'scale'"),
        (shared, "'1.0' and '1.1' share a weight"),
        (twice, "'1.0' and '1.2' share a weight"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "layer '1' has no plain"),
    ],
)
def test_what_cannot_be_compressed_is_refused_before_anything_changes(make, words):
    net = nn.Sequential(nn.Linear(4, 4), make())
    modules = list(net.modules())
    with pytest.raises(SparsityError, match=words):
        compress(net)
    assert all(one is other for one, other in zip(modules, net.modules(), strict=True))
    assert net[0].weight.shape == (4, 4)


def test_a_layer_alone_is_refused():
    with pytest.raises(SparsityError, match="put it in a Sequential"):
        compress(nn.Linear(4, 4))
    with pytest.raises(SparsityError, match="put it in a Sequential"):
        decompress(small_linear())
