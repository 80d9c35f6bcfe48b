"""From the graph to a program: which gradients are needed, where they lie, and when a map can be given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ndsnn.engine.graph import AvgPool, Dropout, Flatten, Graph, MaxPool, Neuron, Readout, Source, Sum, Term
from ndsnn.engine.memory import Lifetime, place
from ndsnn.engine.ops import MapShape, Role
from ndsnn.engine.program import (
    Add,
    AddUp,
    Buffer,
    CurrentPlan,
    Drop,
    DropBack,
    Fire,
    FireBack,
    Load,
    LoadGradient,
    Measure,
    Pool,
    PoolBack,
    Program,
    ReadOut,
    Step,
    Summand,
    SynapseBack,
    UnloadGradient,
)
from ndsnn.engine.shapes import current_shape, integrated_shape


@dataclass(frozen=True)
class SynapseDemand:
    """What is asked of one synapse.

    Args:
        trains_weight: Whether the gradient of its weight is wanted.
        trains: Whether that of any of its parameters is: weight, bias, γ or β.
        batch_statistics: Whether its norm takes the statistics of the batch.
        stored: Whether its current is kept rather than computed again.
        in_place: Whether the gradient of its input can be written over that of its output.
    """

    trains_weight: bool
    trains: bool
    batch_statistics: bool
    stored: bool
    in_place: bool


@dataclass(frozen=True)
class Demand:
    """What is asked of a pass. Where no gradient is wanted, there is no way back and nothing is kept for it.

    Args:
        synapses: For each synapse of the graph, in its order.
        input_gradient: Whether the gradient of the network's input is wanted.
        dropping: Indices of the dropouts that drop.
        leaks: Indices of the neurons of whose leak the gradient is wanted.
    """

    synapses: tuple[SynapseDemand, ...]
    input_gradient: bool
    dropping: frozenset[int] = frozenset()
    leaks: frozenset[int] = frozenset()


def make_program(
    graph: Graph, shapes: Sequence[MapShape], demand: Demand, nbytes: Callable[[MapShape, Role], int]
) -> Program:
    """Plan a pass.

    A gradient that several readers contribute to is written by the last of them in the graph, which comes first on
    the way back, and added to by the others. ∂L/∂x of a neuron lies where ∂L/∂spikes lay unless a pool or T stands
    between them; a gradient of what was added as it is, or of what a synapse writes in place, lies there too.

    Args:
        graph: The lowered network.
        shapes: Of its values (see `infer_shapes`).
        demand: What is asked.
        nbytes: Size of a map of a shape and role, as the back end says.
    """
    planner = _Planner(graph, shapes, demand)
    for index in range(len(graph.nodes)):
        planner.forward(index)
    steps_forward = len(planner.steps)
    for index in reversed(range(len(graph.nodes))):
        planner.backward(index)
    return planner.program(steps_forward, nbytes)


class _Planner:
    """Writes down the steps and, for each buffer with bytes of its own, the first and last step that uses it."""

    def __init__(self, graph: Graph, shapes: Sequence[MapShape], demand: Demand) -> None:
        self.graph = graph
        self.shapes = shapes
        self.demand = demand
        self.buffers: list[Buffer] = []
        self.currents: list[CurrentPlan] = []
        self.steps: list[Step] = []
        self.spans: dict[int, tuple[int, int]] = {}
        self.values: list[int] = []
        self.made_by: dict[int, Step] = {}
        self.gradients: dict[int, int] = {}
        self.needs = self._needed_gradients()

    def _needed_gradients(self) -> list[bool]:
        """Say for each node whether a gradient is wanted of it or of anything in front of it."""
        needs: list[bool] = []
        synapses = iter(self.demand.synapses)
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node, Source):
                needs.append(self.demand.input_gradient)
            elif isinstance(node, Neuron | Readout):
                terms = node.terms if isinstance(node, Neuron) else (node.term,)
                own = [next(synapses).trains for term in terms if term.synapse is not None]
                own.append(index in self.demand.leaks)
                needs.append(any(own) or any(needs[term.node] for term in terms))
            elif isinstance(node, Sum):
                needs.append(any(needs[term] for term in node.terms))
            else:
                needs.append(needs[node.node])
        return needs

    def program(self, steps_forward: int, nbytes: Callable[[MapShape, Role], int]) -> Program:
        """Return what has been written down, with a place for every map."""
        owners = sorted(self.spans)
        sizes = [nbytes(self.buffers[owner].shape, self.buffers[owner].role) for owner in owners]
        lifetimes = [Lifetime(size, *self.spans[owner]) for size, owner in zip(sizes, owners, strict=True)]
        placed, total = place(lifetimes)
        offsets = [0] * len(self.buffers)
        given_up: list[tuple[int, ...]] = [()] * len(self.steps)
        for owner, offset, lifetime in zip(owners, placed, lifetimes, strict=True):
            offsets[owner] = offset
            given_up[lifetime.last] += (owner,)
        steps = tuple(self.steps)
        return Program(
            tuple(self.buffers),
            tuple(offsets),
            total,
            tuple(self.currents),
            steps[:steps_forward],
            steps[steps_forward:],
            tuple(given_up),
        )

    def forward(self, index: int) -> None:
        """Plan the forward pass of a node."""
        node, shape = self.graph.nodes[index], self.shapes[index]
        if isinstance(node, Source):
            self.values.append(self._new(shape, Role.VALUES))
            self._emit(Load(self.values[-1]), self.values[-1])
        elif isinstance(node, Neuron):
            self._fire(index, node)
        elif isinstance(node, MaxPool | AvgPool):
            pool = Pool(
                index,
                self.values[node.node],
                self._new(shape, Role.SPIKES if isinstance(node, MaxPool) else Role.VALUES),
            )
            self.values.append(pool.out)
            self.made_by[index] = pool
            self._emit(pool, pool.source, pool.out)
        elif isinstance(node, Sum):
            self._add_up(node, shape)
        elif isinstance(node, Dropout) and index in self.demand.dropping:
            drop = Drop(index, self.values[node.node], self._new(shape, Role.VALUES))
            self.values.append(drop.out)
            self._emit(drop, drop.source, drop.out)
        elif isinstance(node, Flatten | Dropout):
            self.values.append(self._as(self.values[node.node], shape))
        else:
            number = self._current(node.term, keep=False)
            self._emit(ReadOut(number), *self.currents[number].buffers)

    def _add_up(self, node: Sum, shape: MapShape) -> None:
        sources = tuple(self.values[term] for term in node.terms)
        spiking = any(self.buffers[source].role is Role.SPIKES for source in sources[1:])
        scratch = self._new(shape, Role.VALUES) if spiking else None
        step = AddUp(sources, self._new(shape, Role.VALUES), scratch)
        self.values.append(step.out)
        self._emit(step, step.out, *sources, *(() if scratch is None else (scratch,)))

    def _fire(self, index: int, node: Neuron) -> None:
        summands = tuple(
            Summand(None, self.values[term.node])
            if term.synapse is None
            else Summand(self._current(term, keep=self.needs[index]), None)
            for term in node.terms
        )
        fire = Fire(index, summands, self._new(self.shapes[index], Role.SPIKES))
        self.values.append(fire.out)
        self.made_by[index] = fire
        self._emit(fire, fire.out, *self._read_by(fire))

    def _current(self, term: Term, keep: bool) -> int:
        """Plan a term's current, measured where its statistics or a stored copy are wanted; return its number.

        Args:
            term: A term with a synapse.
            keep: Whether the current is used again in the backward pass.
        """
        assert term.synapse is not None
        demand = self.demand.synapses[len(self.currents)]
        shape = current_shape(term.synapse, self.shapes[term.node])
        # Without a way back, a stored current still saves computing it again after its statistics.
        source = self.values[term.node]
        role = Role.CURRENT if self.buffers[source].role is Role.SPIKES else Role.VALUES
        stored = self._new(shape, role) if demand.stored and (keep or demand.batch_statistics) else None
        current = CurrentPlan(term.synapse, source, stored, shape)
        self.currents.append(current)
        number = len(self.currents) - 1
        if stored is not None or demand.batch_statistics:
            self._emit(Measure(number), *current.buffers)
        return number

    def _read_by(self, fire: Fire) -> list[int]:
        """Return the buffers that neurons read, forward and back."""
        read: list[int] = []
        for summand in fire.summands:
            if summand.current is not None:
                read += self.currents[summand.current].buffers
            elif summand.buffer is not None:
                read.append(summand.buffer)
        return read

    def backward(self, index: int) -> None:
        """Plan the backward pass of a node, if anything wants its gradient; its readers have been planned."""
        node = self.graph.nodes[index]
        if not self.needs[index]:
            return
        if isinstance(node, Readout):
            number = len(self.currents) - 1
            grad_x = self._new(self.currents[number].shape, Role.GRADIENT)
            self._emit(LoadGradient(number, grad_x), grad_x)
            self._through_synapse(node.term, number, grad_x, last=True)
        elif isinstance(node, Neuron):
            self._fire_back(index, node)
        elif isinstance(node, MaxPool | AvgPool):
            pool, grad_out = self.made_by[index], self.gradients[index]
            assert isinstance(pool, Pool)
            grad_source, accumulate = self._receiver(node.node)
            read = (pool.source,) if isinstance(node, MaxPool) else ()
            self._emit(PoolBack(pool, grad_out, grad_source, accumulate), grad_out, grad_source, *read)
        elif isinstance(node, Sum):
            self._pass_on(self.gradients[index], [term for term in node.terms if self.needs[term]])
        elif isinstance(node, Dropout) and index in self.demand.dropping:
            grad_out = self.gradients[index]
            grad_source, accumulate = self._receiver(node.node)
            self._emit(DropBack(index, grad_out, grad_source, accumulate), grad_out, grad_source)
        elif isinstance(node, Source):
            self._emit(UnloadGradient(self.gradients[index]), self.gradients[index])

    def _fire_back(self, index: int, node: Neuron) -> None:
        fire, grad_out = self.made_by[index], self.gradients[index]
        assert isinstance(fire, Fire)
        shape = integrated_shape(node, self.shapes)
        grad_x = grad_out if node.pool == 1 and shape == self.shapes[index] else self._new(shape, Role.GRADIENT)
        self._emit(FireBack(fire, grad_out, grad_x), grad_out, grad_x, *self._read_by(fire))
        waiting = []
        for source in [term.node for term in node.terms if term.synapse is None and self.needs[term.node]]:
            # What another reader has begun is added to at once, so that ∂L/∂x is left to the terms below.
            if self._root(source) in self.gradients:
                self._add(grad_x, source)
            else:
                waiting.append(source)
        passed = [(t, s.current) for t, s in zip(node.terms, fire.summands, strict=True) if s.current is not None]
        for place_in_line, (term, number) in enumerate(passed, start=1):
            self._through_synapse(term, number, grad_x, last=not waiting and place_in_line == len(passed))
        self._pass_on(grad_x, waiting)

    def _pass_on(self, grad_x: int, sources: Sequence[int]) -> None:
        """Plan that ∂L/∂x is part of the gradient of each of `sources`; nothing else reads it any more."""
        for place_in_line, source in enumerate(sources, start=1):
            if place_in_line == len(sources) and self._root(source) not in self.gradients:
                self._give(source, grad_x)
            else:
                self._add(grad_x, source)

    def _through_synapse(self, term: Term, number: int, grad_x: int, last: bool) -> None:
        """Plan the way back through a synapse; the last reader of ∂L/∂x may write over it."""
        demand = self.demand.synapses[number]
        same_shape = self.shapes[term.node] == self.buffers[grad_x].shape
        grad_source, accumulate = None, False
        if not self.needs[term.node]:
            if not demand.trains_weight:
                return
        elif last and demand.in_place and same_shape and self._root(term.node) not in self.gradients:
            grad_source = grad_x
            self._give(term.node, grad_x)
        else:
            grad_source, accumulate = self._receiver(term.node)
        written = () if grad_source is None else (grad_source,)
        step = SynapseBack(number, grad_x, grad_source, accumulate)
        self._emit(step, grad_x, *written, *self.currents[number].buffers)

    def _add(self, grad_x: int, source: int) -> None:
        into, accumulate = self._receiver(source)
        self._emit(Add(grad_x, into, fresh=not accumulate), grad_x, into)

    def _receiver(self, node: int) -> tuple[int, bool]:
        """Return the buffer of the gradient of `node`, and whether there is something in it to add to."""
        root = self._root(node)
        begun = root in self.gradients
        if not begun:
            self.gradients[root] = self._new(self.shapes[root], Role.GRADIENT)
        return self._as(self.gradients[root], self.shapes[node]), begun

    def _give(self, node: int, buffer: int) -> None:
        """Make `buffer` the gradient of `node`."""
        root = self._root(node)
        self.gradients[root] = self._as(buffer, self.shapes[root])

    def _root(self, node: int) -> int:
        """Return the node whose map the value of `node` is: behind a chain that only relabels, the first."""
        one = self.graph.nodes[node]
        if isinstance(one, Flatten) or (isinstance(one, Dropout) and node not in self.demand.dropping):
            return self._root(one.node)
        return node

    def _new(self, shape: MapShape, role: Role) -> int:
        self.buffers.append(Buffer(shape, role))
        return len(self.buffers) - 1

    def _as(self, buffer: int, shape: MapShape) -> int:
        """Return `buffer` as a map of `shape`: itself, its base, or another buffer with that base."""
        base = self._base(buffer)
        for known in (buffer, base):
            if self.buffers[known].shape == shape:
                return known
        self.buffers.append(Buffer(shape, self.buffers[base].role, base))
        return len(self.buffers) - 1

    def _base(self, buffer: int) -> int:
        base = self.buffers[buffer].base
        return buffer if base is None else base

    def _emit(self, step: Step, *buffers: int) -> None:
        """Write down a step and that it uses `buffers`."""
        number = len(self.steps)
        self.steps.append(step)
        for buffer in buffers:
            base = self._base(buffer)
            first, _ = self.spans.get(base, (number, number))
            self.spans[base] = (first, number)
