"""Maps of the native back end, filled at random, for kernels that run alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ndsnn.engine.native import NativeBackend
from ndsnn.engine.ops import InputTerm, MapShape, Role
from ndsnn.neurons import LIFParameters

REPEATER = LIFParameters(decay_input=False)
"""A neuron that fires where it gets 2, and where it gets 0 stays at 0."""


class RandomMaps:
    """Makes maps, each with an arena of its own, so that none shares bytes with another.

    Args:
        time_steps: T.
        samples: N.
        precision: As in `accelerate`.
        seed: Of what fills them.

    Attributes:
        backend: Any map and connection set goes with it.
    """

    def __init__(self, time_steps: int, samples: int, precision: str, seed: int) -> None:
        self._size = time_steps, samples, precision
        self._generator = torch.Generator().manual_seed(seed)
        self.backend: Any = NativeBackend(*self._size)

    def nbytes(self, shape: MapShape, role: Role) -> int:
        """Return the bytes of a map."""
        return int(self.backend.nbytes(shape, role))

    def empty(self, shape: MapShape, role: Role) -> Any:
        """Return a map that holds nothing yet."""
        owner: Any = NativeBackend(*self._size)
        return owner.spikes(shape) if role is Role.SPIKES else owner.floats(shape, role=role)

    def spikes(self, shape: MapShape, rate: float) -> Any:
        """Return a map in which everything fires with probability `rate`."""
        filled = self.empty(shape, Role.SPIKES)
        self.backend.neuron_forward(
            [InputTerm(self._loaded(2 * self._busy(shape, rate), Role.VALUES), None)], REPEATER, 1, filled
        )
        return filled

    def floats(self, shape: MapShape, rate: float = 1.0, role: Role = Role.VALUES) -> Any:
        """Return a map of normal values, each of which is replaced by 0 with probability 1 − `rate`."""
        size = self._shape_of(shape)
        return self._loaded(torch.randn(size, generator=self._generator) * self._busy(shape, rate), role)

    def _loaded(self, values: Tensor, role: Role) -> Any:
        steps, _, *rest = values.shape
        filled = self.empty(MapShape(steps, *rest), role)
        self.backend.load(values, filled)
        return filled

    def _busy(self, shape: MapShape, rate: float) -> Tensor:
        return (torch.rand(self._shape_of(shape), generator=self._generator) < rate).float()

    def _shape_of(self, shape: MapShape) -> tuple[int, ...]:
        return shape.steps, self._size[1], shape.channels, shape.height, shape.width
