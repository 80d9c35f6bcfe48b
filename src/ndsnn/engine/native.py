"""The native back end: `Backend` in C++ kernels on bit-packed spikes (csrc/), for the CPU."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ndsnn.engine import library
from ndsnn.engine.graph import Synapse
from ndsnn.engine.library import available, unavailable_reason
from ndsnn.engine.ops import DenseGradientSink, InputTerm, MapShape, NeuronGradient, Role
from ndsnn.errors import ConfigError
from ndsnn.neurons import LIFParameters
from ndsnn.surrogates import resolve_surrogate

__all__ = ["NativeBackend", "available", "instruction_set", "unavailable_reason"]


def instruction_set() -> str:
    """Return the name of the instruction set in use: the best one here, or the one that NDSNN_ISA names.

    Raises:
        ConfigError: NDSNN_ISA names one that is not available.
    """
    native = library.load()
    wanted = os.environ.get("NDSNN_ISA", "")
    known = native.available_isas()
    if wanted and wanted not in known:
        raise ConfigError(f"NDSNN_ISA is {wanted!r}, which is not available here; there are {', '.join(known)}")
    return wanted or str(known[0])


class NativeBackend:
    """All operations on one arena.

    With precision "mixed", stored currents of spikes and gradients lie in fp16, each map scaled by a power of two
    so that it uses the range well; all arithmetic is fp32. A current's scale is the largest that its weights can't
    overflow. A gradient's is chosen where it leaves a synapse, by its expected rms (see `_scale_behind`), and goes
    with it through neurons and pools, which are linear in it. What is added to a gradient takes that one's scale,
    and may be some 10⁴ times larger before it leaves the range.

    Args:
        time_steps: T.
        samples: N.
        precision: "fp32" or "mixed".

    Raises:
        MissingDependencyError: The extension is not built.
        ConfigError: The precision or the instruction set is not available.
    """

    def __init__(self, time_steps: int, samples: int, precision: str = "fp32") -> None:
        if precision not in ("fp32", "mixed"):
            raise ConfigError(f"precision {precision!r} is not available; use 'fp32' or 'mixed'")
        self._halves = (Role.CURRENT, Role.GRADIENT) if precision == "mixed" else ()
        self._native = library.load()
        self._engine = self._native.Engine(samples, instruction_set())
        self._samples = samples
        self._arena = self._native.Arena(64)

    def nbytes(self, shape: MapShape, role: Role) -> int:
        """Return the bytes of a map: a multiple of 64."""
        return int(self._engine.nbytes(*_sizes(shape), self._kind(role)))

    def reserve(self, nbytes: int) -> None:
        """Make the arena hold at least `nbytes`."""
        if nbytes > self._arena.nbytes:
            self._arena = self._native.Arena(nbytes)

    def spikes(self, shape: MapShape, offset: int = 0) -> Any:
        """Return a map of spikes, a bit each."""
        return self._map(shape, offset, Role.SPIKES)

    def floats(self, shape: MapShape, offset: int = 0, role: Role = Role.VALUES) -> Any:
        """Return a map of floats."""
        return self._map(shape, offset, role)

    def load(self, values: Tensor, into: Any) -> None:
        """Copy [S, N, C, H, W] into a map of floats."""
        values = values.detach()
        if self._is_half(into):
            into.scale = _scale_for(float(values.double().square().mean().sqrt()))
            values = values * (into.scale or 1)
        self._engine.load(values.contiguous().numpy(), into)

    def unload(self, value: Any) -> Tensor:
        """Return a map as [S, N, C, H, W] float32."""
        steps, channels, height, width = value.shape
        out = torch.empty(steps, self._samples, channels, height, width)
        self._engine.unload(value, out.numpy())
        return out if value.scale in (0, 1) else out / value.scale

    def connections(self, synapse: Synapse, height: int, width: int, positions: Tensor | None) -> Any:
        """Return the lists of a layer's alive weights."""
        return self._native.connections(
            synapse.in_channels,
            synapse.out_channels,
            height,
            width,
            synapse.kernel,
            synapse.stride,
            synapse.padding,
            None if positions is None else positions.to(torch.int64).contiguous().numpy(),
        )

    def set_values(self, connections: Any, values: Tensor) -> None:
        """Take over the values of the alive weights [nnz]."""
        connections.set_values(values.detach().contiguous().numpy())

    def prefers_stored(self, connections: Any) -> bool:
        """Say whether reading y back is cheaper than computing it again."""
        return True

    def current(self, connections: Any, source: Any, stored: Any | None) -> Any:
        """Return y = W∗source."""
        return self._engine.current(connections, source, stored)

    def statistics(self, current: Any) -> tuple[Tensor, Tensor]:
        """Compute y; return Σ y and Σ y² [C] float64."""
        total, squares = (torch.empty(current.channels, dtype=torch.float64) for _ in range(2))
        self._engine.statistics(current, total.numpy(), squares.numpy())
        return total, squares

    def evaluate(self, current: Any) -> Tensor:
        """Return y itself as [S, N, C, H, W]."""
        shape = MapShape(*current.shape)
        arena = self._native.Arena(self.nbytes(shape, Role.VALUES))
        stored = self._engine.map(arena, 0, *_sizes(shape), self._kind(Role.VALUES))
        self.statistics(self._engine.current(current.connections, current.source, stored))
        return self.unload(stored)

    def neuron_forward(self, terms: Sequence[InputTerm], neuron: LIFParameters, pool: int, out: Any) -> int:
        """Integrate the terms into spikes; return how many fired."""
        return int(self._engine.neuron_forward(self._terms(terms), self._neuron(neuron), pool, out))

    def neuron_backward(
        self, terms: Sequence[InputTerm], neuron: LIFParameters, pool: int, grad_out: Any, grad_x: Any
    ) -> NeuronGradient:
        """Turn ∂L/∂out into ∂L/∂x."""
        channels = grad_x.shape[1]
        sum_gx = torch.empty(channels, dtype=torch.float64)
        sum_gx_y = torch.empty(len(terms), channels, dtype=torch.float64)
        self._engine.neuron_backward(
            self._terms(terms), self._neuron(neuron), pool, grad_out, grad_x, sum_gx.numpy(), sum_gx_y.numpy()
        )
        grad_x.scale = grad_out.scale
        if grad_x.scale not in (0, 1):
            sum_gx /= grad_x.scale
            sum_gx_y /= grad_x.scale
        per_term = tuple(None if term.affine is None else part for term, part in zip(terms, sum_gx_y, strict=True))
        return NeuronGradient(sum_gx, per_term)

    def synapse_backward(
        self,
        current: Any,
        grad_x: Any,
        gradient_affine: tuple[Tensor, Tensor, Tensor],
        grad_source: Any | None,
        accumulate: bool,
        dense: DenseGradientSink | None,
    ) -> Tensor:
        """Go back through a synapse; the dense gradient is made a few output channels at a time."""
        a, b, c = gradient_affine
        before = grad_x.scale or 1.0
        if dense is not None:
            self._stream_dense(current, grad_x, (_scaled(a, 1 / before), _vector(b), _vector(c)), dense)
        behind = before
        if grad_source is not None and self._is_half(grad_source):
            behind = (grad_source.scale or 1.0) if accumulate else self._scale_behind(current, grad_x, a)
        affine = [_scaled(part, by) for part, by in ((a, behind / before), (b, behind), (c, behind))]
        values = torch.empty(current.connections.nnz)
        self._engine.synapse_backward(current, grad_x, *affine, grad_source, accumulate, values.numpy())
        if grad_source is not None:
            grad_source.scale = behind
        return values if behind == 1 else values.div_(behind)

    def _scale_behind(self, current: Any, grad_x: Any, a: Tensor) -> float:
        """Return the scale for ∂L/∂source: where ∂L/∂y ≈ a·∂L/∂x and all weights are independent, its rms is 1."""
        before = grad_x.scale or 1.0
        source_channels, height, width = current.source.shape[1:]
        _, _, out_height, out_width = current.shape
        arriving = current.connections.square_sum / source_channels * (out_height * out_width) / (height * width)
        mean_square = self._engine.mean_square(grad_x) / before**2 * float(a.square().mean()) * arriving
        return _scale_for(math.sqrt(mean_square)) or before

    def writes_in_place(self, connections: Any) -> bool:
        """Say whether the gradient may be written over its input: every row is read before it is written."""
        return bool(connections.writes_in_place)

    def max_pool(self, source: Any, side: int, out: Any) -> None:
        """OR of spikes over windows side by side."""
        self._engine.max_pool(source, side, out)

    def max_pool_backward(self, source: Any, side: int, grad_out: Any, grad_source: Any, accumulate: bool) -> None:
        """Hand the gradient to the first maximum of each window."""
        factor = self._factor(grad_out, grad_source, accumulate)
        self._engine.max_pool_backward(source, side, grad_out, grad_source, accumulate, factor)

    def avg_pool(self, source: Any, out: Any, side: int) -> None:
        """Average windows of side × side, or adaptively where side is 0."""
        self._engine.avg_pool(source, out, side)

    def avg_pool_backward(self, grad_out: Any, grad_source: Any, side: int, accumulate: bool) -> None:
        """Spread the gradient evenly over each window."""
        factor = self._factor(grad_out, grad_source, accumulate)
        self._engine.avg_pool_backward(grad_out, grad_source, side, accumulate, factor)

    def relabel(self, source: Any, shape: MapShape) -> Any:
        """Return the same memory as a map of another shape."""
        return self._engine.relabel(source, shape.channels, shape.height, shape.width)

    def add(self, source: Any, into: Any) -> None:
        """Into += source."""
        self._engine.add(source, into, self._factor(source, into, into.scale != 0))

    def counts(self, source: Any) -> Tensor:
        """Return how many entries are non-zero at each place, [C, H, W] int64."""
        out = torch.empty(source.shape[1:], dtype=torch.int64)
        self._engine.counts(source, out.numpy())
        return out

    def _map(self, shape: MapShape, offset: int, role: Role) -> Any:
        self.reserve(offset + self.nbytes(shape, role))
        return self._engine.map(self._arena, offset, *_sizes(shape), self._kind(role))

    def _kind(self, role: Role) -> Any:
        kinds = self._native.Kind
        if role is Role.SPIKES:
            return kinds.SPIKES
        return kinds.FLOAT16 if role in self._halves else kinds.FLOAT32

    def _is_half(self, one: Any) -> bool:
        return bool(one.kind == self._native.Kind.FLOAT16)

    def _factor(self, source: Any, into: Any, accumulate: bool) -> float:
        """Return by what a gradient is multiplied on its way to another map, which takes its scale if it may."""
        if not accumulate:
            into.scale = source.scale
        return float((into.scale or 1.0) / (source.scale or 1.0))

    def _terms(self, terms: Sequence[InputTerm]) -> list[Any]:
        return [
            self._engine.map_term(term.value)
            if term.affine is None
            else self._engine.current_term(term.value, _vector(term.affine.scale), _vector(term.affine.shift))
            for term in terms
        ]

    def _neuron(self, neuron: LIFParameters) -> Any:
        surrogate = getattr(self._native.Surrogate, neuron.surrogate.upper())
        alpha = resolve_surrogate(neuron.surrogate, neuron.alpha).alpha
        return self._native.Neuron(
            neuron.tau,
            neuron.v_threshold,
            neuron.v_reset,
            neuron.soft_reset,
            neuron.decay_input,
            neuron.detach_reset,
            surrogate,
            alpha,
        )

    def _stream_dense(self, current: Any, grad_x: Any, affine: tuple[Any, ...], dense: DenseGradientSink) -> None:
        channels, *rest = current.connections.dense_shape
        together = self._engine.dense_gradient_channels
        for first in range(0, channels, together):
            piece = torch.empty(min(together, channels - first), *rest)
            self._engine.dense_gradient(current, grad_x, *affine, first, len(piece), piece.numpy())
            dense(first, piece)


def _scale_for(rms: float) -> float:
    """Return the power of two that brings an rms near 1, where fp16 has most room both ways; 0 if all are 0."""
    return 2.0 ** -round(math.log2(rms)) if rms > 0 and math.isfinite(rms) else 0.0


def _sizes(shape: MapShape) -> tuple[int, int, int, int]:
    return shape.steps, shape.channels, shape.height, shape.width


def _scaled(values: Tensor, factor: float) -> Any:
    return _vector(values if factor == 1 else values * factor)


def _vector(values: Tensor) -> Any:
    return values.detach().to(torch.float64).contiguous().numpy()
