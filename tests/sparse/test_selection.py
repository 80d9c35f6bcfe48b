"""Exact top-k with ordered ties, and random numbers by counter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ndsnn.sparse.selection import largest, random_scores, smallest, stream_key


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
@settings(max_examples=200, deadline=None)
def test_smallest_and_largest_take_ties_from_the_lowest_index(values, data):
    count = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    by_rank = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert smallest(scores, count).tolist() == sorted(by_rank[:count])
    by_rank = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert largest(scores, count).tolist() == sorted(by_rank[:count])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_works(dtype):
    assert smallest(torch.tensor([3, 1, 2, 1], dtype=dtype), 2).tolist() == [1, 3]


def test_negative_zero_ties_with_zero():
    assert smallest(torch.tensor([0.0, -0.0, -0.0]), 1).tolist() == [0]


def test_split_mix_64_first_numbers():
    """SplitMix64 with seed 0 gives 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F."""
    found = random_scores(0, torch.tensor([1, 2, 3]))
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert found.tolist() == [(z >> 11) * 2.0**-53 for z in expected]


def test_a_score_does_not_depend_on_which_others_are_asked_for():
    key = stream_key("grow", 1, "2", "layer")
    whole = random_scores(key, torch.arange(1000))
    assert torch.equal(random_scores(key, torch.tensor([999, 3])), whole[[999, 3]])


def test_scores_look_uniform_and_streams_differ():
    scores = random_scores(stream_key("a"), torch.arange(100_000))
    assert scores.min() >= 0
    assert scores.max() < 1
    histogram = torch.histc(scores, 20, 0, 1)
    assert ((histogram - 5000) ** 2 / 5000).sum() < 45  # χ² with 19 degrees of freedom, p < 0.001
    other = random_scores(stream_key("b"), torch.arange(100_000))
    assert abs(torch.corrcoef(torch.stack([scores, other]))[0, 1]) < 0.01


def test_stream_keys_separate_their_parts():
    assert len({stream_key("a", "bc"), stream_key("ab", "c"), stream_key("a", "b", "c"), stream_key("abc")}) == 4
