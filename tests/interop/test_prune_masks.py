"""Masks of torch's own pruning, there and back: against torch's own masked weights, and masks given by hand."""

import copy

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import parametrizations, prune

import ndsnn
from ndsnn.errors import ConfigError, NotSparsifiedError, SparsityError

KEYS = ["0.weight", "0.bias", "2.weight", "2.bias"]


def two_layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def masks(net):
    return {
        name: module.sparsity_mask.clone()
        for name, module in net.named_modules()
        if hasattr(module, "sparsity_mask")
    }


def l1(net):
    for index in (0, 2):
        prune.l1_unstructured(net[index], "weight", 0.75)


def twice(net):
    """Two prunings of one weight: torch holds a container of both."""
    prune.random_unstructured(net[0], "weight", 0.5)
    prune.l1_unstructured(net[0], "weight", 6)
    prune.ln_structured(net[2], "weight", 1, n=2, dim=0)


def from_mask(net):
    prune.custom_from_mask(net[0], "weight", torch.arange(48).view(8, 6) % 3 == 0)
    prune.custom_from_mask(net[2], "weight", torch.arange(32).view(4, 8) % 5 == 1)


def everywhere(net):
    prune.global_unstructured([(net[0], "weight"), (net[2], "weight")], prune.L1Unstructured, amount=60)


def ao(net):
    sparsifier = WeightNormSparsifier(0.5, (1, 4), 4)
    sparsifier.prepare(net, None)
    sparsifier.step()


WAYS = [l1, twice, from_mask, everywhere, ao]


@pytest.mark.parametrize("way", WAYS)
def test_the_network_is_as_after_sparsify(way):
    net, plain = two_layers(), two_layers()
    way(net)
    x = torch.randn(5, 6)
    expected = net(x)
    weights = {index: net[index].weight.detach().clone() for index in (0, 2)}
    assert list(net.state_dict()) != KEYS
    assert ndsnn.from_prune(net) is net
    assert list(net.state_dict()) == list(plain.state_dict()) == KEYS
    assert torch.equal(net(x), expected)
    for index, weight in weights.items():
        module = net[index]
        assert type(module) is nn.Linear
        assert isinstance(module.weight, nn.Parameter)
        assert not module._forward_pre_hooks
        assert torch.equal(module.weight, weight)
        assert torch.equal(module.sparsity_mask, weight != 0)
        assert not torch.signbit(module.weight[~module.sparsity_mask]).any()
    assert [p.shape for p in net.parameters()] == [p.shape for p in plain.parameters()]
    alive = sum(int((weight != 0).sum()) for weight in weights.values())
    assert ndsnn.sparsity(net) == 1 - alive / 80
    assert ndsnn.sparsity(copy.deepcopy(net)) == ndsnn.sparsity(net)


def test_masks_given_by_hand():
    net = two_layers()
    from_mask(net)
    ndsnn.from_prune(net)
    assert net[0].sparsity_mask.flatten().nonzero().flatten().tolist() == list(range(0, 48, 3))
    assert net[2].sparsity_mask.flatten().nonzero().flatten().tolist() == list(range(1, 32, 5))


@pytest.mark.parametrize("way", [l1, ao])
def test_nothing_is_left_of_what_stood_at_pruned_places(way):
    """0 · NaN is NaN in torch's forms."""
    net = two_layers()
    way(net)
    original = net[0].weight_orig if way is l1 else net[0].parametrizations.weight.original
    with torch.no_grad():
        original[net[0].weight == 0] = torch.nan
    assert net(torch.ones(1, 6)).isnan().any()
    ndsnn.from_prune(net)
    assert net(torch.ones(1, 6)).isfinite().all()


@pytest.mark.parametrize("way", [l1, ao])
def test_an_optimizer_made_before_goes_on(way):
    """Imported, sparsified or left to torch: the same three steps."""
    runs = []
    for imported in (True, False):
        net = two_layers()
        way(net)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        for step in range(4):
            if step == 1 and imported:
                ndsnn.from_prune(net)
                ndsnn.Static(net, optimizer, ndsnn.sparsity(net), 3).attach(optimizer)
            optimizer.zero_grad()
            torch.manual_seed(step)
            net(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
        net(torch.zeros(1, 6))  # which brings torch's `weight` up to date
        runs.append(net)
    for index in (0, 2):
        assert torch.equal(*(run[index].weight.detach() for run in runs))


def test_layers_without_a_mask_stay_dense():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    prune.random_unstructured(net[0], "weight", 0.5)
    prune.random_unstructured(net[1], "weight", 0.5)
    ndsnn.from_prune(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    method = ndsnn.NDSNN(net, optimizer, 0.6, 8, update_every=2)
    assert method.distribution.dense_layers == ("2",)
    assert [layer.nnz for layer in method.layers] == [24, 32, 32]
    assert method.final_counts["2"] == 32
    assert sum(method.final_counts.values()) == 58  # 0.4 · 144 = 57.6


def trained(net, method, steps):
    for step in range(steps):
        torch.manual_seed(step)
        method.optimizer.zero_grad()
        net(torch.randn(5, 6)).square().mean().backward()
        method.optimizer.step()
        method.step()


@pytest.mark.parametrize("name", ["set", "rigl", "dst-ee", "static"])
@pytest.mark.parametrize("way", WAYS)
def test_methods_of_constant_sparsity_keep_the_imported_counts(name, way):
    net = two_layers()
    way(net)
    ndsnn.from_prune(net)
    counts = {name: int(mask.sum()) for name, mask in masks(net).items()}
    before = masks(net)
    settings = {} if name == "static" else {"update_every": 2}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    method = ndsnn.methods[name](net, optimizer, ndsnn.sparsity(net), 12, **settings)
    trained(net, method, 12)
    assert {name: int(mask.sum()) for name, mask in masks(net).items()} == counts
    moved = any(not torch.equal(mask, before[name]) for name, mask in masks(net).items())
    assert moved == (name != "static")


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
def test_a_method_that_prunes_on_ends_at_the_counts_of_its_distribution(distribution):
    net = two_layers()
    prune.l1_unstructured(net[0], "weight", 8)
    prune.l1_unstructured(net[2], "weight", 24)
    ndsnn.from_prune(net, distribution)
    method = ndsnn.NDSNN(net, torch.optim.SGD(net.parameters(), 0.1), 0.75, 12, update_every=2)
    trained(net, method, 12)
    # 20 alive: ERK in proportion to 6 + 8 and 8 + 4, uniform to 48 and 32.
    expected = {"0": 11, "2": 9} if distribution == "erk" else {"0": 12, "2": 8}
    assert {name: int(mask.sum()) for name, mask in masks(net).items()} == expected


def test_a_sparsity_that_is_not_the_imported_one_is_an_error():
    net = two_layers()
    prune.l1_unstructured(net[0], "weight", 25)
    ndsnn.from_prune(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(SparsityError, match=r"0\.3125, but final_sparsity is 0\.3.*final_sparsity=ndsnn.sparsity"):
        ndsnn.RigL(net, optimizer, 0.3, 12)
    with pytest.raises(SparsityError, match=r"more than final_sparsity 0\.25"):
        ndsnn.NDSNN(net, optimizer, 0.25, 12)


@pytest.mark.parametrize("form", ["masked", "accelerated"])
def test_there_and_back(form):
    torch.manual_seed(0)
    net = ndsnn.models.vgg([4, "M", 6, "M"], num_classes=3, time_steps=2, in_channels=1)
    plain = list(net.state_dict())
    ndsnn.sparsify(net, 0.6, dense_layers=["classifier*"])
    before, report = masks(net), ndsnn.layer_report(net)
    x = torch.randn(2, 1, 8, 8)
    expected = net(x)
    parameters = {id(p) for p in net.parameters()}
    given = ndsnn.accelerate(net, backend="reference") if form == "accelerated" else net
    pruned = ndsnn.to_prune(given)
    assert (pruned is net) == (form == "masked")
    dense = [row.name for row in report if row.name.startswith("classifier")]
    assert dense
    for row in report:
        module = pruned.get_submodule(row.name)
        assert prune.is_pruned(module) == (row.name not in dense)
        if row.name not in dense:
            assert torch.equal(module.weight_mask.bool(), before[row.name])
    assert not masks(pruned)
    assert torch.allclose(pruned(x), expected, atol=1e-6)
    back = ndsnn.from_prune(pruned)
    assert list(back.state_dict()) == plain
    assert ndsnn.layer_report(back) == report
    assert all(torch.equal(mask, before[name]) for name, mask in masks(back).items())
    if form == "masked":
        assert {id(p) for p in back.parameters()} == parameters
    method = ndsnn.SET(back, torch.optim.SGD(back.parameters(), 0.1), 0.6, 12)
    assert set(method.distribution.dense_layers) == set(dense)


def test_torch_goes_on_pruning_what_was_exported():
    net = ndsnn.to_prune(ndsnn.sparsify(two_layers(), 0.5))
    before = net[0].weight_mask.clone()
    prune.l1_unstructured(net[0], "weight", 3)
    assert int(net[0].weight_mask.sum()) == int(before.sum()) - 3
    prune.remove(net[0], "weight")
    assert int((net[0].weight != 0).sum()) == int(before.sum()) - 3


def test_spikingjelly_layers():
    net = nn.Sequential(layer.Conv2d(1, 4, 3, bias=False), layer.Flatten(), layer.Linear(16, 3, bias=False))
    prune.l1_unstructured(net[0], "weight", 0.5)
    prune.l1_unstructured(net[2], "weight", 0.5)
    ndsnn.from_prune(net)
    assert ndsnn.sparsity(net) == 0.5
    assert list(net.state_dict()) == ["0.weight", "2.weight"]


def test_layers_that_share_weight_and_mask():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    mask = torch.eye(4)
    for module in net:
        prune.custom_from_mask(module, "weight", mask)
    ndsnn.from_prune(net)
    assert net[0].weight is net[1].weight
    assert torch.equal(net[1].weight != 0, mask.bool())


def bias(net):
    prune.l1_unstructured(net[2], "bias", 2)


def embedding(net):
    net.append(nn.Embedding(3, 4))
    prune.l1_unstructured(net[3], "weight", 2)


def another_parametrization(net):
    parametrizations.orthogonal(net[2])


def two_parametrizations(net):
    parametrizations.weight_norm(net[2])
    WeightNormSparsifier(0.5, (1, 4), 4).prepare(net, [{"tensor_fqn": "2.weight"}])


def half(net):
    from_mask(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), net[2]))
    net[2].weight_mask[0, 1] = 0.5


def empty(net):
    prune.custom_from_mask(net[2], "weight", torch.zeros(4, 8))


def sparse_already(net):
    ndsnn.sparsify(net[2], 0.5)


def one_weight_two_masks(net):
    net.append(nn.Linear(6, 8))
    net[3].weight = net[0].weight_orig
    prune.l1_unstructured(net[3], "weight", 5)


def one_weight_one_mask(net):
    net.append(nn.Linear(6, 8))
    net[3].weight = net[0].weight_orig


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bias, "mask for 'bias' of '2'"),
        (embedding, r"mask for 'weight' of '3' \(Embedding\)"),
        (another_parametrization, "layer '2' has neither"),
        (two_parametrizations, "'2' has a mask and _WeightNorm as parametrizations"),
        (half, "'2' has values other than 0 and 1"),
        (empty, "'2' leaves no weight alive"),
        (sparse_already, "'2' is sparse already"),
        (one_weight_two_masks, "layers '0' and '3' share a weight"),
        (one_weight_one_mask, "'3' shares the weight of layer '0'"),
    ],
)
def test_what_cannot_be_imported_is_named_and_changes_nothing(spoil, message):
    net = two_layers()
    prune.l1_unstructured(net[0], "weight", 10)
    spoil(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(SparsityError, match=message):
        ndsnn.from_prune(net)
    after = net.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert prune.is_pruned(net[0])


def test_there_must_be_a_mask():
    with pytest.raises(SparsityError, match="torch holds no mask"):
        ndsnn.from_prune(two_layers())
    with pytest.raises(NotSparsifiedError):
        ndsnn.to_prune(two_layers())
    net = two_layers()
    l1(net)
    with pytest.raises(ConfigError, match="did you mean 'erk'"):
        ndsnn.from_prune(net, "erkk")
    with pytest.raises(SparsityError, match="from_prune"):
        ndsnn.sparsify(net, 0.5)
