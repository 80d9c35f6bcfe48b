"""The statistics of reports against scipy, hand-computed values and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from ndsnn.evaluation.report.statistics import clear_best, compare, holm, sample, student_p, student_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29])
@pytest.mark.parametrize("t", [0.0, 0.3, -1.0, 2.5, 12.7, 60.0])
def test_p_of_students_distribution(t, freedom):
    assert student_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 5, 20])
def test_quantile(freedom):
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_mean_and_sample_deviation_by_hand():
    assert sample([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7.0), 3))
    assert sample([4.0]) == (4.0, None, 1)


def test_paired_test_takes_the_shared_seeds_alone():
    first = {0: 90.1, 1: 91.4, 2: 90.9, 3: 92.0, 7: 10.0}
    second = {0: 89.0, 1: 90.7, 2: 90.3, 3: 90.2, 8: 99.0}
    found = compare(first, second)
    assert found is not None
    seeds = [0, 1, 2, 3]
    expected = stats.ttest_rel([first[s] for s in seeds], [second[s] for s in seeds])
    interval = expected.confidence_interval(0.95)
    assert found.n == 4
    assert found.p == pytest.approx(expected.pvalue)
    assert found.t == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_what_cannot_be_tested():
    assert compare({0: 1.0}, {1: 2.0}) is None
    two = compare({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.5})
    assert two is not None
    assert two.difference == 1.25
    assert two.p is None
    level = compare({0: 1.5, 1: 2.5, 2: 3.5}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert level is not None
    assert (level.difference, level.p) == (0.5, None)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, None]) == [0.04, None], "an untested comparison counts"
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_clear_best():
    noise = (0.0, 0.1, -0.1)
    other = (0.05, -0.05, 0.02)
    best = {s: 92 + x for s, x in enumerate(noise)}
    near = {s: 91.99 + x for s, x in enumerate(other)}
    far = {s: 90 + x for s, x in enumerate(other)}
    assert clear_best({"a": best, "b": far}) == "a"
    assert clear_best({"b": far, "a": best}) == "a"
    assert clear_best({"a": best, "b": far, "c": near}) is None, "the runner-up is within noise"
    assert clear_best({"a": best}) is None
    assert clear_best({"a": {0: 92.0}, "b": {0: 80.0}}) is None, "one seed shows nothing"


@pytest.mark.parametrize("methods", [2, 4, 7])
def test_equal_methods_are_seldom_told_apart(methods):
    """Choosing the best and then testing it does not make more than 5 % false bolds."""
    generator = np.random.default_rng(methods)
    trials = 1500
    values = generator.normal(90, 0.3, (trials, methods, 3))
    false = sum(
        clear_best({str(m): dict(enumerate(trial[m])) for m in range(methods)}) is not None for trial in values
    )
    assert false / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
