"""The reference back end: every operation of `ndsnn.engine.ops` in plain torch, as its equation says.

It is written to be read and to be tested against, and it is the fallback where the native kernels can't run. A map
is a plain tensor [S, N, C, H, W] of its own; nothing is differentiated by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import DenseGradientSink, InputTerm, MapShape, NeuronGradient, Role
from ndsnn.neurons import LIFParameters
from ndsnn.surrogates import resolve_surrogate

CHANNELS_AT_ONCE = 16
"""Output channels whose dense weight gradient a sink is handed in one piece."""


@dataclass
class Connections:
    """A layer's topology and its weight [C_out, C_in, k_h, k_w].

    Args:
        synapse: The layer.
        size: Height and width of its input.
        positions: Ascending flat positions of the alive weights [nnz] int64, None where all are.
        weight: Dense, zero where nothing is alive.
    """

    synapse: Synapse
    size: tuple[int, int]
    positions: Tensor | None
    weight: Tensor

    @property
    def geometry(self) -> dict[str, Any]:
        """Stride and padding, as torch's convolutions name them."""
        return {"stride": self.synapse.stride, "padding": self.synapse.padding}


@dataclass
class Current:
    """y = W∗source.

    Args:
        connections: W.
        source: [S, N, C_in, H, W].
        stored: Where `ReferenceBackend.statistics` leaves y [S, N, C_out, H', W'], or None.
    """

    connections: Connections
    source: Tensor
    stored: Tensor | None

    def compute(self) -> Tensor:
        """Return y[o, i, j] = Σ_{c, k, l} W[o, c, k, l]·source[c, i·stride + k − pad, j·stride + l − pad]."""
        steps, samples = self.source.shape[:2]
        weight, geometry = self.connections.weight, self.connections.geometry
        y = functional.conv2d(self.source.flatten(0, 1), weight, **geometry)
        return y.unflatten(0, (steps, samples))

    def value(self) -> Tensor:
        """Return y as stored, or compute it."""
        return self.compute() if self.stored is None else self.stored


class ReferenceBackend:
    """`ndsnn.engine.ops.Backend` in torch.

    Args:
        time_steps: T.
        samples: N.
        dtype: Of all maps and weights: float32 or float64.
    """

    def __init__(self, time_steps: int, samples: int, dtype: torch.dtype = torch.float32) -> None:
        self.time_steps = time_steps
        self.samples = samples
        self.dtype = dtype

    def nbytes(self, shape: MapShape, role: Role) -> int:
        """Return the bytes of a map; spikes take as many as floats here."""
        places = shape.steps * self.samples * shape.channels * shape.height * shape.width
        return places * self.dtype.itemsize

    def reserve(self, nbytes: int) -> None:
        """Do nothing: every map is a tensor of its own."""

    def spikes(self, shape: MapShape, offset: int = 0) -> Tensor:
        """Return a new map, wherever."""
        return self.floats(shape, offset)

    def floats(self, shape: MapShape, offset: int = 0, role: Role = Role.VALUES) -> Tensor:
        """Return a new map, wherever and whatever for."""
        return torch.empty(shape.steps, self.samples, shape.channels, shape.height, shape.width, dtype=self.dtype)

    def load(self, values: Tensor, into: Tensor) -> None:
        """Copy."""
        into.copy_(values)

    def unload(self, value: Tensor) -> Tensor:
        """Return a copy."""
        return value.clone()

    def relabel(self, source: Tensor, shape: MapShape) -> Tensor:
        """Return a view."""
        return source.view(*source.shape[:2], shape.channels, shape.height, shape.width)

    def connections(self, synapse: Synapse, height: int, width: int, positions: Tensor | None) -> Connections:
        """Return a connection set of zero weights."""
        shape = (synapse.out_channels, synapse.in_channels, *synapse.kernel)
        return Connections(synapse, (height, width), positions, torch.zeros(shape, dtype=self.dtype))

    def set_values(self, connections: Connections, values: Tensor) -> None:
        """W[positions] = values, as a new tensor."""
        shape = connections.weight.shape
        if connections.positions is None:
            connections.weight = values.detach().to(self.dtype, copy=True).reshape(shape)
            return
        weight = torch.zeros(shape.numel(), dtype=self.dtype)
        weight[connections.positions] = values.detach().to(self.dtype)
        connections.weight = weight.view(shape)

    def prefers_stored(self, connections: Connections) -> bool:
        """Say yes: a convolution in torch costs more than reading its result."""
        return True

    def current(self, connections: Connections, source: Tensor, stored: Tensor | None) -> Current:
        """Return the current y of `source` through `connections`."""
        return Current(connections, source, stored)

    def statistics(self, current: Current) -> tuple[Tensor, Tensor]:
        """Σ y and Σ y² over all axes but C."""
        y = current.compute()
        if current.stored is not None:
            current.stored.copy_(y)
        return _channel_sum(y), _channel_sum(y, y)

    def evaluate(self, current: Current) -> Tensor:
        """Return y."""
        return current.compute()

    def neuron_forward(self, terms: Sequence[InputTerm], neuron: LIFParameters, pool: int, out: Tensor) -> int:
        """Integrate (see `_integrate`), pool, and count what fired before the pool."""
        _, spikes = self._integrate(terms, neuron)
        out.copy_(_max_pool(spikes, pool)[0] if pool > 1 else spikes)
        return int(spikes.count_nonzero())

    def neuron_backward(
        self, terms: Sequence[InputTerm], neuron: LIFParameters, pool: int, grad_out: Tensor, grad_x: Tensor
    ) -> NeuronGradient:
        """Go back through time.

        With φ the surrogate's derivative, r what a soft reset takes, κ = 1/τ (decay_input) or 1, and
        ε[t] = ∂L/∂h[t], for t = T … 1:

            ∂L/∂v[t] = (1 − 1/τ)·ε[t+1]                                              0 at t = T
            ∂v/∂h    = 1 − o[t]   hard reset,   1   soft reset
                       + (v_reset − h[t])·φ     hard,   − r·φ   soft                 without detach_reset
            ε[t]     = ∂L/∂o[t]·φ(h[t] − ϑ) + ∂L/∂v[t]·∂v/∂h
            ∂L/∂x[t] = κ·ε[t]
        """
        potentials, spikes = self._integrate(terms, neuron)
        grad_o = _max_pool_backward(spikes, pool, grad_out) if pool > 1 else grad_out
        surrogate = resolve_surrogate(neuron.surrogate, neuron.alpha)
        kappa = 1 / neuron.tau if neuron.decay_input else 1.0
        gx = torch.empty_like(potentials)
        grad_v = torch.zeros_like(potentials[0])
        for t in range(self.time_steps - 1, -1, -1):
            h, o = potentials[t], spikes[t]
            phi = surrogate.derivative(h - neuron.v_threshold, surrogate.alpha)
            carried = 1 - o if neuron.v_reset is not None else torch.ones_like(o)
            if not neuron.detach_reset:
                by_spike = -neuron.soft_reset if neuron.v_reset is None else neuron.v_reset - h
                carried = carried + by_spike * phi
            epsilon = grad_o[t] * phi + grad_v * carried
            grad_v = (1 - 1 / neuron.tau) * epsilon
            gx[t] = kappa * epsilon
        grad_x.copy_(gx.sum(0, keepdim=True) if grad_x.shape[0] == 1 else gx)
        return NeuronGradient(
            _channel_sum(grad_x),
            tuple(_channel_sum(grad_x, t.value.value()) if isinstance(t.value, Current) else None for t in terms),
        )

    def _integrate(self, terms: Sequence[InputTerm], neuron: LIFParameters) -> tuple[Tensor, Tensor]:
        """Return h and o [T, N, C, H, W] of x = Σ scale·y + shift; the equations stand at `ndsnn.neurons.lif`."""
        x = self._input(terms[0])
        for term in terms[1:]:
            x = x + self._input(term)
        x = x.expand(self.time_steps, *x.shape[1:])
        potentials = x.new_empty(x.shape)
        spikes = torch.empty_like(potentials)
        rest = neuron.v_reset or 0.0
        v = torch.full_like(potentials[0], rest)
        for t in range(self.time_steps):
            if neuron.decay_input:
                h = v + (x[t] - (v - rest)) / neuron.tau
            else:
                h = v - (v - rest) / neuron.tau + x[t]
            fired = h >= neuron.v_threshold
            if neuron.v_reset is None:
                v = h - neuron.soft_reset * fired
            else:
                v = h.masked_fill(fired, neuron.v_reset)
            potentials[t], spikes[t] = h, fired
        return potentials, spikes

    def _input(self, term: InputTerm) -> Tensor:
        if term.affine is None:
            assert isinstance(term.value, Tensor)
            return term.value
        y = term.value.value()
        return _per_channel(term.affine.scale, y) * y + _per_channel(term.affine.shift, y)

    def synapse_backward(
        self,
        current: Current,
        grad_x: Tensor,
        gradient_affine: tuple[Tensor, Tensor, Tensor],
        grad_source: Tensor | None,
        accumulate: bool,
        dense: DenseGradientSink | None,
    ) -> Tensor:
        """Go back through y = W∗source.

        ∂L/∂y      = a·∂L/∂x + b·y + c
        ∂L/∂W      = Σ_{s, n, places} ∂L/∂y · source, of which the alive places are returned
        ∂L/∂source = Wᵀ∗∂L/∂y
        """
        a, b, c = gradient_affine
        gy = _per_channel(a, grad_x) * grad_x
        if b.any() or c.any():
            gy = gy + _per_channel(b, grad_x) * current.value() + _per_channel(c, grad_x)
        gy, source = gy.flatten(0, 1), current.source.flatten(0, 1)
        connections = current.connections
        weight, geometry = connections.weight, connections.geometry
        gradient = conv2d_weight(source, weight.shape, gy, **geometry)
        if dense is not None:
            for first in range(0, len(gradient), CHANNELS_AT_ONCE):
                dense(first, gradient[first : first + CHANNELS_AT_ONCE])
        if grad_source is not None:
            back = conv2d_input(source.shape, weight, gy, **geometry)
            _write(back.view(grad_source.shape), grad_source, accumulate)
        flat = gradient.flatten()
        return flat if connections.positions is None else flat[connections.positions]

    def writes_in_place(self, connections: Connections) -> bool:
        """Say yes where ∂L/∂source has the shape of ∂L/∂x, all of which is read before anything is written."""
        synapse, size = connections.synapse, connections.size
        return synapse.in_channels == synapse.out_channels and synapse.output_size(*size) == size

    def max_pool(self, source: Tensor, side: int, out: Tensor) -> None:
        """Max over windows side by side."""
        out.copy_(_max_pool(source, side)[0])

    def max_pool_backward(
        self, source: Tensor, side: int, grad_out: Tensor, grad_source: Tensor, accumulate: bool
    ) -> None:
        """Hand the gradient to the first maximum of each window in scan order."""
        _write(_max_pool_backward(source, side, grad_out), grad_source, accumulate)

    def avg_pool(self, source: Tensor, out: Tensor, side: int) -> None:
        """Do out = A·source·Bᵀ over (H, W), with A and B as `_averaging` says."""
        rows, columns = self._averaging(source, out, side)
        out.copy_(rows @ source @ columns.T)

    def avg_pool_backward(self, grad_out: Tensor, grad_source: Tensor, side: int, accumulate: bool) -> None:
        """Do ∂L/∂source = Aᵀ·∂L/∂out·B."""
        rows, columns = self._averaging(grad_source, grad_out, side)
        _write(rows.T @ grad_out @ columns, grad_source, accumulate)

    def _averaging(self, source: Tensor, out: Tensor, side: int) -> tuple[Tensor, Tensor]:
        (height, width), (rows, columns) = source.shape[-2:], out.shape[-2:]
        return _averaging(height, rows, side, self.dtype), _averaging(width, columns, side, self.dtype)

    def add(self, source: Tensor, into: Tensor) -> None:
        """Add in place."""
        into += source

    def counts(self, source: Tensor) -> Tensor:
        """Return how many of the S·N entries are non-zero at each place, [C, H, W] int64."""
        return (source != 0).sum((0, 1))


def _per_channel(vector: Tensor, like: Tensor) -> Tensor:
    return vector.to(like.dtype).view(-1, 1, 1)


def _channel_sum(*factors: Tensor) -> Tensor:
    """Σ of the product of `factors` [S, N, C, H, W] over all axes but C, in float64."""
    product = factors[0].double()
    for factor in factors[1:]:
        product = product * factor
    return product.sum((0, 1, 3, 4))


def _write(values: Tensor, into: Tensor, accumulate: bool) -> None:
    if accumulate:
        into += values
    else:
        into.copy_(values)


def _max_pool(source: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the maxima of windows side by side, and where in its flat map each stands (the first of equals)."""
    height, width = source.shape[-2:]
    pooled, where = functional.max_pool2d(
        source.flatten(0, 1), (min(side, height), min(side, width)), side, return_indices=True
    )
    return pooled.unflatten(0, source.shape[:2]), where.unflatten(0, source.shape[:2])


def _max_pool_backward(source: Tensor, side: int, grad_out: Tensor) -> Tensor:
    _, where = _max_pool(source, side)
    flat = torch.zeros_like(source).flatten(-2)
    flat.scatter_(-1, where.flatten(-2), grad_out.flatten(-2))
    return flat.view(source.shape)


def _averaging(size: int, bins: int, side: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix [bins, size] whose rows average an axis over windows.

    Window i is [i·side, (i+1)·side), or [⌊i·size/bins⌋, ⌈(i+1)·size/bins⌉) where side is 0, as in torch.
    """
    matrix = torch.zeros(bins, size, dtype=dtype)
    for i in range(bins):
        begin, end = (i * side, (i + 1) * side) if side else (i * size // bins, math.ceil((i + 1) * size / bins))
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix
