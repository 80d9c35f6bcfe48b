"""What the native back end does to whole maps, against the reference in float64; and what it writes where."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from native_layers import SAMPLES, random, whole_or_normal
from native_sides import FORWARD, ISAS, NativeSide, ReferenceSide, assert_close, few, needs_native

from ndsnn.engine.ops import MapShape, Role

pytestmark = needs_native

STEPS, SIDES, SEEDS = st.integers(1, 4), st.integers(1, 20), st.integers(0, 10**6)
CHANNELS = st.integers(1, 5)
ON = st.sampled_from(ISAS)


def spikes(shape, seed, rate=0.4):
    return (torch.rand(shape, generator=random(seed)) < rate).float()


def both(steps, samples, isa):
    return NativeSide(steps, samples, isa), ReferenceSide(steps, samples)


class TestCopies:
    @few
    @given(STEPS, SAMPLES, CHANNELS, SIDES, SIDES, SEEDS, ON)
    def test_floats_come_back_bit_by_bit(self, steps, samples, channels, height, width, seed, isa):
        values = torch.randn(steps, samples, channels, height, width, generator=random(seed))
        special = torch.tensor([torch.nan, torch.inf, -0.0, 1e-45])
        values.view(-1)[: len(special)] = special[: values.numel()]
        native = NativeSide(steps, samples, isa)
        back = native.backend.unload(native.floats(values))
        assert torch.equal(back.view(torch.int32), values.view(torch.int32))

    @few
    @given(STEPS, SAMPLES, CHANNELS, SIDES, SIDES, SEEDS, st.sampled_from([0.0, 0.1, 1.0]), ON)
    def test_counts_of_spikes_and_floats(self, steps, samples, channels, height, width, seed, rate, isa):
        values = spikes((steps, samples, channels, height, width), seed, rate)
        native = NativeSide(steps, samples, isa)
        expected = values.sum((0, 1)).long()
        assert torch.equal(native.backend.counts(native.spikes(values)), expected)
        floats = values * torch.tensor([-3.0, torch.nan, 1e-40])[torch.arange(width) % 3]
        floats = floats.masked_fill(values == 0, -0.0)
        assert torch.equal(native.backend.counts(native.floats(floats)), expected)

    def test_relabelled_map_is_the_same_map(self):
        native = NativeSide(2, 9)
        values = torch.randn(2, 9, 4, 3, 5, generator=random(0))
        source = native.floats(values)
        flat = native.backend.relabel(source, MapShape(2, 60, 1, 1))
        assert torch.equal(native.backend.unload(flat), values.view(2, 9, 60, 1, 1))
        native.backend.load(torch.zeros(2, 9, 60, 1, 1), flat)
        assert not native.backend.unload(source).any()
        bits = native.spikes(spikes((2, 9, 4, 3, 5), 1))
        flat = native.backend.relabel(bits, MapShape(2, 60, 1, 1))
        assert torch.equal(native.backend.unload(flat), spikes((2, 9, 4, 3, 5), 1).view(2, 9, 60, 1, 1))

    @few
    @given(STEPS, SAMPLES, CHANNELS, SIDES, SIDES, SEEDS, ON)
    def test_add_is_that_of_float32(self, steps, samples, channels, height, width, seed, isa):
        one, other = torch.randn(2, steps, samples, channels, height, width, generator=random(seed))
        native = NativeSide(steps, samples, isa)
        into = native.floats(other)
        native.backend.add(native.floats(one), into)
        assert torch.equal(native.backend.unload(into), one + other)

    @pytest.mark.parametrize("role", [Role.SPIKES, Role.VALUES])
    def test_bytes_are_a_multiple_of_what_offsets_are(self, role):
        native = NativeSide(3, 9)
        shape = MapShape(3, 5, 7, 1)
        nbytes = native.backend.nbytes(shape, role)
        assert nbytes % 64 == 0
        assert nbytes * 8 >= 3 * 9 * 35 * (1 if role is Role.SPIKES else 32)


class TestMaxPool:
    @few
    @given(
        STEPS, SAMPLES, CHANNELS, SIDES, SIDES, st.integers(1, 5), st.sampled_from([0.1, 0.5, 1.0]), SEEDS,
        st.booleans(), ON,
    )  # fmt: skip
    @example(1, 1, 1, 1, 1, 1, 0.5, 0, False, ISAS[0])
    @example(2, 17, 3, 1, 20, 3, 0.1, 0, True, ISAS[0])
    @example(2, 8, 2, 7, 5, 2, 0.0, 0, False, ISAS[0])
    def test_both_passes(self, steps, samples, channels, height, width, side, rate, seed, accumulate, isa):
        """Values are only moved, so all must be equal, and whole numbers add up without rounding."""
        native, reference = both(steps, samples, isa)
        source = spikes((steps, samples, channels, height, width), seed, rate)
        rows, columns = max(height // side, 1), max(width // side, 1)
        grad = whole_or_normal((steps, samples, channels, rows, columns), accumulate, random(seed + 1))
        before = whole_or_normal(tuple(source.shape), True, random(seed + 2))

        def passes(one):
            out = one.empty(MapShape(steps, channels, rows, columns), spikes=True)
            given = one.spikes(source)
            one.backend.max_pool(given, side, out)
            into = one.floats(before) if accumulate else one.empty(MapShape(steps, channels, height, width))
            one.backend.max_pool_backward(given, side, one.floats(grad), into, accumulate)
            return one.backend.unload(out).double(), one.backend.unload(into).double()

        for result, expected in zip(passes(native), passes(reference), strict=True):
            assert torch.equal(result, expected)


def average(one, source, spiking, size, side, grad, before, accumulate):
    """Return the average of a map and the gradient behind it."""
    steps, _, channels, height, width = source.shape
    out = one.empty(MapShape(steps, channels, *size))
    one.backend.avg_pool((one.spikes if spiking else one.floats)(source), out, side)
    into = one.floats(before) if accumulate else one.empty(MapShape(steps, channels, height, width))
    one.backend.avg_pool_backward(one.floats(grad), into, side, accumulate)
    return one.backend.unload(out), one.backend.unload(into)


class TestAveragePool:
    def check(self, native, reference, source, spiking, size, side, seed, accumulate):
        grad = torch.randn(*source.shape[:3], *size, generator=random(seed + 1))
        before = torch.randn(source.shape, generator=random(seed + 2))
        result = average(native, source, spiking, size, side, grad, before, accumulate)
        expected = average(reference, source, spiking, size, side, grad, before, accumulate)
        magnitude = torch.tensor(float(source.abs().max())), before.abs().max() + 4 * grad.abs().max()
        for part, truth, terms in zip(result, expected, magnitude, strict=True):
            assert_close(part, truth, FORWARD, terms)

    @few
    @given(STEPS, SAMPLES, CHANNELS, SIDES, SIDES, st.integers(1, 5), st.booleans(), SEEDS, st.booleans(), ON)
    @example(1, 9, 2, 7, 5, 3, True, 0, False, ISAS[0])
    def test_windows_side_by_side(
        self, steps, samples, channels, height, width, side, spiking, seed, accumulate, isa
    ):
        height, width = max(height, side), max(width, side)
        shape = (steps, samples, channels, height, width)
        source = spikes(shape, seed) if spiking else torch.randn(shape, generator=random(seed))
        size = (height // side, width // side)
        self.check(*both(steps, samples, isa), source, spiking, size, side, seed, accumulate)

    @few
    @given(
        STEPS, SAMPLES, CHANNELS, SIDES, SIDES, st.tuples(st.integers(1, 7), st.integers(1, 7)), st.booleans(),
        SEEDS, st.booleans(), ON,
    )  # fmt: skip
    @example(1, 9, 2, 7, 5, (3, 4), True, 0, True, ISAS[0])
    @example(2, 8, 1, 2, 3, (5, 7), False, 0, False, ISAS[0])
    def test_adaptive_windows(self, steps, samples, channels, height, width, size, spiking, seed, accumulate, isa):
        shape = (steps, samples, channels, height, width)
        source = spikes(shape, seed) if spiking else torch.randn(shape, generator=random(seed))
        self.check(*both(steps, samples, isa), source, spiking, size, 0, seed, accumulate)
