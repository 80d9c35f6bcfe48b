"""Online pruning: which weights are candidates, and in which order they die."""

import numpy as np
import pytest
import torch
from small_nets import named_net, start, train_step
from torch import nn

from ndsnn.errors import ConfigError
from ndsnn.sparse.methods import OnlinePruning
from ndsnn.sparse.selection import ranks
from ndsnn.sparse.sparsify import sparsify


def given(values, **settings):
    net = nn.ModuleDict({"a": nn.Linear(len(values), 1, bias=False)})
    set_weights(net, values)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    return net, OnlinePruning(net, optimizer, 0.5, 4, stop_fraction=1.0, **settings)


def set_weights(net, values):
    with torch.no_grad():
        net["a"].weight.copy_(torch.tensor([values]))


def alive(net):
    return torch.nonzero(net["a"].sparsity_mask.flatten()).flatten().tolist()


def test_by_hand():
    """n(1) = 4 + 4·(1/2)³ = 4.5 → 5 of 8: three die. w5 and w7 have shrunk to under half, w2 is small."""
    net, method = given([1.0, 0.2, -0.06, 0.3, 0.4, -5.0, 0.7, 9.0], update_every=2, threshold=0.05, shrink=0.5)
    set_weights(net, [1.0, 0.2, -0.04, 0.3, 0.4, -2.0, 0.7, 4.0])
    assert method.candidates(method.layers[0]).tolist() == [False, False, True, False, False, True, False, True]
    assert method.drop_scores(method.layers[0]).tolist() == [7, 3, 0, 4, 5, 1, 6, 2]
    method.step()
    assert len(alive(net)) == 8
    assert method.step().round == 1
    assert alive(net) == [0, 1, 3, 4, 6]
    # Since the last check w0 has halved exactly, w3 has more than halved; w1 is the smallest.
    assert method.records["magnitude"]["a"].tolist() == pytest.approx([1.0, 0.2, 0.3, 0.4, 0.7])
    set_weights(net, [0.5, 0.11, 0, 0.149, 0.4, 0, 0.7, 0])
    assert method.candidates(method.layers[0]).tolist() == [False, False, True, False, False]
    method.step()
    assert method.step().round == 2
    assert alive(net) == [0, 1, 4, 6]
    assert "magnitude" not in method.records


def test_more_candidates_than_may_die():
    """Three of eight die; of five candidates those of smallest |w|, and of equal ones those that stand first."""
    net, method = given([8.0, 8.0, 8.0, 8.0, 8.0, 0.5, 0.6, 0.7], update_every=2, shrink=0.5, threshold=0.0)
    set_weights(net, [3.0, 2.0, 3.0, 3.0, -3.0, 0.5, 0.6, 0.7])
    method.step()
    method.step()
    assert alive(net) == [3, 4, 5, 6, 7]


def test_without_criteria_it_is_gmp():
    runs = []
    for name, settings in (("gmp", {}), ("online", {"threshold": 0, "shrink": 0})):
        net, optimizer, method = start(name, **settings)
        for step in range(24):
            train_step(net, optimizer, method, step)
        runs.append(method.masks())
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_against_numpy(seed):
    """Noisy weights over all rounds; each round by a sort of tuples (not a candidate, |w|, place)."""
    torch.manual_seed(seed)
    net = sparsify(named_net({"a": (6, 7), "b": (5, 4, 3, 3)}), 0.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = OnlinePruning(net, optimizer, 0.8, 12, update_every=2, threshold=0.1, shrink=0.7)
    before = {name: np.abs(net[name].weight.detach().numpy().ravel()) for name in "ab"}
    dead = {name: np.zeros(before[name].size, bool) for name in "ab"}
    died = []
    for _ in range(12):
        with torch.no_grad():
            for layer in net.values():
                layer.weight.mul_((torch.rand_like(layer.weight) * 12).round() / 8)
        now = {name: np.abs(net[name].weight.detach().numpy().ravel()) for name in "ab"}
        update = method.step()
        if update is None:
            continue
        for name, row in zip("ab", update.layers, strict=True):
            listed = [
                (not (now[name][i] < 0.1 or now[name][i] < np.float32(0.7) * before[name][i]), now[name][i], i)
                for i in range(len(now[name]))
                if not dead[name][i]
            ]
            for *_, place in sorted(listed)[: row.dropped]:
                dead[name][place] = True
            died.append(row.dropped)
            np.testing.assert_array_equal(net[name].sparsity_mask.numpy().ravel(), ~dead[name])
            before[name] = now[name]
    assert sum(died) == 222 - 44
    assert sum(count > 0 for count in died) > 4


def test_ranks_go_by_the_first_key_then_the_next_then_the_place():
    first = torch.tensor([True, False, True, False, False])
    second = torch.tensor([1.0, 3.0, 0.0, 2.0, 3.0])
    assert ranks(first, second).tolist() == [4, 1, 3, 0, 2]
    assert ranks(second).dtype == torch.float64


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": -1.0},
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"threshold": True},
        {"shrink": 1.5},
        {"shrink": -0.1},
        {"shrink": False},
    ],
)
def test_settings_are_checked(settings):
    net = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ConfigError, match=next(iter(settings))):
        OnlinePruning(net, None, 0.5, 8, **settings)
