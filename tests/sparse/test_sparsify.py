"""What `sparsify` makes of a network, and what can be asked of it afterwards."""

import copy
import io

import pytest
import torch
from small_nets import conv_net, masks_of, named_net, start, train_step
from torch import nn
from torch.nn.utils import parametrizations, prune

from ndsnn.errors import ConfigError, NotSparsifiedError, SparsityError
from ndsnn.sparse.methods import NDSNN
from ndsnn.sparse.sparsify import (
    Distribution,
    layer_report,
    recorded_distribution,
    set_masks,
    sparsify,
    sparsity,
    to_dense,
)
from ndsnn.sparse.topology import pack_mask, sparse_layers, unpack_mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def masks(net):
    return {layer.name: layer.mask for layer in sparse_layers(net)}


@pytest.mark.parametrize("distribution", ["erk", "er", "uniform"])
@pytest.mark.parametrize("target", [0.0, 0.5, 0.9, 0.95, 0.97])
def test_nnz_is_exact(target, distribution):
    net = sparsify(conv_net(), target, distribution, generator=seeded())
    alive = round(900 * (1 - target))
    assert sum(int(mask.sum()) for mask in masks(net).values()) == alive
    assert sparsity(net) == pytest.approx(1 - alive / 900, abs=1e-12)
    assert sum(int((m.weight != 0).sum()) for m in net if hasattr(m, "weight") and m.weight.dim() > 1) == alive


def test_the_weights_that_stay_keep_their_values_and_the_others_are_plus_zero():
    net = conv_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    sparsify(net, 0.8, generator=seeded())
    found = masks(net)
    assert set(found) == {"0", "3", "6"}
    for name, p in net.named_parameters():
        layer, kind = name.rsplit(".", 1)
        mask = found[layer] if layer in found and kind == "weight" else torch.ones_like(p, dtype=torch.bool)
        assert torch.equal(p[mask], before[name][mask])
        assert not p[~mask].any()
        assert not torch.signbit(p[~mask]).any()


def test_nan_and_infinity_in_inactive_weights_are_wiped():
    net = nn.Sequential(nn.Linear(10, 10))
    with torch.no_grad():
        net[0].weight[:, ::2] = torch.nan
        net[0].weight[:, 1::4] = torch.inf
        net[0].weight[:, 3::4] = -1.0
    sparsify(net, 0.5, generator=seeded())
    dead = net[0].weight[~net[0].sparsity_mask]
    assert torch.equal(dead, torch.zeros(50))
    assert not torch.signbit(dead).any()


def test_alive_is_told_by_the_mask_and_not_by_the_value():
    net = sparsify(conv_net(), 0.5, generator=seeded())
    expected = [(r.name, r.shape, r.weights, r.alive) for r in layer_report(net)]
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert [(r.name, r.shape, r.weights, r.alive) for r in layer_report(net)] == expected
    assert sparsity(net) == 0.5
    assert [row.sparsity for row in layer_report(net)] == [1 - a / w for _, _, w, a in expected]


def test_report_of_a_dense_net():
    rows = layer_report(conv_net())
    assert [(r.name, r.weights, r.alive, r.sparsity) for r in rows] == [
        ("0", 108, 108, 0.0),
        ("3", 432, 432, 0.0),
        ("6", 360, 360, 0.0),
    ]
    assert sparsity(conv_net()) == 0


def test_the_state_dict_has_plain_keys():
    net = conv_net()
    keys = list(net.state_dict())
    sparsify(net, 0.9)
    assert list(net.state_dict()) == keys
    dense = conv_net(seed=1)
    dense.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(dense[3].weight, net[3].weight)
    assert type(net[3].weight) is nn.Parameter


def test_deepcopy_keeps_masks_and_distribution_and_shares_nothing():
    net = sparsify(conv_net(), 0.9, "uniform", generator=seeded())
    twin = copy.deepcopy(net)
    assert all(torch.equal(a, b) for a, b in zip(masks(net).values(), masks(twin).values(), strict=True))
    assert recorded_distribution(twin) == Distribution("uniform")
    twin[0].sparsity_mask.fill_(True)
    assert int(net[0].sparsity_mask.sum()) == 11  # 10 % of 108


def test_deepcopy_in_mid_run_trains_on_its_own():
    net, optimizer, method = start("ndsnn")
    for step in range(5):
        train_step(net, optimizer, method, step)
    twin = copy.deepcopy(net)
    before = {name: mask.clone() for name, mask in masks(net).items()}
    other = torch.optim.SGD(twin.parameters(), 0.1)
    own = NDSNN(twin, other, 0.95, 10, update_every=2)
    for step in range(8):
        train_step(twin, other, own, step)
    assert sparsity(twin) == pytest.approx(0.95, abs=1e-12)
    assert all(torch.equal(mask, before[name]) for name, mask in masks(net).items())


def test_saving_the_whole_module_keeps_the_masks():
    net = sparsify(conv_net(), 0.9, generator=seeded())
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert all(torch.equal(masks(twin)[name], mask) for name, mask in masks(net).items())


@pytest.mark.parametrize("when", ["before sparsify", "before the method", "in mid-run"])
@pytest.mark.parametrize("target", [torch.float64, torch.bfloat16, torch.channels_last])
def test_moving_the_net_and_training_on(target, when):
    def move(net):
        return net.to(memory_format=target) if target is torch.channels_last else net.to(target)

    net = conv_net()
    if when == "before sparsify":
        move(net)
    sparsify(net, 0.5, generator=seeded())
    if when == "before the method":
        move(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    method = NDSNN(net, optimizer, 0.9, 12, update_every=2)
    if when == "in mid-run":
        for step in range(3):
            train_step(net, optimizer, method, step)
        move(net)
        for state in optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].to(next(net.parameters()).dtype)
    assert all(mask.dtype == torch.bool for mask in masks(net).values())
    for step in range(method.steps_done, 12):
        train_step(net, optimizer, method, step)
    assert sparsity(net) == pytest.approx(0.9, abs=1e-12)
    for layer in sparse_layers(net):
        assert not layer.weight[~layer.mask].any()


def test_channels_last_rewires_the_same_places():
    runs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = sparsify(conv_net(dtype=torch.float64), 0.5, generator=seeded()).to(memory_format=layout)
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        method = NDSNN(net, optimizer, 0.9, 12, update_every=2)
        for step in range(12):
            train_step(net, optimizer, method, step)
        runs.append(masks_of(method))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_the_generator_decides():
    first, again, other = (sparsify(conv_net(), 0.8, generator=seeded(s)) for s in (3, 3, 4))
    assert all(torch.equal(masks(first)[name], masks(again)[name]) for name in masks(first))
    assert not all(torch.equal(masks(first)[name], masks(other)[name]) for name in masks(first))
    torch.manual_seed(7)
    default = sparsify(conv_net(), 0.8)
    with_seed = conv_net(seed=0)
    torch.manual_seed(0)
    assert not torch.equal(sparsify(with_seed, 0.8)[6].sparsity_mask, first[6].sparsity_mask)
    assert sparsity(default) == sparsity(first)


def test_the_order_of_layers_does_not_matter():
    shapes = {"a": (6, 7), "b": (4, 3, 3, 3), "c": (6, 7)}
    one = sparsify(named_net(shapes), 0.6, generator=seeded())
    other = sparsify(named_net({name: shapes[name] for name in "cba"}), 0.6, generator=seeded())
    assert all(torch.equal(masks(one)[name], masks(other)[name]) for name in shapes)
    assert not torch.equal(masks(one)["a"], masks(one)["c"])


def test_places_are_drawn_evenly():
    hits = torch.zeros(40)
    for seed in range(400):
        hits += sparsify(nn.Linear(8, 5), 0.5, generator=seeded(seed)).sparsity_mask.flatten()
    assert ((hits - 200).abs() < 5 * 10).all()  # standard deviation of Binomial(400, 1/2): 10


def test_norms_biases_and_embeddings_stay_dense():
    net = nn.Sequential(nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 6))
    sparsify(net, 0.5)
    assert list(masks(net)) == ["2"]
    assert all(buffer.shape == (6, 6) for buffer in net.buffers())


def test_dense_layers_count_in_the_sparsity():
    net = sparsify(conv_net(), 0.8, dense_layers=["0"])
    assert masks(net)["0"].all()
    assert sum(int(m.sum()) for m in masks(net).values()) == 180
    assert int(sparsify(conv_net(), 0.8, dense_layers="0")[0].sparsity_mask.sum()) == 108


def test_a_shared_weight_counts_once():
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    net[1].weight = net[0].weight
    sparsify(net, 0.5)
    assert [(row.name, row.alive) for row in layer_report(net)] == [("0", 18)]


@pytest.mark.parametrize("kind", ["parametrization", "prune"])
def test_a_weight_that_is_no_plain_parameter_is_refused(kind):
    net = conv_net()
    if kind == "prune":
        prune.random_unstructured(net[3], "weight", 0.5)
    else:
        parametrizations.weight_norm(net[3])
    with pytest.raises(SparsityError, match="'3'"):
        sparsify(net, 0.5)
    assert "sparsity_mask" not in dict(net[0].named_buffers())


def test_twice_is_refused_and_changes_nothing():
    net = sparsify(conv_net(), 0.5, generator=seeded())
    before = {name: mask.clone() for name, mask in masks(net).items()}
    with pytest.raises(SparsityError, match="to_dense"):
        sparsify(net, 0.9)
    assert all(torch.equal(mask, before[name]) for name, mask in masks(net).items())


def test_errors_before_anything_changes():
    with pytest.raises(SparsityError, match="no conv or linear layer"):
        sparsify(nn.BatchNorm2d(3), 0.5)
    net = conv_net()
    with pytest.raises(ConfigError, match="erk"):
        sparsify(net, 0.5, "erkk")
    with pytest.raises(SparsityError):
        sparsify(net, 1.0)
    assert not masks(net)
    with pytest.raises(NotSparsifiedError, match="sparsify"):
        NDSNN(net, torch.optim.SGD(net.parameters(), 0.1), 0.9, 100)


def test_to_dense_lets_zeros_grow_again():
    net, optimizer, method = start("ndsnn")
    train_step(net, optimizer, method, 0)
    values = net[3].weight.detach().clone()
    assert to_dense(net) is net
    assert not masks(net)
    assert recorded_distribution(net) is None
    assert sparsity(net) == 0
    assert torch.equal(net[3].weight, values)
    optimizer.zero_grad()
    net(torch.randn(4, 2, 6, 6)).square().sum().backward()
    assert (net[3].weight.grad != 0).sum() > 350
    sparsify(net, 0.9)
    assert sparsity(net) == pytest.approx(0.9, abs=1e-12)


def test_set_masks():
    net = conv_net()
    source = sparsify(conv_net(seed=1), 0.9, generator=seeded())
    given = masks(source)
    assert set_masks(net, given, Distribution("uniform")) is net
    assert all(torch.equal(masks(net)[name], given[name]) for name in given)
    assert all(not layer.weight[~layer.mask].any() for layer in sparse_layers(net))
    assert recorded_distribution(net) == Distribution("uniform")
    given["0"].fill_(True)
    assert not masks(net)["0"].all()
    replaced = {name: ~mask for name, mask in masks(net).items()}
    set_masks(net, replaced, Distribution())
    assert all(torch.equal(masks(net)[name], replaced[name]) for name in replaced)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"1": torch.ones(6, dtype=torch.bool)}, "'1'"),
        ({"nowhere": torch.ones(6, dtype=torch.bool)}, "'nowhere'"),
        ({"6": torch.ones(72, 5, dtype=torch.bool)}, r"'6' has shape \(72, 5\), its weight \(5, 72\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(bad, words):
    net = conv_net()
    good = {"0": torch.zeros(6, 2, 3, 3, dtype=torch.bool)}
    with pytest.raises(SparsityError, match=words):
        set_masks(net, good | bad, Distribution())
    assert not masks(net)


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 3), (2, 4, 3, 3)])
def test_packed_masks(shape):
    mask = torch.rand(shape, generator=seeded()) < 0.5
    bits = pack_mask(mask)
    assert bits.numel() == (mask.numel() + 7) // 8
    assert torch.equal(unpack_mask(bits, shape), mask)


def test_the_first_place_is_in_the_lowest_bit():
    places = torch.tensor([1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=torch.bool)
    assert pack_mask(places).tolist() == [5, 1]


def test_dense_layers_of_a_submodule_keep_their_meaning_in_the_parent():
    net = nn.Sequential(nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)), nn.Linear(20, 5))
    sparsify(net[0], 0.3, dense_layers=["0"])
    method = NDSNN(net, torch.optim.SGD(net.parameters(), 0.1), 0.45, 100)
    assert method.final_counts == {"0.0": 400, "0.1": 40}


def test_a_method_after_to_dense_says_what_is_wrong():
    net = nn.Sequential(nn.Linear(20, 20))
    sparsify(net, 0.5)
    method = NDSNN(net, torch.optim.SGD(net.parameters(), 0.1), 0.8, 100)
    to_dense(net)
    with pytest.raises(NotSparsifiedError, match="to_dense"):
        method.step()
