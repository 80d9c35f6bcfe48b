"""NDSNN with densities by LAMP: scores, counts and limits, worked out by hand and by brute force."""

import itertools

import pytest
import torch
from small_nets import given_step, named_net, optimizer_of

from ndsnn.errors import ConfigError, SparsityError
from ndsnn.sparse.methods import NDSNN, LampNDSNN
from ndsnn.sparse.methods.global_pruning import global_counts
from ndsnn.sparse.methods.lamp import lamp_scores
from ndsnn.sparse.sparsify import Distribution, set_masks, sparsify

SHAPES = {"a": (6, 5), "b": (12, 6, 3, 3), "c": (7, 4)}


def test_scores_by_hand():
    """Squares 1, 4, 4, 16 of 2, 1, 4, 2: 1/25, then 4/24 and 4/20 for the two equal ones, and 1."""
    scores = lamp_scores(torch.tensor([2.0, 1.0, 4.0, 2.0]))
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx([4 / 24, 1 / 25, 1.0, 4 / 20], rel=1e-15)


def test_scores_do_not_depend_on_the_scale_of_a_layer():
    magnitudes = torch.rand(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lamp_scores(magnitudes * 1024), lamp_scores(magnitudes), rtol=0, atol=0)


def test_zeros_score_nothing():
    assert lamp_scores(torch.zeros(3)).tolist() == [0, 0, 0]
    assert lamp_scores(torch.tensor([0.0, 3.0])).tolist() == [0, 1]


def test_limited_counts_are_the_best_that_the_limits_allow():
    """Against every way to share the total: the chosen scores have the largest sum."""
    source = torch.Generator().manual_seed(1)
    for _ in range(40):
        scores = {name: torch.rand(size, generator=source) for name, size in (("a", 4), ("b", 5), ("c", 3))}
        limits = {"a": (1, 3), "b": (2, 5), "c": (1, 2)}
        total = int(torch.randint(4, 11, (), generator=source))
        best = {name: score.sort(descending=True).values.cumsum(0) for name, score in scores.items()}
        shares = itertools.product(*(range(low, high + 1) for low, high in limits.values()))
        worth = {
            share: sum(float(best[name][n - 1]) for name, n in zip(limits, share, strict=True))
            for share in shares
            if sum(share) == total
        }
        counts = global_counts(scores, total, limits=limits)
        assert tuple(counts.values()) == max(worth, key=worth.__getitem__)


def test_limits_that_cannot_hold_the_total():
    scores = {"a": torch.rand(4), "b": torch.rand(4)}
    with pytest.raises(SparsityError, match="at least 2 and at most 4"):
        global_counts(scores, 5, limits={"a": (1, 2), "b": (1, 2)})


def rounds_of(method, net, optimizer):
    """The counts of every layer after each round, under gradients of its own."""
    source = torch.Generator().manual_seed(5)
    for _ in range(method.total_steps):
        gradients = {name: torch.randn(w.shape, generator=source) for name, w in weights_of(net).items()}
        if update := given_step(net, optimizer, method, gradients):
            yield {row.layer: row.nnz for row in update.layers}


def weights_of(net):
    return {name: layer.weight for name, layer in net.items()}


def trained(cls, scale, final=0.9, **settings):
    torch.manual_seed(0)
    net = named_net(SHAPES)
    with torch.no_grad():
        net["b"].weight[:, 0].mul_(scale)
    sparsify(net, 0.5, generator=torch.Generator().manual_seed(0))
    optimizer = optimizer_of(net)
    method = cls(net, optimizer, final, 40, update_every=5, stop_fraction=1.0, **settings)
    return list(rounds_of(method, net, optimizer))


def test_the_total_is_ndsnns_and_the_layers_stay_within_the_limits():
    fixed, own = trained(NDSNN, 30.0), trained(LampNDSNN, 30.0)
    assert [sum(row.values()) for row in own] == [sum(row.values()) for row in fixed]
    assert own != fixed
    for mine, theirs in zip(own, fixed, strict=True):
        for name, count in mine.items():
            assert theirs[name] // 2 <= count <= 2 * theirs[name]


def test_limits_of_one_give_ndsnn():
    assert trained(LampNDSNN, 30.0, lowest=1.0, highest=1.0) == trained(NDSNN, 30.0)


def test_a_layer_of_a_few_large_weights_loses():
    """b's worth is in a sixth of its weights once they are 30 times as large: the others score next to nothing."""
    assert trained(LampNDSNN, 30.0)[-1]["b"] < trained(LampNDSNN, 1.0)[-1]["b"]


def test_dense_layers_stay_dense():
    net = named_net(SHAPES)
    sparsify(net, 0.5, dense_layers=["c"], generator=torch.Generator().manual_seed(0))
    optimizer = optimizer_of(net)
    method = LampNDSNN(net, optimizer, 0.9, 40, update_every=5, stop_fraction=1.0)
    assert all(row["c"] == 28 for row in rounds_of(method, net, optimizer))


def test_a_network_that_cannot_reach_the_limits_keeps_the_total():
    """Nearly all alive weights are in a; twice NDSNN's count of the others is more than what they have."""
    net = named_net({"a": (20, 20), "b": (20, 20)})
    alive = {"a": torch.ones(20, 20, dtype=torch.bool), "b": torch.zeros(20, 20, dtype=torch.bool)}
    alive["b"].view(-1)[:4] = True
    set_masks(net, alive, Distribution())
    optimizer = optimizer_of(net)
    method = LampNDSNN(net, optimizer, 0.6, 8, update_every=1, stop_fraction=1.0, highest=1.0)
    for counts in rounds_of(method, net, optimizer):
        assert counts["b"] <= 4
    assert method.at_final_sparsity


@pytest.mark.parametrize("limits", [(0.0, 2.0), (1.5, 2.0), (0.5, 0.9), (0.5, float("inf")), (float("nan"), 2.0)])
def test_bad_limits(limits):
    net = sparsify(named_net(SHAPES), 0.5)
    with pytest.raises(ConfigError, match="lowest"):
        LampNDSNN(net, optimizer_of(net), 0.9, 40, lowest=limits[0], highest=limits[1])
