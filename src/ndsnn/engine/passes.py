"""One forward pass through a program and the backward pass that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ndsnn.engine.foreign.leaks import Leak, gradient_by_leak
from ndsnn.engine.graph import AvgPool, Graph, MaxPool, Neuron, Source
from ndsnn.engine.norms import NormedSynapse, PlainSynapse, SynapseGradient
from ndsnn.engine.ops import Backend, InputTerm, MapShape, Role
from ndsnn.engine.program import (
    Add,
    AddUp,
    Buffer,
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
    SynapseBack,
    UnloadGradient,
)
from ndsnn.engine.synapses import BoundSynapse
from ndsnn.neurons import LIFParameters


class Observer(Protocol):
    """Is told what passes through a network, at every forward pass."""

    def on_neuron(self, path: str, spikes: int, chances: int) -> None:
        """Take note of a neuron layer's activity.

        Args:
            path: Of the LIF module.
            spikes: Number of spikes, before any pool.
            chances: Neurons × steps × samples.
        """

    def on_input(self, layer: str, counts: Tensor, spiking: bool, samples: int) -> None:
        """Take note of what a conv or linear layer reads.

        Args:
            layer: Path of the module.
            counts: How many of the inputs seen were not 0, at each place of the map [C, H, W] int64 ([F, 1, 1] for
                a linear layer).
            spiking: Whether all were 0 or 1.
            samples: How many inputs were seen: N·T, or N by a layer that is computed once per image.
        """


class Pass:
    """Executes a program once.

    Args:
        program: The steps.
        graph: The network that the program was made of.
        backend: Whose arena nobody else uses until the pass is over.
        synapses: Of the graph, in its order, with connection sets that hold the present values.
        x: The input: images [N, C, H, W] or events [T, N, C, H, W].
        observer: Is told what passes through, or None.
        masks: By the index of a dropout in the graph what each step is multiplied by, [N, C, H, W].
        leaks: By the index of a neuron in the graph its leak, where that is a parameter.
    """

    def __init__(
        self,
        program: Program,
        graph: Graph,
        backend: Backend,
        synapses: Sequence[BoundSynapse],
        x: Tensor,
        observer: Observer | None,
        masks: Mapping[int, Tensor] | None = None,
        leaks: Mapping[int, Leak] | None = None,
    ) -> None:
        self.program = program
        self.masks = masks or {}
        self.leaks = leaks or {}
        self.by_leak: dict[int, float] = {}
        self.graph = graph
        self.backend = backend
        self.synapses = synapses
        self.observer = observer
        self.shape = x.shape
        self.samples = x.shape[-4]
        # What comes in and goes out: x and the logits, then ∂L/∂logits and ∂L/∂x.
        self.carried = x
        self.maps: dict[int, Any] = {}
        self.normed: dict[int, NormedSynapse | PlainSynapse] = {}
        self.weights: dict[int, Tensor] = {}
        self.rest: dict[int, SynapseGradient] = {}

    def forward(self) -> Tensor:
        """Return the logits [T, N, classes], or [T, N, classes, H, W] of a conv readout.

        Raises:
            ShapeError: A norm cannot take statistics of one value per channel.
        """
        self._run(self.program.forward, 0)
        return self.carried

    def backward(self, gradient: Tensor) -> Tensor:
        """Go back from ∂L/∂logits; return ∂L/∂x if it was wanted. Then `parameter_gradients` has the others."""
        self.carried = gradient
        self._run(self.program.backward, len(self.program.forward))
        return self.carried

    def parameter_gradients(self) -> list[Tensor | None]:
        """Return the gradients of each synapse's weight, bias, γ and β, then of each leak, one after the other."""
        found: list[Tensor | None] = []
        for number, bound in enumerate(self.synapses):
            found += bound.parameters.gradients(self.weights.get(number), self.rest.get(number))
        for index, leak in self.leaks.items():
            found.append(leak.gradient(self.by_leak[index]) if index in self.by_leak else None)
        return found

    def _run(self, steps: Sequence[Step], first: int) -> None:
        for number, step in enumerate(steps, start=first):
            self._take(step)
            for buffer in self.program.given_up[number]:
                del self.maps[buffer]

    def _take(self, step: Step) -> None:
        match step:
            case Load(out):
                self._load(out)
            case Measure(current):
                self._measure(current)
            case Fire():
                self._fire(step)
            case Pool():
                self._pool(step)
            case AddUp():
                self._add_up(step)
            case Drop(node, source, out):
                self._drop(node, source, out)
            case ReadOut(current):
                self._read_out(current)
            case LoadGradient(current, out):
                self._load_gradient(current, out)
            case FireBack():
                self._fire_back(step)
            case SynapseBack():
                self._synapse_back(step)
            case Add():
                self._add(step)
            case PoolBack():
                self._pool_back(step)
            case DropBack(node, grad_out, grad_source, accumulate):
                self._drop(node, grad_out, grad_source, accumulate)
            case UnloadGradient(source):
                self.carried = self._gradient_of_input(self.backend.unload(self._map(source)))

    def _map(self, buffer: int) -> Any:
        """Return a buffer's map, made at its first use."""
        one = self.program.buffers[buffer]
        if one.base is not None:
            return self.backend.relabel(self._map(one.base), one.shape)
        if buffer not in self.maps:
            self.maps[buffer] = self._new_map(one, self.program.offsets[buffer])
        return self.maps[buffer]

    def _new_map(self, buffer: Buffer, offset: int) -> Any:
        if buffer.role is Role.SPIKES:
            return self.backend.spikes(buffer.shape, offset)
        return self.backend.floats(buffer.shape, offset, buffer.role)

    def _current(self, number: int) -> Any:
        plan = self.program.currents[number]
        stored = None if plan.stored is None else self._map(plan.stored)
        return self.backend.current(self.synapses[number].connections, self._map(plan.source), stored)

    def _summands(self, fire: Fire) -> list[InputTerm]:
        terms = []
        for summand in fire.summands:
            if summand.current is not None:
                terms.append(InputTerm(self._current(summand.current), self._normed(summand.current).affine))
            elif summand.buffer is not None:
                terms.append(InputTerm(self._map(summand.buffer), None))
        return terms

    def _normed(self, number: int) -> NormedSynapse | PlainSynapse:
        """Return what stands behind a current; one that has not been measured does without its statistics."""
        if number not in self.normed:
            self.normed[number] = self.synapses[number].normalise(None, 0)
        return self.normed[number]

    def _load(self, out: int) -> None:
        """Pad the input, repeat an image where that is due, and load it."""
        node, shape = self.graph.nodes[0], self.program.buffers[out].shape
        assert isinstance(node, Source)
        x = functional.pad(self.carried, self._padding())
        x = x.expand(shape.steps, *x.shape[-4:])
        self.backend.load(x.contiguous(), self._map(out))

    def _padding(self) -> tuple[int, int, int, int]:
        """Return how many zeros go left, right, above and below; see `ndsnn.models.layers.ZeroPad`."""
        node = self.graph.nodes[0]
        assert isinstance(node, Source)
        height, width = (max(node.pad_to - n, 0) for n in self.shape[-2:])
        return width // 2, width - width // 2, height // 2, height - height // 2

    def _gradient_of_input(self, gradient: Tensor) -> Tensor:
        """Undo `_load` for a gradient [S, N, C, H, W]."""
        gradient = functional.pad(gradient, [-n for n in self._padding()])
        return gradient if len(self.shape) == 5 else gradient.sum(0)

    def _measure(self, number: int) -> None:
        sums, shape = self.backend.statistics(self._current(number)), self.program.currents[number].shape
        values = shape.steps * self.samples * shape.height * shape.width
        self.normed[number] = self.synapses[number].normalise(sums, values)

    def _fire(self, fire: Fire) -> None:
        node = self.graph.nodes[fire.node]
        assert isinstance(node, Neuron)
        terms, neuron = self._summands(fire), self._neuron(fire.node)
        spikes = self.backend.neuron_forward(terms, neuron, node.pool, self._map(fire.out))
        if self.observer is not None:
            steps = self.program.buffers[fire.out].shape.steps
            shape = self._summed_shape(fire)
            neurons = shape.channels * shape.height * shape.width
            for summand in fire.summands:
                if summand.current is not None:
                    self._observe_input(self.observer, summand.current)
            self.observer.on_neuron(node.path, spikes, neurons * steps * self.samples)

    def _neuron(self, index: int) -> LIFParameters:
        """Return the neuron of a node, with its present leak."""
        node = self.graph.nodes[index]
        assert isinstance(node, Neuron)
        return self.leaks[index].neuron if index in self.leaks else node.parameters

    def _summed_shape(self, fire: Fire) -> MapShape:
        first = fire.summands[0]
        if first.current is not None:
            return self.program.currents[first.current].shape
        return self.program.buffers[first.buffer or 0].shape

    def _observe_input(self, observer: Observer, number: int) -> None:
        plan = self.program.currents[number]
        buffer, source = self.program.buffers[plan.source], self._map(plan.source)
        spiking = buffer.role is Role.SPIKES
        if not spiking:
            values = self.backend.unload(source)
            spiking = bool(((values == 0) | (values == 1)).all())
        samples = buffer.shape.steps * self.samples
        observer.on_input(plan.synapse.layer, self.backend.counts(source), spiking, samples)

    def _pool(self, pool: Pool) -> None:
        node, source, out = self.graph.nodes[pool.node], self._map(pool.source), self._map(pool.out)
        if isinstance(node, MaxPool):
            self.backend.max_pool(source, node.side, out)
        else:
            assert isinstance(node, AvgPool)
            self.backend.avg_pool(source, out, node.side)

    def _add_up(self, step: AddUp) -> None:
        first, *others = step.sources
        out = self._map(step.out)
        # An average over windows of one place makes floats of spikes.
        self.backend.avg_pool(self._map(first), out, 1)
        for source in others:
            summand = self._map(source)
            if self.program.buffers[source].role is Role.SPIKES:
                assert step.scratch is not None
                self.backend.avg_pool(summand, self._map(step.scratch), 1)
                summand = self._map(step.scratch)
            self.backend.add(summand, out)

    def _drop(self, node: int, source: int, out: int, accumulate: bool = False) -> None:
        """Do out = source·mask, or add it to `out`; the same one way and the other."""
        product = self.backend.unload(self._map(source)) * self.masks[node]
        if accumulate:
            product += self.backend.unload(self._map(out))
        self.backend.load(product, self._map(out))

    def _read_out(self, number: int) -> None:
        y = self.backend.evaluate(self._current(number))
        if self.observer is not None:
            self._observe_input(self.observer, number)
        bias = self.synapses[number].parameters.bias
        if bias is not None:
            y = y + bias.detach().view(-1, 1, 1)
        self.carried = y.flatten(2) if self.synapses[number].features_only else y

    def _load_gradient(self, number: int, out: int) -> None:
        shape = self.program.buffers[out].shape
        gradient = self.carried.reshape(
            shape.steps, self.samples, shape.channels, shape.height, shape.width
        ).contiguous()
        self.backend.load(gradient, self._map(out))
        self.rest[number] = self._normed(number).backward(gradient.double().sum((0, 1, 3, 4)), None)

    def _fire_back(self, step: FireBack) -> None:
        node = self.graph.nodes[step.fire.node]
        assert isinstance(node, Neuron)
        terms, neuron, grad_x = self._summands(step.fire), self._neuron(step.fire.node), self._map(step.grad_x)
        sums = self.backend.neuron_backward(terms, neuron, node.pool, self._map(step.grad_out), grad_x)
        leak = self.leaks.get(step.fire.node)
        if leak is not None and leak.parameter.requires_grad:
            gradient = self.backend.unload(grad_x)
            self.by_leak[step.fire.node] = gradient_by_leak(self.backend, terms, neuron, gradient)
        for summand, sum_gx_y in zip(step.fire.summands, sums.sum_gx_y, strict=True):
            if summand.current is not None:
                self.rest[summand.current] = self._normed(summand.current).backward(sums.sum_gx, sum_gx_y)

    def _synapse_back(self, step: SynapseBack) -> None:
        bound = self.synapses[step.current]
        self.weights[step.current] = self.backend.synapse_backward(
            self._current(step.current),
            self._map(step.grad_x),
            self.rest[step.current].affine,
            None if step.grad_source is None else self._map(step.grad_source),
            step.accumulate,
            bound.dense_sink() if bound.parameters.weight.requires_grad else None,
        )

    def _add(self, step: Add) -> None:
        into = self._map(step.into)
        if step.fresh:
            shape = self.program.buffers[step.into].shape
            zeros = torch.zeros(shape.steps, self.samples, shape.channels, shape.height, shape.width)
            self.backend.load(zeros, into)
        self.backend.add(self._map(step.source), into)

    def _pool_back(self, step: PoolBack) -> None:
        node = self.graph.nodes[step.pool.node]
        grad_out, grad_source = self._map(step.grad_out), self._map(step.grad_source)
        if isinstance(node, MaxPool):
            source = self._map(step.pool.source)
            self.backend.max_pool_backward(source, node.side, grad_out, grad_source, step.accumulate)
        else:
            assert isinstance(node, AvgPool)
            self.backend.avg_pool_backward(grad_out, grad_source, node.side, step.accumulate)
