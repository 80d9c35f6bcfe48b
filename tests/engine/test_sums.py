"""Sums of spikes that others read than neurons, on both back ends, against plain torch."""

import copy

import pytest
import torch
from engine_nets import inputs, lively, on_arena, same_network, tiny
from lowering_nets import Calls
from native_sides import needs_native
from torch import nn

import ndsnn
from ndsnn.engine.graph import Sum
from ndsnn.engine.lowering import lower
from ndsnn.errors import ShapeError
from ndsnn.models.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d
from ndsnn.neurons import LIF


def branch(stride=1):
    return nn.Sequential(Conv2d(4, 4, 3, stride, padding=1, bias=False), BatchNorm2d(4), LIF())


def block():
    """Read a sum by a convolution and, with one more branch, by a pool."""
    return Calls(lambda net, x: net.two(y := x + net.one(x)) + y + x, one=branch(), two=branch())


def test_the_plan_holds_each_sum_once():
    graph = lower(tiny(block()))
    sums = [node for node in graph.nodes if isinstance(node, Sum)]
    assert [len(node.terms) for node in sums] == [2, 3]


@pytest.mark.parametrize("training", [True, False])
def test_reference_and_arena(training):
    net = tiny(block()).train(training)
    for fast in (ndsnn.accelerate(net, backend="reference"), on_arena(net), on_arena(net, "recompute")):
        same_network(fast, copy.deepcopy(net), inputs(2, 2, 6, 6))


@needs_native
@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_native(memory):
    net = tiny(block()).float()
    fast = ndsnn.accelerate(net, memory=memory, backend="native")
    x = inputs(5, 2, 6, 6).float()
    results = []
    for one in (fast, net):
        given = x.clone().requires_grad_()
        logits = one(given)
        logits.square().sum().backward()
        results.append((logits, given.grad, one.get_submodule("4.one.1").weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4 * expected.abs().max().item())


def test_a_value_added_to_itself():
    net = tiny(Calls(lambda net, x: net.one(x + x) + x, one=branch()))
    same_network(on_arena(net), net, inputs(2, 2, 6, 6))


def test_maps_of_other_shape():
    net = lively(tiny(Calls(lambda net, x: net.pool(x + net.one(x)), one=branch(2), pool=AdaptiveAvgPool2d(2))))
    with pytest.raises(ShapeError, match=r"layer '4\.pool' sums maps that must have one shape"):
        ndsnn.accelerate(net)(inputs(2, 2, 6, 6))
