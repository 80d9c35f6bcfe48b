"""The library against the float64 brute force of Eq. 4–9, round by round, on the layers of both networks."""

import math

import brute_force
import numpy as np
import pytest
import torch
from brute_force import NETWORKS, PAIRS
from small_nets import given_step, named_net
from torch import nn

from ndsnn.sparse.methods import NDSNN
from ndsnn.sparse.sparsify import Distribution, set_masks, sparsify


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("initial", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_scheduled_counts_of_the_full_networks(network, initial):
    """Every layer, every round, every pair; the masks are any of the right counts, since only those matter."""
    shapes = NETWORKS[network]()
    start = brute_force.erk_counts(shapes, initial)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    net = nn.ModuleDict({name: nn.Linear(1, size, bias=False, device="meta") for name, size in sizes.items()})
    net.to_empty(device="cpu")
    masks = {name: (torch.arange(size) < start[name]).view(-1, 1) for name, size in sizes.items()}
    set_masks(net, masks, Distribution())
    for final in (f for i, f in PAIRS if i == initial):
        end = brute_force.erk_counts(shapes, final)
        method = FixedEnd(net, torch.optim.SGD(net.parameters(), 0.1), final, 600, end)
        rounds = method.schedule.rounds
        assert rounds == 30
        for q in range(1, rounds + 1):
            expected = {
                name: brute_force.scheduled_count(sizes[name], start[name], end[name], q, rounds)
                for name in shapes
            }
            assert method.target_counts(q) == expected
        assert method.target_counts(rounds) == end == Distribution().counts(shapes, final)


class FixedEnd(NDSNN):
    """NDSNN with given final counts: the stand-in layers above have the sizes but not the shapes."""

    def __init__(self, net, optimizer, final, total, end):
        self.end = end
        super().__init__(net, optimizer, final, total)

    def plan_final_counts(self):
        return self.end


class Rival:
    """The brute force beside the library: it gets the same start, weights and gradients."""

    def __init__(self, net, shapes, initial, final, *, d0, d_min, rounds, regrow):
        self.shapes, self.rounds, self.regrow = shapes, rounds, regrow
        self.d0, self.d_min = d0, d_min
        self.start = brute_force.erk_counts(shapes, initial)
        self.end = brute_force.erk_counts(shapes, final)
        self.masks = {name: net[name].sparsity_mask.flatten().numpy().copy() for name in shapes}

    def check_round(self, q, net, weights, gradients, update):
        """Do round q and compare masks, values and counts."""
        ratio = brute_force.death_ratio(self.d0, self.d_min, q, self.rounds)
        for row, name in zip(update.layers, self.shapes, strict=True):
            before = self.masks[name]
            size = before.size
            target = brute_force.scheduled_count(size, self.start[name], self.end[name], q, self.rounds)
            die, born = brute_force.exchange(size, int(before.sum()), target, ratio, self.regrow)
            if target == size:
                die = born = 0
            values = weights[name].flatten().numpy().astype(np.float64)
            gradient = gradients[name].flatten().numpy().astype(np.float64)
            after, dead, newborn = brute_force.rewire(values, before, gradient, die, born, self.regrow)
            assert tuple(row) == (name, die, born, target)
            assert np.array_equal(net[name].sparsity_mask.flatten().numpy(), after), f"round {q}, layer {name}"
            values[dead] = values[newborn] = 0
            assert np.array_equal(net[name].weight.detach().flatten().numpy(), values.astype(np.float32))
            self.masks[name] = after


def run_side_by_side(shapes, initial, final, rounds, *, ties=False, regrow=False, d0=0.5, d_min=0.05):
    net = named_net(shapes)
    source = torch.Generator().manual_seed(round(1000 * initial + 10 * final))
    sparsify(net, initial, generator=source)
    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=0.9)
    method = NDSNN(
        *(net, optimizer, final, rounds),
        update_every=1,
        stop_fraction=1.0,
        death_ratio=d0,
        min_death_ratio=d_min,
        regrow_dropped=regrow,
    )
    rival = Rival(net, shapes, initial, final, d0=d0, d_min=d_min, rounds=rounds, regrow=regrow)

    def numbers(shape):
        drawn = torch.randn(shape, generator=source)
        return (drawn * 2).round() / 2 if ties else drawn

    for q in range(1, rounds + 1):
        gradients = {name: numbers(shape) for name, shape in shapes.items()}
        weights = {
            name: torch.where(net[name].sparsity_mask, numbers(shape), 0.0) for name, shape in shapes.items()
        }
        with torch.no_grad():
            for name, values in weights.items():
                net[name].weight.copy_(values)
        update = given_step(net, optimizer, method, gradients)
        rival.check_round(q, net, weights, gradients, update)
    assert {row.layer: row.nnz for row in update.layers} == rival.end


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("initial", "final"), PAIRS)
def test_masks_at_every_round_with_an_eighth_of_the_channels(network, initial, final):
    run_side_by_side(NETWORKS[network](8), initial, final, 6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize(("d0", "d_min"), [(0.5, 0.5), (0.25, 0.25), (1.0, 0.0), (0.0, 0.0)])
def test_masks_with_ties_and_other_ratios(network, regrow, d0, d_min):
    run_side_by_side(NETWORKS[network](16), 0.5, 0.9, 5, ties=True, regrow=regrow, d0=d0, d_min=d_min)


@pytest.mark.parametrize(
    ("network", "initial", "final"), [("vgg16", 0.7, 0.95), ("resnet19", 0.8, 0.98)], ids=["vgg16", "resnet19"]
)
def test_masks_at_every_round_at_full_size(network, initial, final):
    run_side_by_side(NETWORKS[network](), initial, final, 2)
