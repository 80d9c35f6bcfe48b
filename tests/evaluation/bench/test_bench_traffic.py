"""What kernels can't do without, against convolutions by torch and values worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bench import needs_native
from torch.nn import functional

from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import MapShape
from ndsnn.evaluation.bench.limits import Limits, probe_limits
from ndsnn.evaluation.bench.traffic import synapse_macs, weight_bytes


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 2),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    density=st.sampled_from([None, 0.1, 0.5]),
)
def test_macs_are_the_products_that_a_convolution_adds_up(kernel, stride, padding, size, density):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(4, 3, *kernel, generator=generator, dtype=torch.float64) < (density or 1.0)
    positions = None if density is None else mask.flatten().nonzero().flatten()
    synapse = Synapse("layer", 4, 3, kernel, stride, padding)
    ones = torch.ones(1, 3, *size, dtype=torch.float64)
    products = functional.conv2d(ones, mask.double(), stride=stride, padding=padding).sum()
    assert synapse_macs(synapse, positions, MapShape(5, 3, *size), 7) == int(products) * 5 * 7


def test_macs_by_hand():
    # 3×3 taps on a 2×2 map: every output sees the whole map, 4 taps of 9.
    assert (
        synapse_macs(Synapse("layer", 10, 6, (3, 3), 1, (1, 1)), None, MapShape(1, 6, 2, 2), 1) == 10 * 6 * 4 * 4
    )
    assert synapse_macs(Synapse("layer", 10, 6), torch.tensor([0, 59]), MapShape(4, 6, 1, 1), 8) == 2 * 4 * 8


def test_a_sparse_layer_is_read_with_its_positions():
    assert weight_bytes(100, None) == 400
    assert weight_bytes(100, torch.arange(100)) == 800


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ((2e9, 0, 0), (0.2, "arithmetic")),
        ((2e9, 3e9, 0), (0.3, "memory")),
        # 1 GB is copied at 5 GB/s, 2 GB more are read at 10 GB/s.
        ((0, 3e9, 1e9), (0.4, "memory")),
        ((0, 1e9, 2e9), (0.4, "memory")),
    ],
)
def test_the_least_time_of_a_kernel(work, expected):
    seconds, limit = Limits(fma_gmacs=10.0, read_gbs=10.0, write_gbs=5.0).least_seconds(*map(int, work))
    assert (pytest.approx(seconds), limit) == expected


@needs_native
def test_probes_find_a_machine(monkeypatch):
    monkeypatch.setattr("ndsnn.evaluation.bench.limits.PROBE_SECONDS", 0.01)
    limits = probe_limits("", nbytes=2**22)
    # Slower than any machine, and faster than any.
    assert 0.1 < limits.fma_gmacs < 1e5
    assert 0.1 < limits.write_gbs < 1e5
    assert 0.1 < limits.read_gbs < 1e5
