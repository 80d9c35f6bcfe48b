from hypothesis import given
from hypothesis import strategies as st

from ndsnn.engine import memory
from ndsnn.engine.memory import Lifetime, available_memory, peak_live_bytes, place

LIFETIMES = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(64 * size, first, first + length),
        st.integers(0, 20),
        st.integers(0, 15),
        st.integers(0, 15),
    ),
    max_size=25,
)


def test_maps_that_are_never_alive_together_share_bytes():
    assert place([Lifetime(64, 0, 1), Lifetime(64, 2, 3), Lifetime(128, 4, 4)]) == ([0, 0, 0], 128)
    assert place([Lifetime(64, 0, 1), Lifetime(64, 1, 3)]) == ([0, 64], 128)


def test_the_smallest_gap_that_holds_a_map_is_taken():
    staying = [Lifetime(448, 0, 9), Lifetime(320, 0, 9)]
    leaving_gaps = [Lifetime(512, 0, 3), Lifetime(384, 0, 3)]
    offsets, total = place([*staying, *leaving_gaps, Lifetime(192, 5, 9)])
    assert offsets == [512, 1344, 0, 960, 960]
    assert total == 1664


def test_nothing_to_place():
    assert place([]) == ([], 0)
    assert peak_live_bytes([]) == 0


@given(LIFETIMES)
def test_no_two_live_maps_overlap_and_little_is_wasted(lifetimes):
    offsets, total = place(lifetimes)
    assert (offsets, total) == place(list(lifetimes))
    for i, one in enumerate(lifetimes):
        assert offsets[i] >= 0
        assert offsets[i] + one.nbytes <= total
        for j in range(i):
            other = lifetimes[j]
            if one.first <= other.last and other.first <= one.last:
                apart = offsets[i] + one.nbytes <= offsets[j] or offsets[j] + other.nbytes <= offsets[i]
                assert apart or not one.nbytes or not other.nbytes
    assert peak_live_bytes(lifetimes) <= total <= 2 * peak_live_bytes(lifetimes)


@given(LIFETIMES)
def test_peak_is_the_largest_sum_over_all_steps(lifetimes):
    sums = [sum(o.nbytes for o in lifetimes if o.first <= step <= o.last) for step in range(40)]
    assert peak_live_bytes(lifetimes) == max(sums)


def test_available_memory(tmp_path, monkeypatch):
    here = available_memory()
    assert here is None or here > 2**20
    info = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMORY_INFO", info)
    assert available_memory() is None
    info.write_text("MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n")
    assert available_memory() == 12345678 * 1024
    info.write_text("MemAvailable:\n")
    assert available_memory() is None
