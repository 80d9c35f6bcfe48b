import copy

import pytest
import torch
from engine_nets import close, inputs, lively
from torch import nn

from ndsnn.engine.graph import Synapse
from ndsnn.engine.norms import PlainSynapse, normed_by_batch, normed_by_constants, uses_batch_statistics
from ndsnn.engine.reference import ReferenceBackend
from ndsnn.errors import ShapeError
from ndsnn.models.layers import BatchNorm2d, ThresholdBatchNorm2d

NORMS = {
    "plain": lambda: nn.BatchNorm2d(3),
    "momentum": lambda: BatchNorm2d(3, momentum=0.7, eps=0.1),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
    "not tracking": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "not affine": lambda: nn.BatchNorm2d(3, affine=False),
    "threshold": lambda: ThresholdBatchNorm2d(3, alpha=0.7, v_threshold=0.5),
}


def normed(norm, bias, y):
    if not uses_batch_statistics(norm):
        return normed_by_constants(norm, bias)
    return normed_by_batch(norm, bias, y.sum((0, 2, 3)), y.square().sum((0, 2, 3)), y.numel() // y.shape[1])


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_both_ways_against_torch(name, training, with_bias):
    mine = lively(NORMS[name]()).train(training)
    theirs = copy.deepcopy(mine)
    bias = inputs(3, seed=5).requires_grad_() if with_bias else None
    for step in range(3):
        y, gx = inputs(4, 3, 5, 2, seed=step).requires_grad_(), inputs(4, 3, 5, 2, seed=step + 10)
        x = theirs(y if bias is None else y + bias.view(-1, 1, 1))
        wanted = [p for p in (y, bias, theirs.weight, theirs.bias) if p is not None]
        expected = dict(zip(map(id, wanted), torch.autograd.grad(x, wanted, gx), strict=True))

        state = normed(mine, None if bias is None else bias.detach(), y.detach())
        scale, shift = (v.view(-1, 1, 1) for v in (state.affine.scale, state.affine.shift))
        close(scale * y.detach() + shift, x.detach())
        gradient = state.backward(gx.sum((0, 2, 3)), (gx * y.detach()).sum((0, 2, 3)))
        a, b, c = (v.view(-1, 1, 1) for v in gradient.affine)
        close(a * gx + b * y.detach() + c, expected[id(y)])
        if bias is not None:
            close(gradient.bias, expected[id(bias)])
        if mine.affine:
            close(gradient.gamma, expected[id(theirs.weight)])
            close(gradient.beta, expected[id(theirs.bias)])
        for one, other in zip(mine.buffers(), theirs.buffers(), strict=True):
            close(one.double(), other.double())


def test_bias_alone():
    bias = torch.tensor([1.0, -2.0])
    state = PlainSynapse.of(2, bias)
    assert state.affine.scale.tolist() == [1, 1]
    assert state.affine.shift.tolist() == [1, -2]
    gradient = state.backward(torch.tensor([3.0, 4.0]), None)
    assert gradient.bias.tolist() == [3, 4]
    assert [v.tolist() for v in gradient.affine] == [[1, 1], [0, 0], [0, 0]]
    assert PlainSynapse.of(2, None).affine.shift.tolist() == [0, 0]


def test_one_value_per_channel_has_no_statistics():
    one = torch.ones(3)
    with pytest.raises(ShapeError, match="one value per channel"):
        normed_by_batch(nn.BatchNorm2d(3), None, one, one, 1)


def test_constant_channel_does_not_become_nan():
    """Rounding must not make the variance negative."""
    y = torch.full((1000,), 0.1, dtype=torch.float64)
    sums = y.sum().expand(3), y.square().sum().expand(3) * (1 - 1e-15)
    state = normed_by_batch(nn.BatchNorm2d(3, eps=0), None, *sums, 1000)
    assert (state.inverse_std > 0).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck_of_synapse_and_norm(training, stride):
    """Finite differences through conv, bias and norm, with the alive weights as the variables."""
    synapse = Synapse("layer", 3, 2, (3, 3), stride, (1, 1))
    norm = lively(nn.BatchNorm2d(3, momentum=0.0)).train(training)
    backend = ReferenceBackend(2, 2, torch.float64)
    positions = torch.arange(54)[::3]

    class Block(torch.autograd.Function):
        @staticmethod
        def forward(ctx, source, values, bias, gamma, beta):
            with torch.no_grad():
                norm.weight.copy_(gamma)
                norm.bias.copy_(beta)
            connections = backend.connections(synapse, 5, 4, positions)
            backend.set_values(connections, values)
            ctx.current = backend.current(connections, source.detach().clone(), None)
            y = backend.evaluate(ctx.current)
            ctx.state = normed(norm, bias, y.flatten(0, 1))
            return ctx.state.affine.scale.view(-1, 1, 1) * y + ctx.state.affine.shift.view(-1, 1, 1)

        @staticmethod
        def backward(ctx, gx):
            y = backend.evaluate(ctx.current)
            rest = ctx.state.backward(gx.sum((0, 1, 3, 4)), (gx * y).sum((0, 1, 3, 4)))
            into = torch.empty_like(ctx.current.source)
            values = backend.synapse_backward(ctx.current, gx, rest.affine, into, False, None)
            return into, values, rest.bias, rest.gamma, rest.beta

    variables = [inputs(2, 2, 2, 5, 4), inputs(18), inputs(3, seed=2), inputs(3, seed=3), inputs(3, seed=4)]
    assert torch.autograd.gradcheck(Block.apply, [v.requires_grad_() for v in variables])
