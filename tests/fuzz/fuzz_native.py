"""Programs of calls into `ndsnn._native`, read off bytes: most fit, some do not, and none may do more than raise.

Every function of csrc/bindings.cpp is called, on arguments that come from earlier calls or from the edges of what
an int can be. Arrays are filled with numbers, infinities and NaN; maps are not filled before they are read.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_draw import Draw

from ndsnn.engine import library

ALLOWED = (ValueError, TypeError, MemoryError, OverflowError)
"""What a call that does not fit may raise."""

MOST_CALLS = 60
MOST_VALUES = 1 << 16
_VALUES = np.random.default_rng(0).standard_normal(1024)
_SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, 65504.0)


class Program:
    """The objects that the calls so far have made.

    Args:
        draw: Where the choices come from.
        apart: Whether what is written shares no memory with what is read, as in every use that makes sense.
    """

    def __init__(self, draw: Draw, apart: bool = False) -> None:
        self.draw, self.native, self.apart = draw, library.load(), apart
        self.isas = self.native.available_isas()
        self.samples = (1, 3, 8, 9, 17, 33)[draw.below(6)]
        self.engines = [self.native.Engine(self.samples, self.isas[draw.below(len(self.isas))])]
        self.arenas = [self.native.Arena(1 << 16)]
        self.maps: list[Any] = []
        self.connections: list[Any] = []
        self.currents: list[Any] = []
        self.terms: list[Any] = []
        self.neurons: list[Any] = []
        self.done = self.raised = 0

    def run(self) -> None:
        with np.errstate(all="ignore"):
            while not self.draw.over and self.done < MOST_CALLS:
                name = CALLS[self.draw.below(len(CALLS))]
                self.done += 1
                try:
                    getattr(self, name)()
                except ALLOWED:
                    self.raised += 1

    # Arguments

    def floats(self, count: int, dtype: str = "f4") -> np.ndarray:
        """An array of `count` numbers, or rarely of another length, type or layout."""
        count = self.draw.near(count)
        count = min(abs(count), MOST_VALUES)
        values = np.resize(_VALUES[self.draw.byte() :], count)
        if count and self.draw.rarely():
            values[self.draw.below(min(count, 256))] = self.draw.of(_SPECIAL)
        if self.draw.rarely():
            return self.draw.of((np.ones(count, "i4"), values[::2], values[None], values.astype(">f4")))
        return values.astype(dtype)

    def engine(self) -> Any:
        return self.draw.of(self.engines[-2:]) if self.draw.rarely() else self.engines[0]

    def kind(self) -> Any:
        kinds = self.native.Kind
        return self.draw.of((kinds.FLOAT32, kinds.SPIKES, kinds.FLOAT16))

    def shape(self) -> tuple[int, ...]:
        """Steps, channels, height and width: of a map that there is, or new ones."""
        if self.maps and self.draw.below(4):
            shape = tuple(self.draw.of(self.maps[-8:]).shape)
            return tuple(self.draw.near(n) for n in shape)
        return tuple(self.draw.small() for _ in range(4))

    def place(self, shape: tuple[int, ...], kind: Any) -> Any:
        """A map of a shape in an arena that is large enough."""
        engine = self.engine()
        nbytes = engine.nbytes(*shape, kind)
        if nbytes > 1 << 24:
            raise MemoryError("more than this test takes")
        if self.apart or nbytes > self.arenas[-1].nbytes or self.draw.rarely():
            self.arenas.append(self.native.Arena(nbytes))
        room = (self.arenas[-1].nbytes - nbytes) // 64
        offset = 64 * self.draw.below(min(room, 65535) + 1) if self.draw.below(2) else 0
        made = engine.map(self.arenas[-1], self.draw.near(offset), *shape, kind)
        self.maps.append(made)
        return made

    def some_map(self, shape: tuple[int, ...] | None = None, kind: Any = None) -> Any:
        """A map of this shape and kind, or rarely any."""
        if self.maps and self.draw.rarely() and not self.apart:
            return self.draw.of(self.maps[-8:])
        fitting = [one for one in self.maps[-16:] if kind is None or one.kind == kind]
        if shape is None and fitting:
            return self.draw.of(fitting)
        return self.place(self.shape() if shape is None else shape, self.kind() if kind is None else kind)

    def one(self, things: list[Any], make: Callable[[], Any]) -> Any:
        if not things or self.draw.rarely():
            make()
        if not things:
            raise ValueError("it could not be made")
        return self.draw.of(things[-4:])

    def pooled(self, shape: tuple[int, ...], side: int) -> tuple[int, ...]:
        steps, channels, *places = shape
        return (steps, channels, *(n // min(max(side, 1), n) for n in places))

    def numbers(self, count: int) -> np.ndarray:
        return self.floats(count, "f8")

    # Calls

    def make_engine(self) -> None:
        isa = self.draw.of((*self.isas, "", "mmx"))
        self.engines.append(self.native.Engine(self.draw.near(self.samples), isa))

    def make_arena(self) -> None:
        self.arenas.append(
            self.native.Arena(self.draw.of(EDGE_BYTES) if self.draw.rarely() else 64 << self.draw.below(12))
        )

    def make_map(self) -> None:
        self.place(self.shape(), self.kind())

    def make_connections(self) -> None:
        draw = self.draw
        c_in, c_out, height, width = (draw.small() for _ in range(4))
        kernel = (draw.of((1, 3, 5)), draw.of((1, 3, 5)))
        if draw.rarely():
            kernel = (draw.small(), draw.small())
        padding = (draw.near(kernel[0] // 2), draw.near(kernel[1] // 2))
        size = c_in * c_out * kernel[0] * kernel[1]
        positions = None
        if draw.below(4) and 0 < size <= MOST_VALUES:
            random = np.random.default_rng(draw.byte())
            positions = np.flatnonzero(random.random(size) < draw.of((0.0, 0.1, 0.5, 0.95, 1.0)))
            if len(positions) and draw.rarely():
                positions[draw.below(min(len(positions), 256))] = draw.of(EDGE_PLACES)
        stride = draw.near(draw.of((1, 2)))
        made = self.native.connections(c_in, c_out, height, width, kernel, stride, padding, positions)
        self.connections.append((made, (c_in, height, width)))
        if not draw.rarely():
            made.set_values(self.floats(made.nnz))

    def set_values(self) -> None:
        made, _ = self.one(self.connections, self.make_connections)
        made.set_values(self.floats(made.nnz))
        _ = made.square_sum, made.density, made.dense_shape, made.writes_in_place

    def make_current(self) -> None:
        made, places = self.one(self.connections, self.make_connections)
        source = self.some_map((1 + self.draw.below(3), *places), self.kind())
        current = self.engine().current(made, source, None)
        if self.draw.below(2):
            kinds = self.native.Kind
            stored = self.some_map(tuple(current.shape), self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
            current = self.engine().current(made, source, stored)
        self.currents.append(current)

    def make_term(self) -> None:
        if self.draw.below(4):
            current = self.one(self.currents, self.make_current)
            channels = current.channels
            self.terms.append(
                (
                    self.engine().current_term(current, self.numbers(channels), self.numbers(channels)),
                    tuple(current.shape),
                )
            )
        else:
            chosen = self.some_map()
            self.terms.append((self.engine().map_term(chosen), tuple(chosen.shape)))

    def make_neuron(self) -> None:
        draw, surrogates = self.draw, self.native.Surrogate
        shapes = (surrogates.ATAN, surrogates.SIGMOID, surrogates.TRIANGLE, surrogates.RECTANGLE)
        numbers = [draw.of((2.0, 1.0, *_SPECIAL)) for _ in range(4)]
        reset = draw.of((None, 0.0, numbers[0]))
        flags = [bool(draw.byte() % 2) for _ in range(2)]
        made = self.native.Neuron(
            numbers[1], numbers[2], reset, numbers[3], *flags, draw.of(shapes), draw.of(_SPECIAL)
        )
        self.neurons.append(made)

    def neuron_arguments(self) -> tuple[list[Any], Any, int, tuple[int, ...], tuple[int, ...]]:
        neuron = self.one(self.neurons, self.make_neuron)
        term, shape = self.one(self.terms, self.make_term)
        terms = [term]
        while self.draw.below(3) == 2 and len(terms) < 4:
            terms.append(self.draw.of(self.terms)[0])
        if self.draw.rarely():
            terms = []
        pool = self.draw.of((1, 2, 3)) if not self.draw.rarely() else self.draw.of((0, -1, 2**31 - 1))
        out = self.pooled(shape, pool)
        if shape[0] == 1 and len(terms) == 1 and self.draw.below(2):
            out = (1 + self.draw.below(4), *out[1:])
        return terms, neuron, pool, shape, out

    def neuron_forward(self) -> None:
        terms, neuron, pool, _, out = self.neuron_arguments()
        self.engine().neuron_forward(terms, neuron, pool, self.some_map(out, self.native.Kind.SPIKES))

    def neuron_backward(self) -> None:
        terms, neuron, pool, shape, out = self.neuron_arguments()
        half = self.draw.of((self.native.Kind.FLOAT32, self.native.Kind.FLOAT16))
        into = shape if len(terms) == 1 else (out[0], *shape[1:])
        grad_out, grad_x = self.some_map(out, half), self.some_map(into, half)
        sums = self.numbers(len(terms) * shape[1])
        sums = sums.reshape(len(terms), -1) if len(sums) == len(terms) * shape[1] and terms else sums
        self.engine().neuron_backward(terms, neuron, pool, grad_out, grad_x, self.numbers(shape[1]), sums)

    def gradient_arguments(self) -> tuple[Any, Any, tuple[np.ndarray, ...]]:
        current = self.one(self.currents, self.make_current)
        half = self.draw.of((self.native.Kind.FLOAT32, self.native.Kind.FLOAT16))
        grad_x = self.some_map(tuple(current.shape), half)
        affine = tuple(self.numbers(current.channels) for _ in range(3))
        if self.draw.below(2):
            affine = (affine[0], affine[1] * 0, affine[2])
        return current, grad_x, affine

    def synapse_backward(self) -> None:
        current, grad_x, affine = self.gradient_arguments()
        half = self.draw.of((self.native.Kind.FLOAT32, self.native.Kind.FLOAT16))
        into = self.some_map(tuple(current.source.shape), half) if self.draw.below(3) else None
        values = self.floats(current.connections.nnz)
        self.engine().synapse_backward(current, grad_x, *affine, into, bool(self.draw.byte() % 2), values)

    def dense_gradient(self) -> None:
        current, grad_x, affine = self.gradient_arguments()
        engine = self.engine()
        channels, *rest = current.connections.dense_shape
        together = engine.dense_gradient_channels
        first = self.draw.near(together * self.draw.below(-(-channels // together)))
        count = self.draw.near(max(1, min(together, channels - first)))
        size = count * int(np.prod(rest))
        gradient = self.floats(size if 0 <= size <= MOST_VALUES else 0)
        engine.dense_gradient(current, grad_x, *affine, first, count, gradient)

    def statistics(self) -> None:
        current = self.one(self.currents, self.make_current)
        self.engine().statistics(current, self.numbers(current.channels), self.numbers(current.channels))

    def max_pool(self) -> None:
        spikes, side = self.native.Kind.SPIKES, self.draw.near(self.draw.of((1, 2, 3)))
        source = self.some_map(kind=spikes)
        self.engine().max_pool(source, side, self.some_map(self.pooled(tuple(source.shape), side), spikes))

    def max_pool_backward(self) -> None:
        kinds, side = self.native.Kind, self.draw.near(self.draw.of((1, 2, 3)))
        source = self.some_map(kind=kinds.SPIKES)
        shape = tuple(source.shape)
        grad_out = self.some_map(self.pooled(shape, side), self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
        grad_source = self.some_map(shape, self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
        flag, factor = bool(self.draw.byte() % 2), self.draw.of(_SPECIAL)
        self.engine().max_pool_backward(source, side, grad_out, grad_source, flag, factor)

    def averaged(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Shape behind an average pool of a side, 0 for adaptive bins of any number."""
        side = self.draw.near(self.draw.of((0, 1, 2)))
        if side > 0 and min(shape[2:]) >= side:
            return (*shape[:2], shape[2] // side, shape[3] // side), side
        return (*shape[:2], self.draw.small(), self.draw.small()), side

    def avg_pool(self) -> None:
        source = self.some_map()
        out, side = self.averaged(tuple(source.shape))
        self.engine().avg_pool(source, self.place(out, self.native.Kind.FLOAT32), side)

    def avg_pool_backward(self) -> None:
        kinds = self.native.Kind
        source = self.some_map(self.shape(), self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
        out, side = self.averaged(tuple(source.shape))
        grad_out = self.some_map(out, self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
        flag, factor = bool(self.draw.byte() % 2), self.draw.of(_SPECIAL)
        self.engine().avg_pool_backward(grad_out, source, side, flag, factor)

    def add(self) -> None:
        kinds = self.native.Kind
        source = self.some_map(self.shape(), self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
        into = self.some_map(tuple(source.shape), self.draw.of((kinds.FLOAT32, kinds.FLOAT16)))
        self.engine().add(source, into, self.draw.of(_SPECIAL))

    def mean_square(self) -> None:
        self.engine().mean_square(self.some_map())

    def array_of(self, shape: tuple[int, ...]) -> np.ndarray:
        steps, *places = shape
        whole = (steps, self.samples, *places)
        values = self.floats(int(np.prod(whole)))
        return values.reshape(whole) if values.size == np.prod(whole) else values

    def load(self) -> None:
        into = self.some_map()
        self.engine().load(self.array_of(tuple(into.shape)), into)

    def unload(self) -> None:
        chosen = self.some_map()
        self.engine().unload(chosen, self.array_of(tuple(chosen.shape)))

    def counts(self) -> None:
        chosen = self.some_map()
        places = int(np.prod(tuple(chosen.shape)[1:]))
        self.engine().counts(chosen, np.zeros(min(max(self.draw.near(places), 0), MOST_VALUES), np.int64))

    def relabel(self) -> None:
        chosen = self.some_map()
        _, channels, height, width = chosen.shape
        wanted = (channels * height * width, 1, 1) if self.draw.below(2) else (channels, width, height)
        if self.draw.rarely():
            wanted = tuple(self.draw.of(EDGES_OF_INT) for _ in range(3))
        self.maps.append(self.engine().relabel(chosen, *wanted))

    def scale(self) -> None:
        chosen = self.some_map()
        chosen.scale = self.draw.of(_SPECIAL)
        _ = chosen.scale, chosen.kind, chosen.shape

    def forget(self) -> None:
        """Let objects go in an order that their users do not choose."""
        for things in (self.maps, self.connections, self.currents, self.terms, self.arenas):
            if len(things) > 1 and self.draw.below(2):
                things.pop(0)

    def rates(self) -> None:
        self.native.max_threads()
        if self.draw.rarely():
            self.native.fma_rate(self.draw.of(("", "mmx")), self.draw.of((0.0, -1.0, np.nan, np.inf, 1e-6, 1e9)))


EDGE_BYTES = (0, 1, 2**21, 2**47, 2**48, 2**63, 2**64 - 1, 2**64, -1)
EDGE_PLACES = (-1, 2**31 - 1, 2**31, 2**62, -(2**62))
EDGES_OF_INT = (0, 1, 2, 2**15, 2**15 + 1, 2**16, 2**31 - 1, -1, -(2**31))
_HELPERS = (
    "run",
    "floats",
    "engine",
    "kind",
    "shape",
    "place",
    "some_map",
    "one",
    "pooled",
    "numbers",
    "averaged",
)
CALLS = tuple(
    name
    for name, value in vars(Program).items()
    if callable(value)
    and not name.startswith("_")
    and name not in (*_HELPERS, "array_of", "neuron_arguments", "gradient_arguments")
)


def native(data: bytes) -> None:
    """Do what the bytes say; whatever is raised beyond `ALLOWED` is a defect."""
    draw = Draw(data)
    Program(draw).run()
