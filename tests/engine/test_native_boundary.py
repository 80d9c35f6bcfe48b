"""What does not fit is refused where it enters the native back end, with an exception and never a crash.

The binding raises ValueError for values and shapes and TypeError for types that do not fit; only the choice of
precision and instruction set, which a user makes, is a ConfigError.
"""

import numpy as np
import pytest
import torch
from native_layers import Layer
from native_sides import ISAS, NativeSide, needs_native, shape_of

from ndsnn.engine import library, native
from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import Affine, InputTerm, MapShape, Role
from ndsnn.errors import ConfigError
from ndsnn.neurons import LIFParameters

pytestmark = needs_native

SHAPE = MapShape(2, 4, 5, 6)
NEURON = LIFParameters()
FOREIGN = "another number of samples"
OTHERS = [(9, ISAS[0]), (40, ISAS[0]), (8, ISAS[0]), *((3, isa) for isa in ISAS[1:])]
"""Samples and instruction sets of other back ends: with more blocks, as many, or other kernels."""


@pytest.fixture
def side():
    return NativeSide(2, 3)


@pytest.fixture
def current(side):
    """A current of 4 channels, 5 × 6, from floats of as many."""
    return Layer(outputs=4, inputs=4, size=(5, 6), samples=3, rate=None).connected().on(side)


def vectors(*lengths):
    return tuple(torch.zeros(length, dtype=torch.float64) for length in lengths)


class TestChoices:
    def test_unknown_instruction_set(self, monkeypatch):
        monkeypatch.setenv("NDSNN_ISA", "mmx")
        with pytest.raises(ConfigError, match=r"NDSNN_ISA is 'mmx', which is not available here; there are "):
            native.NativeBackend(2, 3)

    @pytest.mark.parametrize("isa", ISAS)
    def test_instruction_set_of_choice(self, monkeypatch, isa):
        monkeypatch.setenv("NDSNN_ISA", isa)
        assert native.instruction_set() == isa

    def test_unknown_precision(self):
        with pytest.raises(ConfigError, match="precision"):
            native.NativeBackend(2, 3, precision="fp8")

    @pytest.mark.parametrize("samples", [0, -1])
    def test_no_samples(self, samples):
        with pytest.raises(ValueError, match="at least one sample"):
            native.NativeBackend(2, samples)


class TestLayers:
    @pytest.mark.parametrize(
        "positions",
        [[3, 2], [2, 2], [-1, 2], [0, 144], [2**40]],
        ids=["descending", "duplicate", "negative", "behind the end", "far behind the end"],
    )
    def test_positions(self, side, positions):
        with pytest.raises(ValueError, match="positions must be ascending places of the weight; entry"):
            side.backend.connections(Synapse("layer", 4, 4, (3, 3)), 5, 6, torch.tensor(positions))

    @pytest.mark.parametrize(
        ("synapse", "message"),
        [
            (Synapse("layer", 0, 4), "no channels"),
            (Synapse("layer", 4, -4), "no channels"),
            (Synapse("layer", 4, 4, (2, 3)), "odd"),
            (Synapse("layer", 4, 4, (3, -3)), "odd"),
            (Synapse("layer", 4, 4, (3, 3), 3), "stride must be 1 or 2"),
            (Synapse("layer", 4, 4, (3, 3), 0), "stride must be 1 or 2"),
            (Synapse("layer", 4, 4, (3, 3), 1, (-1, 0)), "padding"),
            (Synapse("layer", 4, 4, (7, 7)), "larger than the padded map"),
            (Synapse("layer", 2**17, 2**17), "not supported"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_geometry(self, side, synapse, message):
        with pytest.raises(ValueError, match=message):
            side.backend.connections(synapse, 5, 6, torch.zeros(1, dtype=torch.int64))

    def test_empty_map(self, side):
        with pytest.raises(ValueError, match="empty map"):
            side.backend.connections(Synapse("layer", 4, 4), 0, 6, None)

    @pytest.mark.parametrize("length", [0, 143, 145])
    def test_number_of_values(self, side, length):
        connections = side.backend.connections(Synapse("layer", 4, 4, (3, 3)), 5, 6, None)
        with pytest.raises(ValueError, match="values for 144 alive weights"):
            side.backend.set_values(connections, torch.zeros(length))

    def test_source_of_another_shape(self, side, current):
        for shape in (MapShape(2, 3, 5, 6), MapShape(2, 4, 6, 5), MapShape(2, 4, 5, 5)):
            with pytest.raises(ValueError, match="the layer reads"):
                side.backend.current(current.connections, side.empty(shape), None)

    def test_store_of_another_shape_or_kind(self, side, current):
        source = side.empty(SHAPE)
        for shape, spikes in ((MapShape(1, 4, 5, 6), False), (MapShape(2, 4, 5, 7), False), (SHAPE, True)):
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.current(current.connections, source, side.empty(shape, spikes))


class TestMaps:
    @pytest.mark.parametrize("values", [(2, 3, 4, 5, 7), (2, 3, 4, 5), (2, 3, 4, 6, 5), (1, 3, 4, 5, 6)], ids=str)
    def test_values_of_another_shape(self, side, values):
        with pytest.raises(ValueError, match=r"values|shape"):
            side.backend.load(torch.zeros(values), side.empty(SHAPE))

    def test_spikes_are_not_loaded(self, side):
        with pytest.raises(ValueError, match="spikes"):
            side.backend.load(torch.zeros(2, 3, 4, 5, 6), side.empty(SHAPE, spikes=True))

    def test_strided_values_are_read_in_their_own_order(self, side):
        values = torch.randn(2, 3, 4, 6, 5).transpose(3, 4)
        assert torch.equal(side.backend.unload(side.floats(values)), values)

    @pytest.mark.parametrize("spikes", [True, False])
    def test_empty_axis(self, side, spikes):
        for shape in (MapShape(0, 4, 5, 6), MapShape(2, 0, 5, 6), MapShape(2, 4, 5, 0), MapShape(2, -4, -5, 6)):
            with pytest.raises(ValueError, match="empty axis"):
                side.empty(shape, spikes)

    def test_unknown_places(self, side):
        with pytest.raises(ValueError, match="does not fit into an arena"):
            side.backend.floats(SHAPE, offset=4)
        with pytest.raises((ValueError, TypeError)):
            side.backend.floats(SHAPE, offset=-64)

    @pytest.mark.parametrize(
        "shape", [MapShape(2**16, 2**16, 2**16, 2**16), MapShape(2**31 - 1, 2**31 - 1, 2**31 - 1, 1)], ids=str
    )
    def test_more_bytes_than_can_be_counted(self, side, shape):
        """The product of the axes wraps around to what any arena has."""
        with pytest.raises((ValueError, MemoryError, OverflowError)):
            side.backend.nbytes(shape, Role.VALUES)

    @pytest.mark.parametrize(
        "shape", [MapShape(2, 4, 5, 5), MapShape(2, -4, -5, 6), MapShape(2, 0, 5, 6)], ids=str
    )
    def test_relabelling_keeps_the_places(self, side, shape):
        with pytest.raises(ValueError, match="another number of places"):
            side.backend.relabel(side.empty(SHAPE), shape)

    def test_sums_of_different_maps(self, side):
        for other, spikes in ((MapShape(2, 4, 6, 5), False), (SHAPE, True)):
            with pytest.raises(ValueError, match="cannot be added"):
                side.backend.add(side.empty(other, spikes), side.empty(SHAPE))

    @pytest.mark.parametrize("side_of_pool", [0, -1])
    def test_side_of_a_max_pool(self, side, side_of_pool):
        source = side.empty(SHAPE, spikes=True)
        with pytest.raises(ValueError, match="at least 1"):
            side.backend.max_pool(source, side_of_pool, source)
        with pytest.raises(ValueError, match="at least 1"):
            side.backend.max_pool_backward(source, side_of_pool, side.empty(SHAPE), side.empty(SHAPE), False)

    def test_max_pools_that_do_not_fit(self, side):
        source, half = side.empty(SHAPE, spikes=True), MapShape(2, 4, 2, 3)
        with pytest.raises(ValueError, match="does not fit"):
            side.backend.max_pool(source, 3, side.empty(half, spikes=True))
        with pytest.raises(ValueError, match="max-pool takes spikes"):
            side.backend.max_pool(side.empty(SHAPE), 2, side.empty(half, spikes=True))
        with pytest.raises(ValueError, match="do not fit"):
            side.backend.max_pool_backward(source, 2, side.empty(half), side.empty(half), False)

    def test_averages_that_do_not_fit(self, side):
        source = side.empty(SHAPE, spikes=True)
        for shape, side_of_pool in (
            (MapShape(2, 4, 2, 3), -1),
            (MapShape(2, 4, 2, 2), 2),
            (MapShape(2, 3, 2, 3), 2),
            (MapShape(1, 4, 2, 3), 0),
            (MapShape(2, 4, 1, 1), 7),
        ):
            out = side.empty(shape)
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.avg_pool(source, out, side_of_pool)
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.avg_pool_backward(out, side.empty(SHAPE), side_of_pool, False)
        with pytest.raises(ValueError, match="fp32"):
            side.backend.avg_pool(source, side.empty(MapShape(2, 4, 2, 3), spikes=True), 2)


class TestNeurons:
    @pytest.fixture
    def term(self, current):
        return InputTerm(current, Affine(*vectors(4, 4)))

    def test_vectors_of_another_length(self, side, current):
        for lengths in ((3, 4), (4, 5), (0, 4)):
            with pytest.raises(ValueError, match="one entry per output channel"):
                side.backend.neuron_forward(
                    [InputTerm(current, Affine(*vectors(*lengths)))], NEURON, 1, side.empty(SHAPE, spikes=True)
                )

    def test_no_terms(self, side):
        with pytest.raises(ValueError, match="at least one term"):
            side.backend.neuron_forward([], NEURON, 1, side.empty(SHAPE, spikes=True))
        with pytest.raises(ValueError, match="at least one term"):
            side.backend.neuron_backward([], NEURON, 1, side.empty(SHAPE), side.empty(SHAPE))

    @pytest.mark.parametrize("pool", [0, -2])
    def test_side_of_the_pool(self, side, term, pool):
        with pytest.raises(ValueError, match="at least 1"):
            side.backend.neuron_forward([term], NEURON, pool, side.empty(SHAPE, spikes=True))
        with pytest.raises(ValueError, match="at least 1"):
            side.backend.neuron_backward([term], NEURON, pool, side.empty(SHAPE), side.empty(SHAPE))

    def test_terms_of_different_shapes(self, side, term):
        for shape in (MapShape(2, 4, 6, 5), MapShape(2, 3, 5, 6), MapShape(1, 4, 5, 6), MapShape(3, 4, 5, 6)):
            with pytest.raises(ValueError, match="different shapes"):
                side.backend.neuron_forward(
                    [term, InputTerm(side.empty(shape), None)], NEURON, 1, side.empty(SHAPE, spikes=True)
                )

    def test_outputs_that_do_not_fit(self, side, term):
        for shape, pool in ((MapShape(2, 4, 5, 5), 1), (MapShape(2, 4, 2, 2), 2), (MapShape(2, 3, 5, 6), 1)):
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.neuron_forward([term], NEURON, pool, side.empty(shape, spikes=True))
        with pytest.raises(ValueError, match="write spikes"):
            side.backend.neuron_forward([term], NEURON, 1, side.empty(SHAPE))
        with pytest.raises(ValueError, match="different shapes"):
            side.backend.neuron_forward([term], NEURON, 1, side.empty(MapShape(3, 4, 5, 6), spikes=True))

    def test_gradients_that_do_not_fit(self, side, term):
        for grad_out, grad_x in (
            (side.empty(SHAPE), side.empty(MapShape(2, 4, 5, 5))),
            (side.empty(SHAPE), side.empty(MapShape(1, 4, 5, 6))),
            (side.empty(MapShape(2, 4, 5, 5)), side.empty(SHAPE)),
        ):
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.neuron_backward([term], NEURON, 1, grad_out, grad_x)
        with pytest.raises(ValueError, match="gradients are floats"):
            side.backend.neuron_backward([term], NEURON, 1, side.empty(SHAPE, spikes=True), side.empty(SHAPE))


class TestSynapses:
    def test_vectors_of_another_length(self, side, current):
        for lengths in ((3, 4, 4), (4, 5, 4), (4, 4, 0)):
            with pytest.raises(ValueError, match="a, b and c need one entry"):
                side.backend.synapse_backward(current, side.empty(SHAPE), vectors(*lengths), None, False, None)

    def test_gradients_that_do_not_fit(self, side, current):
        for shape, spikes in ((MapShape(2, 4, 6, 5), False), (MapShape(1, 4, 5, 6), False), (SHAPE, True)):
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.synapse_backward(
                    current, side.empty(shape, spikes), vectors(4, 4, 4), None, False, None
                )
            with pytest.raises(ValueError, match="does not fit"):
                side.backend.synapse_backward(
                    current, side.empty(SHAPE), vectors(4, 4, 4), side.empty(shape, spikes), False, None
                )


class TestForeignMaps:
    """Maps and currents of one back end given to another one."""

    @pytest.fixture(params=OTHERS, ids=str)
    def other(self, request):
        return NativeSide(2, *request.param)

    def test_source(self, side, current, other):
        with pytest.raises(ValueError, match=FOREIGN):
            other.backend.current(current.connections, side.empty(SHAPE), None)

    def test_store(self, side, current, other):
        with pytest.raises(ValueError, match=FOREIGN):
            other.backend.current(current.connections, other.empty(SHAPE), side.empty(SHAPE))

    def test_current(self, current, other):
        with pytest.raises(ValueError, match=FOREIGN):
            other.backend.statistics(current)
        with pytest.raises(ValueError, match=FOREIGN):
            other.backend.synapse_backward(current, other.empty(SHAPE), vectors(4, 4, 4), None, False, None)

    def test_neurons(self, side, current, other):
        for term in (InputTerm(current, Affine(*vectors(4, 4))), InputTerm(side.empty(SHAPE), None)):
            with pytest.raises(ValueError, match=FOREIGN):
                other.backend.neuron_forward([term], NEURON, 1, other.empty(SHAPE, spikes=True))
            with pytest.raises(ValueError, match=FOREIGN):
                other.backend.neuron_backward([term], NEURON, 1, other.empty(SHAPE), other.empty(SHAPE))

    def test_whole_maps(self, side, other):
        spikes, floats = side.empty(SHAPE, spikes=True), side.empty(SHAPE)
        half = MapShape(2, 4, 2, 3)
        for call in (
            lambda: other.backend.load(torch.zeros(2, other.samples, 4, 5, 6), floats),
            lambda: other.backend.unload(floats),
            lambda: other.backend.counts(spikes),
            lambda: other.backend.add(floats, other.empty(SHAPE)),
            lambda: other.backend.relabel(floats, MapShape(2, 120, 1, 1)),
            lambda: other.backend.max_pool(spikes, 2, other.empty(half, spikes=True)),
            lambda: other.backend.avg_pool(spikes, other.empty(half), 2),
            lambda: other.backend.avg_pool_backward(other.empty(half), floats, 2, False),
        ):
            with pytest.raises(ValueError, match=FOREIGN):
                call()


class TestBinding:
    """The extension module itself, which takes numpy arrays."""

    @pytest.fixture
    def engine(self):
        return library.load().Engine(3, ISAS[0])

    @pytest.fixture
    def floats(self, engine):
        arena = library.load().Arena(engine.nbytes(2, 4, 5, 6, library.load().Kind.FLOAT32))
        return engine.map(arena, 0, 2, 4, 5, 6, library.load().Kind.FLOAT32)

    def test_maps_lie_inside_their_arena(self, engine):
        native_module = library.load()
        nbytes = engine.nbytes(2, 4, 5, 6, native_module.Kind.FLOAT32)
        arena = native_module.Arena(nbytes)
        for offset in (64, nbytes, 2**63, 2**64 - 64):
            with pytest.raises(ValueError, match="does not fit into an arena"):
                engine.map(arena, offset, 2, 4, 5, 6, native_module.Kind.FLOAT32)
        with pytest.raises(TypeError):
            engine.map(None, 0, 2, 4, 5, 6, native_module.Kind.FLOAT32)

    @pytest.mark.parametrize("nbytes", [2**62, 2**64 - 1])
    def test_arena_larger_than_memory(self, nbytes):
        with pytest.raises((MemoryError, ValueError)):
            library.load().Arena(nbytes)

    def test_unknown_instruction_set(self):
        with pytest.raises(ValueError, match="'mmx' is not available"):
            library.load().Engine(3, "mmx")

    @pytest.mark.parametrize(
        "out",
        [
            np.zeros((2, 3, 4, 5, 6), np.float64),
            np.zeros((2, 3, 4, 6, 5), np.float32).swapaxes(3, 4),
            np.zeros((4, 3, 4, 5, 6), np.float32)[::2],
            np.zeros((2, 3, 4, 5, 6), np.int32),
        ],
        ids=["float64", "transposed", "strided", "int32"],
    )
    def test_output_arrays_are_written_or_refused(self, engine, floats, out):
        """A copy that is filled and thrown away would leave the caller with what was there before."""
        with pytest.raises(TypeError):
            engine.unload(floats, out)

    def test_other_outputs_are_written_or_refused(self, engine, current):
        single, double = np.zeros(4, np.float32), np.zeros(4)
        floats = engine.map(library.load().Arena(2**14), 0, 2, 4, 5, 6, library.load().Kind.FLOAT32)
        for call in (
            lambda: engine.statistics(current, single, double),
            lambda: engine.statistics(current, double, np.zeros(8)[::2]),
            lambda: engine.counts(floats, np.zeros((4, 5, 6), np.int32)),
            lambda: engine.synapse_backward(
                current, floats, double, double, double, None, False, np.zeros(current.connections.nnz)
            ),
        ):
            with pytest.raises(TypeError):
                call()

    @pytest.mark.parametrize(
        "positions",
        [np.array([1.5, 2.0]), np.zeros((1, 2), np.int64), [1, 2], "12"],
        ids=["floats", "two axes", "a list", "text"],
    )
    def test_positions_of_another_type(self, positions):
        with pytest.raises(TypeError):
            library.load().connections(4, 4, 5, 6, (3, 3), 1, (1, 1), positions)

    def test_numbers_that_are_no_32_bit_integers(self):
        for channels in (2**31, 2**40, 1.5, None, "4"):
            with pytest.raises(TypeError):
                library.load().connections(channels, 4, 5, 6, (3, 3), 1, (1, 1), None)

    def test_lengths_of_outputs(self, engine, floats, current):
        vector = np.zeros(4)
        for call in (
            lambda: engine.unload(floats, np.zeros((2, 3, 4, 5, 5), np.float32)),
            lambda: engine.statistics(current, np.zeros(3), vector),
            lambda: engine.counts(floats, np.zeros((4, 5, 5), np.int64)),
            lambda: engine.synapse_backward(
                current, floats, vector, vector, vector, None, False, np.zeros(1, np.float32)
            ),
            lambda: engine.dense_gradient(
                current, floats, vector, vector, vector, 3, 2, np.zeros((2, 4, 3, 3), np.float32)
            ),
            lambda: engine.dense_gradient(
                current, floats, vector, vector, vector, -1, 1, np.zeros((1, 4, 3, 3), np.float32)
            ),
        ):
            with pytest.raises(ValueError, match=r"."):
                call()


def test_a_map_outlives_its_back_end():
    """Maps hold the arena they lie in, also when the back end has moved to a larger one."""
    side = NativeSide(2, 3, nbytes=64)
    values = torch.randn(2, 3, 4, 5, 6)
    made = side.floats(values)
    side.backend.reserve(2**22)
    assert torch.equal(side.backend.unload(made), values)
    current = Layer(outputs=4, inputs=4, size=(5, 6), samples=3, whole=True).connected().on(side)
    expected = side.backend.evaluate(current)
    other = NativeSide(2, 3)
    del side
    assert torch.equal(other.backend.evaluate(current), expected)
    assert shape_of(expected) == SHAPE
