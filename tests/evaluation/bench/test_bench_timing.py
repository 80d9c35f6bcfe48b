"""Rounds and ratios on a clock that the contestants turn themselves."""

import gc

import pytest

from ndsnn.evaluation.bench.timing import fastest, interleaved, median_seconds, ratio


class FakeTime:
    """A clock and contestants that take known times on it."""

    def __init__(self):
        self.now, self.ran = 100.0, []

    def clock(self):
        return self.now

    def taking(self, name, *seconds):
        """Return a contestant whose warm-up takes an hour and whose rounds take `seconds`."""
        left = [3600.0, *seconds]

        def run():
            self.ran.append(name)
            self.now += left.pop(0)

        return run


def test_contestants_take_turns_after_a_warm_up_each():
    time = FakeTime()
    contestants = {"a": time.taking("a", 3.0, 1.0), "b": time.taking("b", 0.5, 0.25)}
    assert interleaved(contestants, 2, time.clock) == {"a": [3.0, 1.0], "b": [0.5, 0.25]}
    assert time.ran == ["a", "b", "a", "b", "a", "b"]


def test_the_ratio_is_taken_within_each_round():
    # Medians alone would say 4 / 2 = 2.
    assert ratio([4.0, 9.0, 1.0], [2.0, 3.0, 0.25]) == (3.0, 2.0, 4.0)
    assert ratio([4.0, 9.0], [2.0, 3.0]).median == 2.5


def test_rounds_that_do_not_pair_up_are_no_ratio():
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_medians():
    time = FakeTime()
    assert median_seconds(time.taking("a", 5.0, 1.0, 2.0), 3, time.clock) == 2.0
    one, two = time.taking("one", 1.0, 9.0, 9.0), time.taking("two", 4.0, 4.0, 99.0)
    assert fastest({"one": one, "two": two}, 3, time.clock) == "two"


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_rests_while_timing_and_is_then_as_it_was(before):
    seen = []
    try:
        (gc.enable if before else gc.disable)()
        interleaved({"a": lambda: seen.append(gc.isenabled())}, 2)
        assert seen[1:] == [False, False]
        assert gc.isenabled() == before
        with pytest.raises(StopIteration):
            interleaved({"a": iter(["warm-up"]).__next__}, 1)
        assert gc.isenabled() == before
    finally:
        gc.enable()


def test_garbage_does_not_pile_up_over_rounds():
    class Cycle:
        alive = 0

        def __init__(self):
            self.me, Cycle.alive = self, Cycle.alive + 1

        def __del__(self):
            Cycle.alive -= 1

    alive = []
    interleaved({"a": lambda: (Cycle(), alive.append(Cycle.alive))}, 20)
    assert max(alive) <= 3
