"""The native back end: `Backend` in C++ kernels on bit-packed spikes (csrc/), for the CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ndsnn.engine import library
from ndsnn.engine.graph import Synapse
from ndsnn.engine.library import available, unavailable_reason
from ndsnn.engine.ops import DenseGradientSink, InputTerm, MapShape, NeuronGradient
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

    Args:
        time_steps: T.
        samples: N.
        precision: "fp32".

    Raises:
        MissingDependencyError: The extension is not built.
        ConfigError: The precision or the instruction set is not available.
    """

    def __init__(self, time_steps: int, samples: int, precision: str = "fp32") -> None:
        if precision != "fp32":
            raise ConfigError(f"precision {precision!r} is not available; use 'fp32'")
        self._native = library.load()
        self._engine = self._native.Engine(samples, instruction_set())
        self._samples = samples
        self._arena = self._native.Arena(64)

    def nbytes(self, shape: MapShape, spikes: bool) -> int:
        """Return the bytes of a map: a multiple of 64."""
        return int(self._engine.nbytes(*_sizes(shape), self._kind(spikes)))

    def reserve(self, nbytes: int) -> None:
        """Make the arena hold at least `nbytes`."""
        if nbytes > self._arena.nbytes:
            self._arena = self._native.Arena(nbytes)

    def spikes(self, shape: MapShape, offset: int = 0) -> Any:
        """Return a map of spikes, a bit each."""
        return self._map(shape, offset, True)

    def floats(self, shape: MapShape, offset: int = 0) -> Any:
        """Return a map of floats."""
        return self._map(shape, offset, False)

    def load(self, values: Tensor, into: Any) -> None:
        """Copy [S, N, C, H, W] into a map of floats."""
        self._engine.load(values.detach().contiguous().numpy(), into)

    def unload(self, value: Any) -> Tensor:
        """Return a map as [S, N, C, H, W] float32."""
        steps, channels, height, width = value.shape
        out = torch.empty(steps, self._samples, channels, height, width)
        self._engine.unload(value, out.numpy())
        return out

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
        arena = self._native.Arena(self.nbytes(shape, False))
        stored = self._engine.map(arena, 0, *_sizes(shape), self._kind(False))
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
        affine = tuple(_vector(part) for part in gradient_affine)
        if dense is not None:
            self._stream_dense(current, grad_x, affine, dense)
        values = torch.empty(current.connections.nnz)
        self._engine.synapse_backward(current, grad_x, *affine, grad_source, accumulate, values.numpy())
        return values

    def writes_in_place(self, connections: Any) -> bool:
        """Say whether the gradient may be written over its input: every row is read before it is written."""
        return bool(connections.writes_in_place)

    def max_pool(self, source: Any, side: int, out: Any) -> None:
        """OR of spikes over windows side by side."""
        self._engine.max_pool(source, side, out)

    def max_pool_backward(self, source: Any, side: int, grad_out: Any, grad_source: Any, accumulate: bool) -> None:
        """Hand the gradient to the first maximum of each window."""
        self._engine.max_pool_backward(source, side, grad_out, grad_source, accumulate)

    def avg_pool(self, source: Any, out: Any, side: int) -> None:
        """Average windows of side × side, or adaptively where side is 0."""
        self._engine.avg_pool(source, out, side)

    def avg_pool_backward(self, grad_out: Any, grad_source: Any, side: int, accumulate: bool) -> None:
        """Spread the gradient evenly over each window."""
        self._engine.avg_pool_backward(grad_out, grad_source, side, accumulate)

    def relabel(self, source: Any, shape: MapShape) -> Any:
        """Return the same memory as a map of another shape."""
        return self._engine.relabel(source, shape.channels, shape.height, shape.width)

    def add(self, source: Any, into: Any) -> None:
        """Into += source."""
        self._engine.add(source, into)

    def counts(self, source: Any) -> Tensor:
        """Return how many entries are non-zero at each place, [C, H, W] int64."""
        out = torch.empty(source.shape[1:], dtype=torch.int64)
        self._engine.counts(source, out.numpy())
        return out

    def _map(self, shape: MapShape, offset: int, spikes: bool) -> Any:
        self.reserve(offset + self.nbytes(shape, spikes))
        return self._engine.map(self._arena, offset, *_sizes(shape), self._kind(spikes))

    def _kind(self, spikes: bool) -> Any:
        kinds = self._native.Kind
        return kinds.SPIKES if spikes else kinds.FLOAT32

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


def _sizes(shape: MapShape) -> tuple[int, int, int, int]:
    return shape.steps, shape.channels, shape.height, shape.width


def _vector(values: Tensor) -> Any:
    return values.detach().to(torch.float64).contiguous().numpy()
