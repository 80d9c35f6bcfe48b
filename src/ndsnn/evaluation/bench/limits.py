"""What this machine can do at best: multiply-adds out of registers, bytes from and to memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ndsnn.engine import library

PROBE_BYTES = 2**28
"""Size of the arrays that are read and copied: far more than caches hold."""

PROBE_SECONDS = 0.2
"""How long each probe of the arithmetic runs."""

PROBES = 5
"""How often each probe runs; the best one counts."""


@dataclass(frozen=True)
class Limits:
    """Rates of all threads together.

    Args:
        fma_gmacs: 10⁹ fp32 multiply-adds per second on values in registers.
        read_gbs: 10⁹ bytes per second that a sum over a large array reads.
        write_gbs: 10⁹ bytes per second that a copy of a large array writes while it reads as many.
    """

    fma_gmacs: float
    read_gbs: float
    write_gbs: float

    def least_seconds(self, macs: int, read: int, written: int) -> tuple[float, str]:
        """Return the least time for a kernel whose data lies in memory, and what sets it.

        What is read beyond what is written goes at the rate of reading, the rest at that of copying.

        Args:
            macs: Multiply-adds (an addition of a weight counts as one).
            read: Bytes.
            written: Bytes.

        Returns:
            Seconds, and "arithmetic" or "memory".
        """
        arithmetic = macs / (self.fma_gmacs * 1e9)
        memory = written / (self.write_gbs * 1e9) + max(read - written, 0) / (self.read_gbs * 1e9)
        return max((arithmetic, "arithmetic"), (memory, "memory"))


def probe_limits(isa: str, nbytes: int = PROBE_BYTES) -> Limits:
    """Measure the limits with the threads that torch is set to.

    Args:
        isa: Instruction set of the engine's kernels.
        nbytes: Size of the arrays in memory.
    """
    native = library.load()
    source = torch.ones(nbytes // 4)
    target = torch.zeros_like(source)
    return Limits(
        max(float(native.fma_rate(isa, PROBE_SECONDS)) for _ in range(PROBES)) / 1e9,
        nbytes / _best_seconds(source.sum) / 1e9,
        nbytes / _best_seconds(lambda: target.copy_(source)) / 1e9,
    )


def _best_seconds(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(PROBES + 1):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best
