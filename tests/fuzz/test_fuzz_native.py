"""Calls into the native engine: what is kept of the fuzzing, and some hundred programs; `make fuzz` does more.

The build of `make sanitize` stops at the first access out of bounds or undefined operation; the installed
one shows crashes and wrong exceptions only.
"""

import numpy as np
import pytest
from fuzz_draw import Draw
from fuzz_mutate import mutants
from fuzz_native import CALLS, Program, native
from fuzz_seeds import kept, seeds

from ndsnn.engine import library

pytestmark = [
    pytest.mark.sanitize,
    pytest.mark.skipif(not library.available(), reason=f"no native engine: {library.unavailable_reason()}"),
]

COUNT = 300


def test_what_is_kept():
    for path in kept("native"):
        native(path.read_bytes())


def test_programs_of_calls():
    for data in mutants(seeds("native"), COUNT, seed=2):
        native(data)


def test_most_calls_fit_and_all_are_made():
    """A fuzzer whose every call is refused finds nothing behind the checks."""
    done = raised = 0
    called, refused = set(), {}
    for data in mutants(seeds("native"), 150, seed=5):
        program = Program(Draw(data))
        for name in CALLS:
            method = getattr(program, name)

            def counted(name=name, method=method):
                refused[name] = refused.get(name, 0) + 1
                method()
                called.add(name)

            setattr(program, name, counted)
        program.run()
        done, raised = done + program.done, raised + program.raised
    assert called == set(CALLS)
    assert raised < done / 2
    assert raised > done / 20


GEOMETRIES = {
    "padding above the kernel": (3, 4, 1, 2, (1, 1), 1, (8, 0)),
    "padding far above it": (3, 4, 1, 2, (1, 1), 1, (2**15, 0)),
    "stride and padding above it": (2, 2, 3, 3, (1, 3), 2, (5, 4)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_layers_whose_rows_lie_in_the_padding(geometry):
    """Rows of the output that see nothing of the input are sums of nothing."""
    module = library.load()
    for isa in module.available_isas():
        engine = module.Engine(3, isa)
        layer = module.connections(*geometry, None)
        values = np.ones(layer.nnz, np.float32)
        layer.set_values(values)
        c_in, c_out, height, width = geometry[:4]
        arena = module.Arena(1 << 22)
        source = engine.map(arena, 0, 1, c_in, height, width, module.Kind.FLOAT32)
        engine.load(np.ones((1, 3, c_in, height, width), np.float32), source)
        current = engine.current(layer, source, None)
        sums, squares = np.zeros(c_out), np.zeros(c_out)
        engine.statistics(current, sums, squares)
        k_h, k_w = geometry[4]
        stride, (pad_h, pad_w) = geometry[5], geometry[6]
        padded = np.pad(np.ones((height, width)), ((pad_h, pad_h), (pad_w, pad_w)))
        rows = range(0, padded.shape[0] - k_h + 1, stride)
        columns = range(0, padded.shape[1] - k_w + 1, stride)
        y = np.array([[padded[r : r + k_h, c : c + k_w].sum() * c_in for c in columns] for r in rows])
        assert np.allclose(sums, 3 * y.sum())
        assert np.allclose(squares, 3 * (y**2).sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1, 2**31 - 1, 1, (1, 1), 1, (2**31 - 1, 0)), "rows or columns"),
        ((1, 1, 5, 5, (-(2**31), 1), 1, (0, 0)), "rows or columns"),
        ((1, 1, -(2**31), 5, (1, 1), 1, (0, 0)), "rows or columns"),
        ((2**30, 2**30, 5, 5, (3, 3), 1, (1, 1)), "2\\^31 places"),
    ],
)
def test_sizes_that_would_overflow(arguments, message):
    with pytest.raises(ValueError, match=message):
        library.load().connections(*arguments, None)


def test_other_sizes_that_would_overflow():
    module = library.load()
    engine, kinds = module.Engine(2**31 - 1), module.Kind
    with pytest.raises(ValueError, match=r"2\^31 places|larger than any memory"):
        engine.nbytes(2**31 - 1, 1, 1, 1, kinds.FLOAT32)
    engine = module.Engine(1)
    with pytest.raises(ValueError, match=r"2\^31 places"):
        engine.nbytes(1, 1, 2**16, 2**15, kinds.SPIKES)
    made = engine.map(module.Arena(1 << 12), 0, 1, 4, 1, 1, kinds.FLOAT32)
    with pytest.raises(ValueError, match="another number of places"):
        engine.relabel(made, 2**31 - 1, 2**15, 2**15)
    with pytest.raises(ValueError, match="60 seconds"):
        module.fma_rate("", float("inf"))


def test_adaptive_bins_of_a_long_map():
    """The product of two places of 100,000 is no int."""
    module = library.load()
    engine, length = module.Engine(1), 100_000
    shape = (1, 1, length, 1)
    arena = module.Arena(2 * engine.nbytes(*shape, module.Kind.FLOAT32))
    source = engine.map(arena, 0, *shape, module.Kind.FLOAT32)
    out = engine.map(arena, engine.nbytes(*shape, module.Kind.FLOAT32), *shape, module.Kind.FLOAT32)
    values = np.arange(length, dtype=np.float32).reshape(1, 1, 1, length, 1)
    engine.load(values, source)
    engine.avg_pool(source, out, 0)
    found = np.zeros_like(values)
    engine.unload(out, found)
    assert np.array_equal(found, values)


def test_values_stay_alive_whatever_becomes_of_the_array():
    module = library.load()
    layer = module.connections(1, 1, 3, 3, (3, 3), 1, (1, 1), None)
    layer.set_values(np.full(9, 2, np.float32))
    junk = [np.full(9, 7, np.float32) for _ in range(100)]
    assert layer.square_sum == 36
    del junk
    with pytest.raises(AttributeError):
        layer.values = None
