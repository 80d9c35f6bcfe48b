"""One block of a network, neurons with all that flows into them, on both back ends with the same input spikes.

A potential that comes within rounding of the threshold may fire on one back end and not on the other, and from
then on the two neurons live different lives. So the spikes of the native back end are judged by the potentials
that follow from *them*: at every step of every neuron, the decision must be that of float64 unless the potential
lies within a margin of the threshold. Gradients are compared with ∂L/∂out = 0 for neurons that came so close.
"""

from dataclasses import dataclass
from typing import Any

import torch
from native_layers import Connected, random
from native_sides import (
    GRADIENT,
    ROUNDOFF,
    NativeSide,
    ReferenceSide,
    assert_close,
    assert_close_sums,
    largest,
    shape_of,
)
from torch import Tensor

from ndsnn.engine.ops import Affine, InputTerm, MapShape, NeuronGradient
from ndsnn.models.layers import MaxPool2d
from ndsnn.neurons import LIFParameters
from ndsnn.surrogates import resolve_surrogate

MARGIN = 1e-5
"""How near to the threshold rounding may decide, relative to the largest potential, input or threshold."""

OVER_MAPS = (0, 1, 3, 4)


@dataclass(frozen=True)
class Summand:
    """One term of a neuron's input.

    Args:
        source: A layer, or a map [S, N, C, H, W] that is added as it is.
        spiking: Whether such a map is held as spikes.
        affine: Behind a layer, else None.
    """

    source: Connected | Tensor
    spiking: bool = False
    affine: Affine | None = None

    def on(self, side: NativeSide | ReferenceSide) -> InputTerm:
        """Return the term, its current measured if it is a stored one."""
        if isinstance(self.source, Tensor):
            return InputTerm((side.spikes if self.spiking else side.floats)(self.source), None)
        current = self.source.on(side)
        if self.source.stored:
            side.backend.statistics(current)
        return InputTerm(current, self.affine)


@dataclass(frozen=True)
class Block:
    """Neurons and what they integrate.

    Args:
        summands: Their input.
        neuron: Their parameters.
        pool: Side of the max-pool behind them.
        steps: T.
        samples: N.
        exact: Whether nothing is rounded on the way to the spikes.
    """

    summands: tuple[Summand, ...]
    neuron: LIFParameters
    pool: int
    steps: int
    samples: int
    exact: bool = False


@dataclass(frozen=True)
class Input:
    """x = Σ terms in float64.

    Args:
        x: [S, N, C, H, W].
        terms: Σ|terms| behind each x.
        currents: y of each summand that is a layer, else None.
    """

    x: Tensor
    terms: Tensor
    currents: tuple[Tensor | None, ...]


def integrate_input(summands: tuple[Summand, ...], side: ReferenceSide) -> Input:
    x = terms = torch.zeros(())
    currents: list[Tensor | None] = []
    for summand in summands:
        if isinstance(summand.source, Tensor):
            currents.append(None)
            x, terms = x + summand.source.double(), terms + summand.source.double().abs()
            continue
        assert summand.affine is not None
        scale, shift = (part.view(-1, 1, 1) for part in (summand.affine.scale, summand.affine.shift))
        y = side.backend.evaluate(summand.source.on(side))
        absolute = side.backend.evaluate(summand.source.absolute().on(side))
        currents.append(y)
        x, terms = x + scale * y + shift, terms + scale.abs() * absolute + shift.abs()
    return Input(x, terms, tuple(currents))


def potentials(x: Tensor, spikes: Tensor, neuron: LIFParameters) -> Tensor:
    """Return h [T, N, C, H, W] of neurons with input x that fired when `spikes` say, whatever h was."""
    rest = neuron.v_reset or 0.0
    v, h = torch.full_like(x[0], rest), torch.empty(spikes.shape, dtype=x.dtype)
    for t, fired in enumerate(spikes):
        h[t] = v - (v - rest) / neuron.tau + x[min(t, len(x) - 1)] / (neuron.tau if neuron.decay_input else 1)
        v = h[t] - neuron.soft_reset * fired
        if neuron.v_reset is not None:
            v = torch.where(fired.bool(), neuron.v_reset, h[t])
    return h


def margin(block: Block, h: Tensor, given: Input) -> float:
    if block.exact:
        return 0.0
    return MARGIN * max(largest(h), largest(given.x), block.neuron.v_threshold) + ROUNDOFF * largest(given.terms)


def check_spikes(block: Block, given: Input, spikes: Tensor) -> Tensor:
    """Check every decision to fire or not; return h."""
    h = potentials(given.x, spikes, block.neuron)
    distance = h - block.neuron.v_threshold
    other = (distance >= 0) != spikes.bool()
    blamed = other & (distance.abs() > margin(block, h, given))
    assert not blamed.any(), (
        f"{int(blamed.sum())} of {blamed.numel()} spikes differ, nearest threshold by rounding"
    )
    return h


def undecided(block: Block, given: Input, h: Tensor) -> Tensor:
    """Say which windows behind the pool hold a neuron for which rounding may have decided, [N, C, H, W]."""
    near = (h - block.neuron.v_threshold).abs() <= margin(block, h, given)
    if block.neuron.surrogate == "rectangle":
        # The other step: the surrogate's own.
        edge = 0.5 / resolve_surrogate("rectangle", block.neuron.alpha).alpha
        near |= ((h - block.neuron.v_threshold).abs() - edge).abs() <= margin(block, h, given)
    if block.exact:
        near.zero_()
    windows = near.any(0, keepdim=True).double()
    windows = MaxPool2d(block.pool)(windows) if block.pool > 1 else windows
    assert windows.sum() <= 3 + 0.02 * windows.numel(), "too many are left out"
    return windows[0].bool()


def check_block(block: Block, native: NativeSide, seed: int = 0) -> NeuronGradient | None:
    """Compare forward and backward pass of a block; see the module.

    Returns:
        The reference's gradient.
    """
    reference = ReferenceSide(block.steps, block.samples)
    given = integrate_input(block.summands, reference)
    terms = [summand.on(native) for summand in block.summands]
    spikes = _forward(block, native, terms, 1)
    h = check_spikes(block, given, spikes)
    pooled = MaxPool2d(block.pool)(spikes) if block.pool > 1 else spikes
    if block.pool > 1:
        assert torch.equal(_forward(block, native, terms, block.pool, int(spikes.sum())), pooled)

    grad_out = torch.randn(pooled.shape, generator=random(seed))
    grad_out = grad_out.masked_fill(undecided(block, given, h), 0)
    result, grad_x = _backward(block, native, terms, grad_out, given.x.shape)
    expected, expected_grad_x = _backward(
        block, reference, [summand.on(reference) for summand in block.summands], grad_out, given.x.shape
    )
    _check_gradient(block, given, grad_out, (result, grad_x), (expected, expected_grad_x))
    return expected


def _forward(
    block: Block, native: NativeSide, terms: list[InputTerm], pool: int, fired: int | None = None
) -> Tensor:
    shape = _out_shape(block, native, terms, pool)
    out = native.empty(shape, spikes=True)
    count = native.backend.neuron_forward(terms, block.neuron, pool, out)
    spikes = native.backend.unload(out)
    assert count == (int(spikes.sum()) if fired is None else fired)
    return spikes


def _out_shape(block: Block, native: NativeSide, terms: list[InputTerm], pool: int) -> MapShape:
    _, channels, height, width = terms[0].value.shape
    return MapShape(block.steps, channels, max(height // pool, 1), max(width // pool, 1))


def _backward(
    block: Block, side: Any, terms: list[InputTerm], grad_out: Tensor, shape: tuple[int, ...]
) -> tuple[NeuronGradient, Tensor]:
    """Return the sums and ∂L/∂x; where both maps may be one, check that this changes nothing."""
    steps, _, channels, height, width = shape
    into = side.empty(MapShape(steps, channels, height, width))
    result = side.backend.neuron_backward(terms, block.neuron, block.pool, side.floats(grad_out), into)
    grad_x = side.backend.unload(into)
    if block.pool == 1 and shape_of(grad_out) == shape_of(grad_x):
        both = side.floats(grad_out)
        again = side.backend.neuron_backward(terms, block.neuron, 1, both, both)
        assert torch.equal(side.backend.unload(both), grad_x)
        assert torch.equal(again.sum_gx, result.sum_gx)
    return result, grad_x


def _check_gradient(
    block: Block,
    given: Input,
    grad_out: Tensor,
    result: tuple[NeuronGradient, Tensor],
    expected: tuple[NeuronGradient, Tensor],
) -> None:
    """Compare ∂L/∂x and its sums.

    Each h carries the rounding of its terms, and the surrogate changes by no more than α² per unit of h.
    """
    (sums, grad_x), (true_sums, true_grad_x) = result, expected
    steepness = resolve_surrogate(block.neuron.surrogate, block.neuron.alpha).alpha ** 2
    rounded = block.steps * steepness * largest(grad_out) * (largest(given.terms) + block.neuron.v_threshold)
    assert_close(grad_x, true_grad_x, GRADIENT, torch.tensor(rounded))
    places = true_grad_x.numel() / len(true_sums.sum_gx)
    per_place = ROUNDOFF / GRADIENT * rounded
    assert_close_sums(
        sums.sum_gx, true_sums.sum_gx, GRADIENT, true_grad_x.abs().sum(OVER_MAPS) + places * per_place
    )
    for part, true_part, y in zip(sums.sum_gx_y, true_sums.sum_gx_y, given.currents, strict=True):
        assert (part is None) == (true_part is None) == (y is None)
        if part is not None and true_part is not None and y is not None:
            magnitude = ((true_grad_x.abs() + per_place) * y.abs()).sum(OVER_MAPS)
            assert_close_sums(part, true_part, GRADIENT, magnitude)
