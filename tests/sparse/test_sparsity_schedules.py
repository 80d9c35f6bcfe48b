"""Eq. 4 and 5 by hand, and where the rounds lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndsnn.errors import ScheduleError
from ndsnn.sparse.schedules import UpdateSchedule, cosine_ratio, cubic_count, fit_schedule


def test_cubic_counts_by_hand():
    """100 → 20 in 4 rounds: 20 + 80·(27, 8, 1, 0)/64 = 53.75, 30, 21.25, 20; at q = 0 the initial count."""
    assert [cubic_count(100, 20, q, 4) for q in range(5)] == [100, 54, 30, 21, 20]


def test_cubic_counts_round_halves_up():
    """1 + 4/8 = 1.5 and 2 + 4/8 = 2.5."""
    assert cubic_count(5, 1, 1, 2) == 2
    assert cubic_count(6, 2, 1, 2) == 3


def test_cubic_counts_grow_where_the_end_is_denser():
    assert [cubic_count(20, 100, q, 2) for q in range(3)] == [20, 90, 100]


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(1, 600))
def test_the_last_round_is_exact_and_the_ramp_is_monotone(one, other, rounds):
    initial, final = max(one, other), min(one, other)
    counts = [cubic_count(initial, final, q, rounds) for q in range(rounds + 1)]
    assert counts[0] == initial
    assert counts[-1] == final
    assert counts == sorted(counts, reverse=True)
    assert cubic_count(initial, final, rounds + 5, rounds) == final


def test_cosine_by_hand():
    """d0 = 0.5, d_min = 0.1 over 4 rounds: 0.1 + 0.2·(1 + cos(qπ/4)), cos = 1, 0.7071, 0, −0.7071, −1."""
    found = [cosine_ratio(0.5, 0.1, q, 4) for q in range(5)]
    assert found == pytest.approx([0.5, 0.441421, 0.3, 0.158579, 0.1], abs=1e-6)
    assert found[-1] == 0.1


def test_rounds_lie_at_t0_plus_q_intervals():
    schedule = UpdateSchedule(start=7, interval=5, rounds=3)
    assert schedule.steps == (12, 17, 22)
    assert [schedule.round_at(s) for s in (0, 2, 7, 11, 12, 13, 17, 22, 27)] == [
        *(None, None, None, None, 1, None, 2, 3, None),
    ]


def test_the_interval_of_a_long_run_is_500():
    assert fit_schedule(117_300) == UpdateSchedule(0, 500, 175)  # 300 epochs of 391 steps; 87,975 = 175.95·500
    assert fit_schedule(20_000) == UpdateSchedule(0, 500, 30)


@pytest.mark.parametrize("total", [40, 100, 999, 5_000, 19_999])
def test_a_short_run_has_30_rounds_or_more(total):
    schedule = fit_schedule(total)
    assert schedule.interval < 500
    assert 30 <= schedule.rounds < 60
    assert schedule.steps[-1] <= 0.75 * total


def test_the_shortest_run_has_a_round_at_every_step():
    assert fit_schedule(8).steps == (1, 2, 3, 4, 5, 6)


@given(
    st.integers(1, 5000), st.integers(1, 800), st.integers(0, 500), st.sampled_from([0.1, 0.3, 0.7, 0.75, 0.9, 1])
)
def test_every_round_lies_in_its_part_of_the_run(total, interval, start, stop):
    last = round(stop * 100) * total // 100
    if last - start < interval:
        with pytest.raises(ScheduleError, match="no topology update fits"):
            fit_schedule(total, interval=interval, start=start, stop_fraction=stop)
        return
    steps = fit_schedule(total, interval=interval, start=start, stop_fraction=stop).steps
    assert steps[0] == start + interval
    assert last - interval < steps[-1] <= last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"total_steps": 0}, "total_steps is 0"),
        ({"total_steps": 10.5}, "total_steps is 10.5"),
        ({"total_steps": 100, "start": -1}, "start is -1"),
        ({"total_steps": 100, "stop_fraction": 0}, "stop_fraction is 0"),
        ({"total_steps": 100, "stop_fraction": 1.01}, "stop_fraction is 1.01"),
        ({"total_steps": 100, "interval": 0}, "update_every is 0"),
        ({"total_steps": 100, "interval": 2.5}, "update_every is 2.5"),
        ({"total_steps": 100, "interval": 76}, "no topology update fits: 100 steps"),
        ({"total_steps": 100, "start": 75}, "no topology update fits"),
        ({"total_steps": 1}, "no topology update fits"),
    ],
)
def test_errors_name_the_value(arguments, words):
    with pytest.raises(ScheduleError, match=words):
        fit_schedule(**arguments)
