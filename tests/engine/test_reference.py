import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import Affine, InputTerm, MapShape, Role
from ndsnn.engine.reference import CHANNELS_AT_ONCE, ReferenceBackend
from ndsnn.models.layers import MaxPool2d
from ndsnn.neurons import LIFParameters, lif
from ndsnn.surrogates import SURROGATES

few = settings(max_examples=15, deadline=None)

NEURONS = st.builds(
    LIFParameters,
    tau=st.sampled_from([1.25, 4 / 3, 2.0]),
    v_threshold=st.sampled_from([0.5, 1.0]),
    v_reset=st.sampled_from([0.0, -0.25, None]),
    decay_input=st.booleans(),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    alpha=st.sampled_from([None, 0.75, 3.0]),
)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


class Draw:
    """Random tensors of one seed; floats are float64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def spikes(self, *shape: int, rate: float = 0.4) -> torch.Tensor:
        return (torch.rand(*shape, generator=self.generator) < rate).double()


def backend(steps: int, samples: int) -> ReferenceBackend:
    return ReferenceBackend(steps, samples, torch.float64)


def keep(pieces: list, first: int, piece: torch.Tensor) -> None:
    pieces.append((first, piece))


def applied(affine: Affine, y: torch.Tensor) -> torch.Tensor:
    return affine.scale.view(-1, 1, 1) * y + affine.shift.view(-1, 1, 1)


def conv(weight: torch.Tensor, source: torch.Tensor, synapse: Synapse) -> torch.Tensor:
    y = functional.conv2d(source.flatten(0, 1), weight, stride=synapse.stride, padding=synapse.padding)
    return y.unflatten(0, source.shape[:2])


@st.composite
def synapses(draw):
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (5, 1)]))
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    return Synapse(
        "layer", draw(st.integers(1, 5)), draw(st.integers(1, 4)), kernel, draw(st.sampled_from([1, 2])), padding
    )


SIDES = st.integers(1, 9)
SIZES = st.tuples(st.integers(5, 8), st.integers(5, 8))


class TestMaps:
    def test_shapes_bytes_and_round_trip(self):
        maps = backend(3, 2)
        shape = MapShape(3, 4, 5, 6)
        values = Draw(0).normal(3, 2, 4, 5, 6)
        into = maps.floats(shape, offset=64)
        maps.load(values, into)
        assert torch.equal(maps.unload(into), values)
        assert {maps.nbytes(shape, role) for role in Role} == {values.numel() * 8}
        assert maps.spikes(shape).shape == values.shape

    def test_relabelled_map_is_the_same_map(self):
        maps = backend(2, 3)
        source = maps.floats(MapShape(2, 4, 2, 3))
        flat = maps.relabel(source, MapShape(2, 24, 1, 1))
        values = Draw(1).normal(2, 3, 4, 2, 3)
        maps.load(values, source)
        assert torch.equal(maps.unload(flat), values.reshape(2, 3, 24, 1, 1))
        maps.load(torch.zeros(1), flat)
        assert not maps.unload(source).any()

    def test_counts_and_add(self):
        maps, draw = backend(3, 2), Draw(2)
        spikes, into = draw.spikes(3, 2, 2, 4, 5), draw.normal(3, 2, 2, 4, 5)
        assert torch.equal(maps.counts(spikes), spikes.sum((0, 1)).long())
        expected = into + spikes
        maps.add(spikes, into)
        assert torch.equal(into, expected)


class TestSynapse:
    @few
    @given(synapses(), SIZES, st.integers(1, 3), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
    def test_both_passes_against_autograd(self, synapse, size, steps, samples, seed, accumulate):
        draw = Draw(seed)
        shape = (synapse.out_channels, synapse.in_channels, *synapse.kernel)
        mask = draw.spikes(*shape, rate=0.5).bool()
        weight = draw.normal(*shape).masked_fill(~mask, 0).requires_grad_()
        source = draw.spikes(steps, samples, synapse.in_channels, *size).requires_grad_()
        y = conv(weight, source, synapse)
        grad_x, (a, b, c) = draw.normal(*y.shape), draw.normal(3, synapse.out_channels)
        per_channel = [v.view(-1, 1, 1) for v in (a, b, c)]
        grad_y = per_channel[0] * grad_x + per_channel[1] * y.detach() + per_channel[2]
        y.backward(grad_y)

        maps = backend(steps, samples)
        positions = mask.flatten().nonzero().flatten()
        connections = maps.connections(synapse, *size, positions)
        maps.set_values(connections, weight.detach()[mask])
        for stored in (None, torch.full_like(y, torch.nan)):
            current = maps.current(connections, source.detach(), stored)
            sums = maps.statistics(current)
            close(sums[0], y.detach().sum((0, 1, 3, 4)))
            close(sums[1], y.detach().square().sum((0, 1, 3, 4)))
            close(maps.evaluate(current), y.detach())
            before = draw.normal(*source.shape)
            into, pieces = before.clone(), []
            sink = functools.partial(keep, pieces)
            values = maps.synapse_backward(current, grad_x, (a, b, c), into, accumulate, sink)
            close(values, weight.grad[mask])
            close(into, source.grad + before if accumulate else source.grad)
            close(torch.cat([piece for _, piece in pieces]), weight.grad)

    def test_dense_gradient_comes_in_ascending_pieces(self):
        maps, draw = backend(1, 2), Draw(3)
        synapse = Synapse("layer", 2 * CHANNELS_AT_ONCE + 3, 2)
        connections = maps.connections(synapse, 1, 1, None)
        maps.set_values(connections, draw.normal(synapse.out_channels * 2))
        current = maps.current(connections, draw.normal(1, 2, 2, 1, 1), None)
        one, zero = torch.ones(synapse.out_channels), torch.zeros(synapse.out_channels)
        pieces = []
        grad_x = draw.normal(1, 2, synapse.out_channels, 1, 1)
        sink = functools.partial(keep, pieces)
        values = maps.synapse_backward(current, grad_x, (one, zero, zero), None, False, sink)
        assert [(first, len(piece)) for first, piece in pieces] == [(0, 16), (16, 16), (32, 3)]
        assert torch.equal(torch.cat([piece for _, piece in pieces]).flatten(), values)

    def test_layer_without_alive_weights(self):
        maps = backend(2, 1)
        connections = maps.connections(Synapse("layer", 3, 2, (3, 3)), 4, 4, torch.empty(0, dtype=torch.int64))
        maps.set_values(connections, torch.empty(0))
        current = maps.current(connections, torch.ones(2, 1, 2, 4, 4, dtype=torch.float64), None)
        assert not maps.evaluate(current).any()
        one = torch.ones(3)
        gradient = maps.synapse_backward(
            current, torch.ones(2, 1, 3, 2, 2).double(), (one, one, one), None, False, None
        )
        assert gradient.shape == (0,)

    def test_gradient_in_place(self):
        maps, draw = backend(2, 2), Draw(4)
        connections = maps.connections(Synapse("layer", 3, 3, (3, 3), padding=(1, 1)), 5, 4, None)
        assert maps.writes_in_place(connections)
        assert not maps.writes_in_place(maps.connections(Synapse("layer", 3, 3, (3, 3)), 5, 4, None))
        assert not maps.writes_in_place(maps.connections(Synapse("layer", 3, 2), 5, 4, None))
        maps.set_values(connections, draw.normal(81))
        current = maps.current(connections, draw.spikes(2, 2, 3, 5, 4), None)
        grad_x, gradient_affine = draw.normal(2, 2, 3, 5, 4), tuple(draw.normal(3, 3))
        apart = torch.empty_like(grad_x)
        expected = maps.synapse_backward(current, grad_x, gradient_affine, apart, False, None)
        values = maps.synapse_backward(current, grad_x, gradient_affine, grad_x, False, None)
        assert torch.equal(grad_x, apart)
        assert torch.equal(values, expected)


class TestNeuron:
    @few
    @given(NEURONS, st.integers(1, 4), st.integers(1, 3), SIZES, st.integers(1, 3), st.integers(0, 10**6))
    def test_both_passes_against_autograd(self, neuron, steps, samples, size, pool, seed):
        """Two currents with norms and a map added as it is, pooled, against `lif` and torch's max-pool."""
        draw = Draw(seed)
        shape = (steps, samples, 3, *size)
        synapse = Synapse("layer", 3, 2)
        maps = backend(steps, samples)
        affines = [Affine(*(draw.normal(2, 3) + 1)) for _ in range(2)]
        currents = []
        for stored in (None, torch.empty(shape, dtype=torch.float64)):
            connections = maps.connections(synapse, *size, None)
            maps.set_values(connections, draw.normal(6))
            currents.append(maps.current(connections, draw.spikes(steps, samples, 2, *size), stored))
        maps.statistics(currents[1])
        terms = [InputTerm(current, one) for current, one in zip(currents, affines, strict=True)]
        terms.append(InputTerm(draw.spikes(*shape), None))

        ys = [maps.evaluate(current) for current in currents]
        x = sum(
            one.scale.view(-1, 1, 1) * y + one.shift.view(-1, 1, 1) for y, one in zip(ys, affines, strict=True)
        )
        x = (x + terms[2].value).requires_grad_()
        spikes = lif(x, None, neuron).spikes
        expected = MaxPool2d(pool)(spikes) if pool > 1 else spikes
        out = torch.full_like(expected, torch.nan)
        assert maps.neuron_forward(terms, neuron, pool, out) == int(spikes.sum())
        assert torch.equal(out, expected)

        grad_out = draw.normal(*out.shape)
        expected.backward(grad_out)
        grad_x = grad_out if pool == 1 else torch.full_like(x, torch.nan)
        gradient = maps.neuron_backward(terms, neuron, pool, grad_out, grad_x)
        close(grad_x, x.grad)
        close(gradient.sum_gx, x.grad.sum((0, 1, 3, 4)))
        close(gradient.sum_gx_y[0], (x.grad * ys[0]).sum((0, 1, 3, 4)))
        close(gradient.sum_gx_y[1], (x.grad * ys[1]).sum((0, 1, 3, 4)))
        assert gradient.sum_gx_y[2] is None

    @few
    @given(NEURONS, st.integers(1, 4), st.integers(0, 10**6))
    def test_input_that_is_the_same_at_every_step(self, neuron, steps, seed):
        draw = Draw(seed)
        maps = backend(steps, 2)
        x = draw.normal(1, 2, 3, 4, 4).requires_grad_()
        spikes = lif(x.expand(steps, *x.shape[1:]), None, neuron).spikes
        terms = [InputTerm(x.detach(), None)]
        out, grad_x = torch.empty_like(spikes), torch.empty_like(x)
        assert maps.neuron_forward(terms, neuron, 1, out) == int(spikes.sum())
        assert torch.equal(out, spikes)
        grad_out = draw.normal(*out.shape)
        spikes.backward(grad_out)
        gradient = maps.neuron_backward(terms, neuron, 1, grad_out, grad_x)
        close(grad_x, x.grad)
        close(gradient.sum_gx, x.grad.sum((0, 1, 3, 4)))


class TestPools:
    @few
    @given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
    def test_max_pool_of_spikes(self, side, height, width, seed, accumulate):
        """Windows of spikes are full of equal maxima; the gradient belongs to the first."""
        draw = Draw(seed)
        source = draw.spikes(2, 2, 3, height, width).requires_grad_()
        expected = MaxPool2d(side)(source)
        out = torch.empty_like(expected)
        maps = backend(2, 2)
        maps.max_pool(source.detach(), side, out)
        assert torch.equal(out, expected)
        grad_out, before = draw.normal(*out.shape), draw.normal(*source.shape)
        expected.backward(grad_out)
        into = before.clone()
        maps.max_pool_backward(source.detach(), side, grad_out, into, accumulate)
        close(into, source.grad + before if accumulate else source.grad)

    def test_gradient_goes_to_the_first_maximum_in_scan_order(self):
        maps = backend(1, 1)
        window = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 1]], dtype=torch.float64).view(1, 1, 1, 2, 4)
        into = torch.empty_like(window)
        maps.max_pool_backward(window, 2, torch.tensor([2.0, 3.0]).double().view(1, 1, 1, 1, 2), into, False)
        assert into.view(2, 4).tolist() == [[0, 0, 3, 0], [2, 0, 0, 0]]

    @few
    @given(
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(1, 5),
        st.integers(1, 5),
        st.integers(0, 9),
        st.booleans(),
    )
    def test_adaptive_average_pool(self, height, width, rows, columns, seed, accumulate):
        draw = Draw(seed)
        source = draw.normal(2, 1, 3, height, width).requires_grad_()
        expected = functional.adaptive_avg_pool2d(source.flatten(0, 1), (rows, columns)).unflatten(0, (2, 1))
        self.check_average(source, expected, 0, draw, accumulate)

    @few
    @given(st.integers(1, 4), st.integers(4, 9), st.integers(4, 9), st.integers(0, 9), st.booleans())
    def test_average_pool_with_a_rest(self, side, height, width, seed, accumulate):
        draw = Draw(seed)
        source = draw.normal(2, 1, 3, height, width).requires_grad_()
        expected = functional.avg_pool2d(source.flatten(0, 1), side).unflatten(0, (2, 1))
        self.check_average(source, expected, side, draw, accumulate)

    @staticmethod
    def check_average(source, expected, side, draw, accumulate):
        maps, out = backend(2, 1), torch.empty_like(expected)
        maps.avg_pool(source.detach(), out, side)
        close(out, expected.detach())
        grad_out, before = draw.normal(*out.shape), draw.normal(*source.shape)
        expected.backward(grad_out)
        into = before.clone()
        maps.avg_pool_backward(grad_out, into, side, accumulate)
        close(into, source.grad + before if accumulate else source.grad)


def test_float32_is_the_default():
    maps = ReferenceBackend(2, 3)
    assert maps.floats(MapShape(2, 1, 1, 1)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_weights_are_copied(dtype):
    """An optimizer that writes into the parameter must not reach what a pass under way computes with."""
    maps = ReferenceBackend(1, 1, dtype)
    connections = maps.connections(Synapse("layer", 1, 1), 1, 1, None)
    values = torch.ones(1, dtype=dtype)
    maps.set_values(connections, values)
    values.zero_()
    current = maps.current(connections, torch.ones(1, 1, 1, 1, 1, dtype=dtype), None)
    assert maps.evaluate(current).item() == 1
