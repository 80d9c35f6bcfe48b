"""Clocks: contestants timed in turn, and what their rounds say of each other."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

Name = TypeVar("Name")

Clock = Callable[[], float]
"""Returns seconds that only grow."""


class Ratio(NamedTuple):
    """How many times faster one contestant is than another.

    Attributes:
        median: Over all rounds.
        lowest: Of any round.
        highest: Of any round.
    """

    median: float
    lowest: float
    highest: float


def interleaved(
    contestants: Mapping[Name, Callable[[], object]], rounds: int, clock: Clock = time.perf_counter
) -> dict[Name, list[float]]:
    """Time all contestants, one after the other in every round, so that a slow moment of the machine hits all.

    Each runs once before the first round, untimed.

    Args:
        contestants: What to run, by name.
        rounds: How often, at least 1.
        clock: Seconds.

    Returns:
        For each contestant its seconds in each round.
    """
    for run in contestants.values():
        run()
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    with _collector_off():
        for _ in range(rounds):
            # All that has been made since the last round is in the youngest generation, as the collector is off.
            gc.collect(0)
            for name, run in contestants.items():
                begin = clock()
                run()
                seconds[name].append(clock() - begin)
    return seconds


def median_seconds(run: Callable[[], object], rounds: int, clock: Clock = time.perf_counter) -> float:
    """Return the median time of `run` over `rounds`, after one run untimed."""
    return statistics.median(interleaved({"": run}, rounds, clock)[""])


def fastest(
    contestants: Mapping[Name, Callable[[], object]], rounds: int, clock: Clock = time.perf_counter
) -> Name:
    """Return the name of the contestant of the smallest median."""
    seconds = interleaved(contestants, rounds, clock)
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """Return how many times longer one took than the other, round by round.

    Args:
        slower: Seconds in each round, such as the rival's.
        faster: Seconds in the same rounds.
    """
    each = [one / other for one, other in zip(slower, faster, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector from running in anybody's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
