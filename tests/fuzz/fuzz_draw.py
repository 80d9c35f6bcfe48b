"""Choices read off a string of bytes, so that a fuzzer that changes bytes changes what is done."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

EDGES = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    9,
    16,
    17,
    64,
    255,
    2**15,
    2**15 + 1,
    2**24,
    2**31 - 1,
    -(2**31),
    2**31,
    2**63,
    2**64,
)
"""Integers at which something ends."""


class Draw:
    """A reader of choices; behind the end of the bytes every choice is the first.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    @property
    def over(self) -> bool:
        return self.place >= len(self.data)

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1] if self.place <= len(self.data) else 0

    def below(self, bound: int) -> int:
        """An integer of 0 … bound - 1, bound at most 65536."""
        return (self.byte() if bound <= 256 else self.byte() << 8 | self.byte()) % bound

    def of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def rarely(self) -> bool:
        """True for one byte in sixteen."""
        return self.byte() % 16 == 15

    def small(self) -> int:
        """A size that is usual, or an edge."""
        return self.of(EDGES) if self.rarely() else 1 + self.below(6)

    def near(self, right: int) -> int:
        """What is right, or rarely something else."""
        if not self.rarely():
            return right
        return right + self.below(5) - 2 if self.byte() % 2 else self.of(EDGES)
