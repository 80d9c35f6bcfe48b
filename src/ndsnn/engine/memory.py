"""Where maps lie in the arena: byte ranges may be shared by maps that are never alive at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_INFO = Path("/proc/meminfo")
"""Where Linux says how much memory there is."""


@dataclass(frozen=True)
class Lifetime:
    """What a map needs of the arena.

    Args:
        nbytes: Its size.
        first: Number of the step that writes it first.
        last: Number of the last step that uses it.
    """

    nbytes: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Say whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


def place(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Give every map an offset such that no two that are alive together overlap.

    Greedy best fit: the largest map first, each into the smallest gap between the maps alive together with it that
    holds it, or behind them. The same input always gives the same offsets.

    Args:
        lifetimes: Of the maps.

    Returns:
        Offset of each map in bytes, and the bytes of the arena.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].nbytes, lifetimes[i].first, i)):
        one = lifetimes[index]
        taken = sorted(
            (offsets[other], offsets[other] + lifetimes[other].nbytes)
            for other in placed
            if lifetimes[other].overlaps(one)
        )
        offsets[index] = _best_gap(taken, one.nbytes)
        placed.append(index)
    total = max((offset + one.nbytes for offset, one in zip(offsets, lifetimes, strict=True)), default=0)
    return offsets, total


def _best_gap(taken: Sequence[tuple[int, int]], nbytes: int) -> int:
    """Return the start of the smallest gap of at least `nbytes` between ascending ranges, or their end."""
    best: tuple[int, int] | None = None
    free_from = 0
    for begin, end in taken:
        gap = begin - free_from
        if gap >= nbytes and (best is None or gap < best[0]):
            best = (gap, free_from)
        free_from = max(free_from, end)
    return free_from if best is None else best[1]


def peak_live_bytes(lifetimes: Sequence[Lifetime]) -> int:
    """Return the largest sum of sizes that are alive together: no arena can be smaller."""
    starts = {one.first for one in lifetimes}
    return max((sum(o.nbytes for o in lifetimes if o.first <= step <= o.last) for step in starts), default=0)


def available_memory() -> int | None:
    """Return the bytes of memory that can be had without swapping, or None where the system does not say."""
    try:
        for line in MEMORY_INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None
