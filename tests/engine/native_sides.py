"""Both back ends behind one face that takes and gives tensors, and how close their answers have to be.

Every map of the native side is filled with set bits before it is handed out (NaN as floats, spikes everywhere as
bits), also where no sample lies, so that an operation that leaves a place out shows.
"""

import os
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from ndsnn.engine import library, native
from ndsnn.engine.ops import InputTerm, MapShape, Role
from ndsnn.engine.reference import ReferenceBackend
from ndsnn.neurons import LIFParameters

needs_native = pytest.mark.skipif(
    not native.available(), reason=f"no native engine: {native.unavailable_reason()}"
)

ISAS = tuple(library.load().available_isas()) if native.available() else ("none",)
"""Instruction sets of this machine, the best one first."""

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

FORWARD, GRADIENT = 1e-6, 1e-5
STATISTICS = 3e-6
"""Of Σy and Σy²: partial sums of some hundred values are float32, and equal values all round the same way."""
ROUNDOFF = 2.0**-24
"""Of float32, relative."""

EVERY_SPIKE = LIFParameters(tau=2.0, v_threshold=1.0, v_reset=0.0, decay_input=False)
"""Fires where its input is 2 and not where it is 0."""


def largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, terms: Tensor) -> None:
    """Compare a tensor of sums of products.

    |actual − expected| ≤ tolerance·max|expected| + 2⁻²⁴·max `terms`, where `terms` are Σ|terms| of each sum: where
    all sums of a tensor happen to cancel, its largest value says nothing about what float32 can do.
    """
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs()
    allowed = tolerance * largest(expected) + ROUNDOFF * largest(terms)
    assert not error.isnan().any()
    assert largest(error) <= allowed, f"error {largest(error):.3g}, allowed {allowed:.3g}"


def assert_close_sums(actual: Tensor, expected: Tensor, tolerance: float, terms: Tensor) -> None:
    """Compare sums over whole maps one by one, each relative to its own Σ|terms|: most of it cancels."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs()
    assert not error.isnan().any()
    assert (error <= tolerance * terms).all(), f"errors {error}, allowed {tolerance * terms}"


def is_exact(terms: Tensor) -> bool:
    """Say whether sums of whole numbers with these Σ|terms| are without any rounding in float32."""
    return largest(terms) < 2**24


class ReferenceSide:
    """The truth: float64 in torch.

    Args:
        steps: T.
        samples: N.
    """

    dtype = torch.float64

    def __init__(self, steps: int, samples: int) -> None:
        self.backend = ReferenceBackend(steps, samples, torch.float64)

    def empty(self, shape: MapShape, spikes: bool = False) -> Tensor:
        return self.backend.floats(shape).fill_(torch.nan)

    def floats(self, values: Tensor) -> Tensor:
        return values.to(self.dtype, copy=True)

    def spikes(self, values: Tensor) -> Tensor:
        return values.to(self.dtype, copy=True)


class NativeSide:
    """The back end to be tested, on an instruction set of choice; its maps lie one behind the other.

    Args:
        steps: T.
        samples: N.
        isa: A name of `ISAS`.
        nbytes: Of the arena at first; it grows.
    """

    dtype = torch.float32

    def __init__(self, steps: int, samples: int, isa: str = ISAS[0], nbytes: int = 2**20) -> None:
        with mock.patch.dict(os.environ, {"NDSNN_ISA": isa}):
            self.backend = native.NativeBackend(steps, samples)
        self.backend.reserve(nbytes)
        self.samples = samples
        self.end = 0
        self._places: list[tuple[Any, int, int]] = []
        # An engine of full blocks sees every lane of the same memory.
        lanes = library.load().Engine(1, isa).lanes
        self._raw, self._row = library.load().Engine(lanes, isa), 4 * lanes

    def empty(self, shape: MapShape, spikes: bool = False):
        nbytes = self.backend.nbytes(shape, Role.SPIKES if spikes else Role.VALUES)
        made = (self.backend.spikes if spikes else self.backend.floats)(shape, self.end)
        memory = self._memory(self.end, nbytes)
        ones = torch.full((1, self.lanes, *memory.shape[1:]), -1, dtype=torch.int32)
        self._raw.load(ones.view(torch.float32).numpy(), memory)
        self._places.append((made, self.end, nbytes))
        self.end += nbytes
        return made

    def floats(self, values: Tensor):
        made = self.empty(shape_of(values))
        self.backend.load(values, made)
        return made

    def spikes(self, values: Tensor):
        made = self.empty(shape_of(values), spikes=True)
        term = InputTerm(self.floats(2 * values), None)
        self.backend.neuron_forward([term], EVERY_SPIKE, 1, made)
        assert torch.equal(self.backend.unload(made), values)
        return made

    @property
    def lanes(self) -> int:
        """Samples of a block."""
        return self._row // 4

    def place(self, made: Any) -> tuple[int, int]:
        """Return offset and bytes of a map handed out here."""
        return next((offset, nbytes) for one, offset, nbytes in self._places if one is made)

    def memory(self, offset: int, nbytes: int) -> Tensor:
        """Return the bits of a part of the arena as int32 [vectors, lanes], in the order of their addresses."""
        memory = self._memory(offset, nbytes)
        values = torch.empty(1, self.lanes, *memory.shape[1:])
        self._raw.unload(memory, values.numpy())
        return values.view(self.lanes, -1).T.contiguous().view(torch.int32)

    def _memory(self, offset: int, nbytes: int):
        kind = library.load().Kind.FLOAT32
        return self._raw.map(self.backend._arena, offset, 1, 1, 1, (nbytes - 64) // self._row, kind)


def shape_of(values: Tensor) -> MapShape:
    steps, _, channels, height, width = values.shape
    return MapShape(steps, channels, height, width)
