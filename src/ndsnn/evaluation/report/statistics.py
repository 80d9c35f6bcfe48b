"""Means over seeds, and whether a difference between two methods is more than their noise.

The test is the two-sided paired t-test over the seeds that both have, with Holm's correction over what is
compared. With 3 seeds an exact sign-flip test can't give less than p = 0.25; the t-test can, at the price of an
assumption: the differences between two methods at the same seed are normally distributed around their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.05
"""A corrected p below this is called significant."""

FEWEST_SEEDS = 3
"""Below so many pairs no test is made."""


class Sample(NamedTuple):
    """Mean and spread of n values.

    Args:
        mean: Their mean.
        deviation: Sample standard deviation (divisor n − 1); None for n = 1.
        n: How many.
    """

    mean: float
    deviation: float | None
    n: int


class Comparison(NamedTuple):
    """A paired comparison of two methods.

    Args:
        difference: Mean of first − second over the shared seeds.
        low: Lower end of its 95 % confidence interval; None where no test is made.
        high: Upper end.
        n: Shared seeds.
        t: Student's t; None where no test is made.
        p: Two-sided p, uncorrected; None where no test is made.
    """

    difference: float
    low: float | None
    high: float | None
    n: int
    t: float | None
    p: float | None


def sample(values: Sequence[float]) -> Sample:
    """Return mean and sample standard deviation."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Sample(mean, None, 1)
    return Sample(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)), n)


def student_p(t: float, freedom: int) -> float:
    """Return P(|T| ≥ |t|) of Student's distribution with a whole number of degrees of freedom.

    Abramowitz and Stegun 26.7.3 and 26.7.4, with θ = atan(|t|/√ν).
    """
    theta = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    inside = (theta + sine * total) * 2 / math.pi if odd else sine * total
    return max(0.0, 1 - inside)


def student_quantile(freedom: int, level: float = LEVEL) -> float:
    """Return the t with P(|T| ≥ t) = `level`, by bisection."""
    low, high = 0.0, 1.0
    while student_p(high, freedom) > level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > level else (low, middle)
    return (low + high) / 2


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Compare two methods by the paired t-test over the seeds that both have.

    No test is made with fewer than `FEWEST_SEEDS` pairs, or where all differences are equal (accuracies are
    multiples of one over the number of test images, so that can happen by chance, and t would be infinite).

    Args:
        first: A value for each seed.
        second: The same of the other method.

    Returns:
        The comparison; None where they share no seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences = sample([first[seed] - second[seed] for seed in seeds])
    mean, deviation, n = differences
    if n < FEWEST_SEEDS or not deviation or deviation < 1e-9 * abs(mean):
        return Comparison(mean, None, None, n, None, None)
    error = deviation / math.sqrt(n)
    reach = student_quantile(n - 1) * error
    return Comparison(mean, mean - reach, mean + reach, n, mean / error, student_p(mean / error, n - 1))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's corrected p of each; those that were not tested (None) count as comparisons all the same."""
    corrected: list[float | None] = [None] * len(values)
    tested = sorted((value, place) for place, value in enumerate(values) if value is not None)
    highest = 0.0
    for rank, (value, place) in enumerate(tested):
        highest = max(highest, min(1.0, value * (len(values) - rank)))
        corrected[place] = highest
    return corrected


def clear_best(values: Mapping[str, Mapping[int, float]]) -> str | None:
    """Return the entry whose mean is highest, if it beats each of the others significantly.

    Args:
        values: For each entry a value per seed.

    Returns:
        Its key; None where there is nothing to beat, no test can be made, or the lead is within the noise.
    """
    if len(values) < 2:
        return None
    ranked = sorted(values, key=lambda key: -sample(list(values[key].values())).mean)
    best, *others = ranked
    found = [compare(values[best], values[other]) for other in others]
    corrected = holm([None if one is None else one.p for one in found])
    beaten = [
        one is not None and one.difference > 0 and p is not None and p < LEVEL
        for one, p in zip(found, corrected, strict=True)
    ]
    return best if all(beaten) else None
