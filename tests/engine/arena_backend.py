"""The reference back end with maps that really lie in one arena, so that a wrong plan gives wrong numbers."""

import math

import torch

from ndsnn.engine.ops import MapShape, Role
from ndsnn.engine.reference import ReferenceBackend

ALIGNMENT = 64


class ArenaBackend(ReferenceBackend):
    """Maps are views of one vector, full of NaN when they are made; `made` lists all back ends of this kind."""

    made: list["ArenaBackend"] = []  # noqa: RUF012

    def __init__(self, time_steps: int, samples: int, dtype: torch.dtype = torch.float64, in_place: bool = True):
        super().__init__(time_steps, samples, dtype)
        self.arena = torch.empty(0, dtype=dtype)
        self.in_place = in_place
        self.made.append(self)

    def nbytes(self, shape: MapShape, role: Role) -> int:
        return math.ceil(super().nbytes(shape, role) / ALIGNMENT) * ALIGNMENT

    def reserve(self, nbytes: int) -> None:
        if nbytes > self.arena.nbytes:
            self.arena = torch.full((nbytes // self.dtype.itemsize,), torch.nan, dtype=self.dtype)

    def floats(self, shape: MapShape, offset: int = 0, role: Role = Role.VALUES) -> torch.Tensor:
        assert offset % ALIGNMENT == 0
        sizes = (shape.steps, self.samples, shape.channels, shape.height, shape.width)
        begin = offset // self.dtype.itemsize
        assert begin + math.prod(sizes) <= len(self.arena)
        return self.arena[begin : begin + math.prod(sizes)].view(sizes).fill_(torch.nan)

    def writes_in_place(self, connections) -> bool:
        return self.in_place and super().writes_in_place(connections)
