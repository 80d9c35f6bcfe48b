"""Conv and linear layers of the native back end against the reference in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from native_gradients import AFFINES, Way, check, go_back
from native_layers import Layer, layers, random, whole_or_normal
from native_sides import (
    FORWARD,
    GRADIENT,
    ROUNDOFF,
    STATISTICS,
    NativeSide,
    ReferenceSide,
    assert_close_sums,
    few,
    is_exact,
    needs_native,
)
from torch import Tensor

pytestmark = needs_native

TRICKY = [
    Layer(kernel=(1, 1), padding=(0, 0), size=(1, 1), samples=1, steps=1),
    Layer(kernel=(1, 1), padding=(0, 0), size=(1, 1), inputs=20, outputs=17, density=1.0, samples=33, rate=1.0),
    Layer(kernel=(1, 1), padding=(1, 1), size=(3, 4), stride=2, samples=8),
    Layer(kernel=(1, 7), padding=(0, 7), size=(1, 2), samples=17, steps=7),
    Layer(kernel=(7, 1), padding=(7, 0), size=(2, 1), samples=16, stride=2, rate=None),
    Layer(kernel=(5, 3), padding=(0, 0), size=(5, 3), samples=15),
    Layer(kernel=(5, 5), padding=(5, 5), size=(1, 1), stride=2, samples=7, density=1.0),
    Layer(kernel=(3, 3), padding=(3, 0), size=(4, 19), stride=2, density=0.05, gaps=True),
    Layer(kernel=(7, 7), padding=(3, 3), size=(20, 13), inputs=2, outputs=3, density=0.2, steps=3),
    Layer(density=0.0),
    Layer(density=0.0, rate=None, stored=True),
    Layer(rate=0.0),
    Layer(size=(17, 16), steps=1, rate=None, inputs=1, stride=2, stored=True),
    Layer(size=(9, 12), steps=5, samples=33, gaps=True),
    Layer(size=(2, 3), steps=20, samples=3),
    Layer(inputs=12, outputs=12, size=(2, 3), steps=20, samples=3, density=1.0, rate=0.02),
]
"""One place, one sample, kernels off the map, rests of all tiles, empty rows and columns, silence, many steps."""

BY_SPIKES_OR_WEIGHTS = [
    Layer(inputs=20, outputs=20, size=(4, 4), density=density, rate=rate, samples=samples)
    for density in (0.01, 0.3, 0.5, 1.0)
    for rate, samples in ((0.02, 9), (0.2, 33), (1.0, 8))
]
"""Few weights and many spikes, many weights and few spikes, and both: kernels go by what is rarer."""

DENSER_THAN_SPIKES = [
    Layer(inputs=12, outputs=70, size=(1, 1), density=1.0, rate=0.02, samples=33, steps=7),
    Layer(inputs=20, outputs=20, kernel=(1, 3), padding=(0, 1), size=(1, 1), density=1.0, rate=0.02, samples=33),
    Layer(inputs=20, outputs=60, kernel=(1, 7), padding=(0, 3), size=(1, 2), density=1.0, rate=0.02, samples=33),
    Layer(inputs=9, outputs=65, kernel=(7, 1), padding=(3, 0), size=(2, 1), density=0.5, rate=0.02, samples=17),
    Layer(inputs=11, outputs=130, size=(5, 9), padding=(3, 0), density=0.5, rate=0.05),
    Layer(inputs=17, outputs=66, size=(8, 7), stride=2, density=0.5, rate=0.02, steps=3),
    Layer(inputs=9, outputs=65, size=(3, 3), kernel=(1, 1), padding=(1, 1), stride=2, density=1.0, rate=0.02),
    Layer(inputs=30, outputs=66, size=(5, 4), kernel=(7, 7), padding=(3, 3), density=1.0, rate=0.02),
    Layer(inputs=300, outputs=66, size=(3, 4), density=1.0, rate=0.02, steps=1),
    Layer(inputs=9, outputs=20, size=(6, 33), density=0.5, rate=0.03, stored=True),
    Layer(inputs=9, outputs=20, size=(7, 70), density=0.5, rate=0.03, stride=2, steps=1),
    Layer(inputs=9, outputs=20, kernel=(5, 3), padding=(0, 1), size=(9, 40), density=0.5, rate=0.03, steps=1),
]
"""For kernels that list spikes: channels past a vector, a group and a pass, kernels wider than the map, and rows
of which only one fits at a time."""

GROUPS_OF_CHANNELS = [
    Layer(inputs=5, outputs=40, size=(6, 17), density=0.9, rate=0.7),
    Layer(inputs=5, outputs=70, size=(5, 18), density=0.9, stride=2, rate=0.7),
    Layer(inputs=16, outputs=40, size=(4, 17), density=0.5, rate=0.02),
    Layer(inputs=3, outputs=40, kernel=(5, 5), padding=(2, 2), size=(5, 9), density=0.4, rate=None),
    Layer(inputs=3, outputs=150, kernel=(1, 1), padding=(0, 0), size=(3, 16), density=1.0, rate=None),
]
"""Dense enough for dL/dsource to be summed in several groups of output channels."""

PAST_THE_CACHES = Layer(
    inputs=1, outputs=64, kernel=(1, 1), padding=(0, 0), size=(32, 33), density=1.0, samples=16, stored=True
)
"""Its current takes 8.6 MB."""


def with_tricky(strategy):
    def decorate(test):
        for layer in (*TRICKY, *BY_SPIKES_OR_WEIGHTS, *DENSER_THAN_SPIKES, *GROUPS_OF_CHANNELS):
            for whole in (False, True):
                test = example(replace(layer, whole=whole), *strategy)(test)
        return test

    return decorate


class TestForward:
    @few
    @given(layers())
    @with_tricky(())
    @example(PAST_THE_CACHES)
    def test_current_and_its_statistics(self, layer):
        connected = layer.connected()
        native, reference = layer.sides()
        truth = connected.on(reference)
        y = reference.backend.evaluate(truth)
        terms = reference.backend.evaluate(connected.absolute().on(reference))
        kept = native.empty(connected.shape) if layer.stored else None
        current = connected.on(native, kept)
        check(native.backend.evaluate(current), y, FORWARD, terms, layer.whole)

        sums, squares = native.backend.statistics(current)
        expected = reference.backend.statistics(truth)
        over_maps = (0, 1, 3, 4)
        if layer.whole and is_exact(expected[1]) and is_exact(terms.sum(over_maps)):
            assert torch.equal(sums, expected[0])
            assert torch.equal(squares, expected[1])
        else:
            assert_close_sums(sums, expected[0], STATISTICS, terms.sum(over_maps))
            # Σy² has no cancellation of its own, but each y carries the rounding of its terms.
            rounding = 2 * ROUNDOFF * (y.abs() * terms).sum(over_maps) / STATISTICS
            assert_close_sums(squares, expected[1], STATISTICS, expected[1] + rounding)
        if layer.stored:
            assert torch.equal(native.backend.unload(kept), native.backend.evaluate(current))

    @pytest.mark.parametrize("layer", [Layer(density=0.2), Layer(inputs=12, outputs=12, density=1.0, rate=0.02)])
    def test_values_of_a_later_step_replace_the_former(self, layer):
        """In both passes, whichever was made with the former values."""
        layer = replace(layer, whole=True)
        connected = layer.connected()
        later = replace(connected, values=3 - connected.values)
        grad_x = torch.ones(layer.steps, layer.samples, layer.outputs, *layer.out_size)
        affine = Way().vectors(layer.outputs, True, random(1))

        def both_passes(side, current):
            into = side.floats(connected.source)
            values = side.backend.synapse_backward(current, side.floats(grad_x), affine, into, False, None)
            return [part.double() for part in (side.backend.evaluate(current), values, side.backend.unload(into))]

        reference = layer.sides()[1]
        expected = both_passes(reference, later.on(reference))
        for first in ("neither", "forward", "both"):
            native, _ = layer.sides()
            current = connected.on(native)
            if first == "forward":
                native.backend.evaluate(current)
            elif first == "both":
                both_passes(native, current)
            native.backend.set_values(current.connections, later.values)
            for part, truth in zip(both_passes(native, current), expected, strict=True):
                assert torch.equal(part, truth), first

    def test_connections_serve_any_number_of_samples(self):
        layer = Layer(whole=True)
        native, _ = layer.sides()
        connections = layer.connected().on(native).connections
        other = replace(layer, samples=17, rate=None).connected()
        side = NativeSide(layer.steps, 17)
        current = side.backend.current(connections, side.floats(other.source), None)
        reference = ReferenceSide(layer.steps, 17)
        other = replace(other, values=layer.connected().values, positions=layer.connected().positions)
        assert torch.equal(
            side.backend.evaluate(current).double(), reference.backend.evaluate(other.on(reference))
        )


WAYS = st.builds(Way, st.sampled_from(AFFINES), st.booleans(), st.booleans(), st.booleans())


class TestBackward:
    @few
    @given(layers(), WAYS)
    @with_tricky((Way(),))
    @example(Layer(size=(9, 8), outputs=3, inputs=3), Way(accumulate=True))
    @example(Layer(size=(20, 1), stride=2, stored=True), Way("shift", accumulate=True))
    def test_all_gradients(self, layer, way):
        connected, generator = layer.connected(), random(layer.seed + 1)
        native, reference = layer.sides()
        y_shape = (layer.steps, layer.samples, layer.outputs, *layer.out_size)
        grad_x = whole_or_normal(y_shape, layer.whole, generator)
        before = whole_or_normal(tuple(connected.source.shape), layer.whole, generator)
        affine = way.vectors(layer.outputs, layer.whole, generator)

        result = go_back(native, connected, way, grad_x, affine, before)
        expected = go_back(reference, connected, way, grad_x, affine, before)
        absolute = tuple(part.abs() for part in affine)
        terms = go_back(reference, connected.absolute(), way, grad_x.abs(), absolute, before.abs())
        check(result.values, expected.values, GRADIENT, terms.values, layer.whole)
        check(result.source, expected.source, GRADIENT, terms.source, layer.whole)
        check(result.dense, expected.dense, GRADIENT, terms.dense, layer.whole)

        if way.source and not way.accumulate and native.backend.writes_in_place(connected.on(native).connections):
            over = go_back(native, connected, way, grad_x, affine, before, in_place=True)
            assert torch.equal(over.source, result.source)
            assert torch.equal(over.values, result.values)
            assert torch.equal(over.dense, result.dense)

    @pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 3), (7, 7)])
    @pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (13, 16)])
    def test_square_layers_are_written_in_place(self, kernel, size):
        """The one place where a wrong order of reading and writing would go unnoticed by all other tests."""
        padding = (kernel[0] // 2, kernel[1] // 2)
        layer = Layer(outputs=5, inputs=5, kernel=kernel, padding=padding, size=size, samples=17, whole=True)
        connected = layer.connected()
        native, reference = layer.sides()
        assert native.backend.writes_in_place(connected.on(native).connections)
        grad_x = whole_or_normal(tuple(connected.source.shape), True, random(5))
        affine = Way().vectors(5, True, random(6))
        result = go_back(native, connected, Way(), grad_x, affine, grad_x, in_place=True)
        expected = go_back(reference, connected, Way(), grad_x, affine, grad_x)
        assert torch.equal(result.source.double(), expected.source)
        assert torch.equal(result.values.double(), expected.values)

    @pytest.mark.parametrize(
        "layer",
        [Layer(outputs=4), Layer(stride=2, outputs=3), Layer(padding=(0, 0), outputs=3)],
        ids=["other channels", "strided", "unpadded"],
    )
    def test_others_are_not(self, layer):
        native, _ = layer.sides()
        assert not native.backend.writes_in_place(layer.connected().on(native).connections)

    @pytest.mark.parametrize("rate", [1.0, None])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_what_a_layer_before_left_in_buffers_does_not_count(self, rate, stride):
        """The current is computed again, a few rows at a time, where another layer has left no zero."""
        before = Layer(inputs=20, kernel=(5, 5), padding=(0, 0), size=(20, 20), rate=rate, steps=1).connected()
        layer = Layer(size=(8 * stride, 10 * stride), rate=rate, stride=stride, steps=1, whole=True)
        connected, (native, reference) = layer.connected(), layer.sides()
        grad_x = torch.ones(1, layer.samples, layer.outputs, *layer.out_size)
        affine = Way().vectors(layer.outputs, True, random(1))
        native.backend.evaluate(before.on(native))
        result = go_back(native, connected, Way(), grad_x, affine, connected.source)
        expected = go_back(reference, connected, Way(), grad_x, affine, connected.source)
        assert torch.equal(result.values.double(), expected.values)
        assert torch.equal(result.source.double(), expected.source)

    def test_row_of_more_places_than_16_bits_can_number(self):
        layer = Layer(64, 8, (1, 3), 1, (0, 1), (1, 8300), density=1.0, rate=0.02, steps=1, samples=1, whole=True)
        connected = layer.connected()
        native, reference = layer.sides()
        y = reference.backend.evaluate(connected.on(reference))
        assert torch.equal(native.backend.evaluate(connected.on(native)).double(), y)
        grad_x, affine = whole_or_normal(tuple(y.shape), True, random(1)), Way().vectors(64, True, random(2))
        result = go_back(native, connected, Way(), grad_x, affine, connected.source)
        expected = go_back(reference, connected, Way(), grad_x, affine, connected.source)
        assert torch.equal(result.values.double(), expected.values)
        assert torch.equal(result.source.double(), expected.source)
        assert torch.equal(result.dense.double(), expected.dense)

    def test_dense_gradient_in_several_pieces(self):
        """A layer with more places than are made at a time; no place but the first ones is alive."""
        layer = Layer(outputs=110, inputs=200, kernel=(5, 5), padding=(2, 2), size=(1, 1), samples=2, whole=True)
        connected = replace(layer.connected(), positions=torch.arange(7), values=torch.arange(7.0))
        native, reference = layer.sides()
        grad_x = whole_or_normal((2, 2, 110, 1, 1), True, random(8))
        affine = Way().vectors(110, True, random(9))
        heights: list[int] = []

        def gradient(side):
            pieces: list[Tensor] = []
            side.backend.synapse_backward(
                connected.on(side), side.floats(grad_x), affine, None, False, lambda _, piece: pieces.append(piece)
            )
            heights[:] = [len(piece) for piece in pieces]
            return torch.cat(pieces).double()

        expected, result = gradient(reference), gradient(native)
        assert len(heights) > 1
        assert torch.equal(result, expected)


@pytest.mark.sanitize
@pytest.mark.parametrize("layer", [*TRICKY, *DENSER_THAN_SPIKES])
def test_tricky_layers_stay_on_their_maps(layer):
    """Every kernel once at its odd sizes, for the run under the sanitizers."""
    connected = layer.connected()
    native, _ = layer.sides()
    native.backend.statistics(connected.on(native))
    grad_x = torch.ones(layer.steps, layer.samples, layer.outputs, *layer.out_size)
    affine = Way().vectors(layer.outputs, True, random(1))
    result = go_back(native, connected, Way(), grad_x, affine, torch.zeros(connected.source.shape))
    assert result.source.isfinite().all()
    assert result.dense.isfinite().all()
