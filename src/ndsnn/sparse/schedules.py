"""When the topology is updated, how sparse it is by then and how many connections die (Eq. 4 and 5)."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from fractions import Fraction

from ndsnn.errors import ScheduleError
from ndsnn.sparse.distributions import round_half_up

DEFAULT_INTERVAL = 500
"""ΔT in steps for long runs (the paper does not give it)."""

SHORT_RUN_ROUNDS = 30
"""Rounds that a run too short for `DEFAULT_INTERVAL` is divided into."""


@dataclass(frozen=True)
class UpdateSchedule:
    """The update steps t0 + q·ΔT for q = 1 … n, in completed optimizer steps.

    At q = 0 the network has its initial topology; the first change comes with round 1.

    Args:
        start: t0, the step at which the schedule begins.
        interval: ΔT, the steps between two rounds.
        rounds: n, the number of rounds.
    """

    start: int
    interval: int
    rounds: int

    @property
    def steps(self) -> tuple[int, ...]:
        """All update steps in order."""
        return tuple(self.start + q * self.interval for q in range(1, self.rounds + 1))

    def round_at(self, step: int) -> int | None:
        """Return q if `step` is the update step of round q, else None."""
        q, rest = divmod(step - self.start, self.interval)
        return q if rest == 0 and 1 <= q <= self.rounds else None


def fit_schedule(
    total_steps: int, *, interval: int | None = None, start: int = 0, stop_fraction: float = 0.75
) -> UpdateSchedule:
    """Fit the update rounds into a run.

    Args:
        total_steps: Optimizer steps of the whole run.
        interval: ΔT; None takes 500, or less for a short run so that it has 30 rounds.
        start: t0.
        stop_fraction: t0 + nΔT lies at or before this fraction of all steps.

    Raises:
        ScheduleError: A value is out of range or no round fits.
    """
    total_steps = _whole("total_steps", total_steps, 1)
    start = _whole("start", start, 0)
    if not 0 < stop_fraction <= 1:
        raise ScheduleError(f"stop_fraction is {stop_fraction!r}; it must be in (0, 1]")
    span = math.floor(Fraction(str(stop_fraction)) * total_steps) - start
    if interval is None:
        interval = min(DEFAULT_INTERVAL, max(1, span // SHORT_RUN_ROUNDS))
    interval = _whole("update_every", interval, 1)
    if span < interval:
        raise ScheduleError(
            f"no topology update fits: {total_steps} steps, start {start}, stop_fraction {stop_fraction} and "
            f"update_every {interval} leave no round; train longer or update more often"
        )
    return UpdateSchedule(start, interval, span // interval)


def _whole(name: str, value: int, least: int) -> int:
    """Return `value` as an int; whatever counts as an index does."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ScheduleError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return number


def cubic_count(initial: int, final: int, q: int, rounds: int) -> int:
    """Return the alive weights of a layer after round q (Eq. 4 in counts, exact).

    N(1 − θ(q)) = n_f + (n_i − n_f)·(1 − q/n)³, rounded to the nearest integer; round n gives n_f exactly.
    """
    left = Fraction(rounds - min(q, rounds), rounds)
    return round_half_up(final + (initial - final) * left**3)


def cosine_ratio(initial: float, least: float, q: int, rounds: int) -> float:
    """Return the death ratio of round q (Eq. 5): d_min + ½(d0 − d_min)(1 + cos(πq/n))."""
    return least + 0.5 * (initial - least) * (1 + math.cos(math.pi * q / rounds))
