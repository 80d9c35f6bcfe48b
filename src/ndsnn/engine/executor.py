"""Runs a lowered network on a back end, as one function to autograd."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.engine.foreign.framework import framework_of
from ndsnn.engine.foreign.leaks import leaks_of
from ndsnn.engine.graph import Dropout, Graph, Neuron, Readout, Synapse, Term
from ndsnn.engine.memory import available_memory
from ndsnn.engine.ops import Backend, MapShape
from ndsnn.engine.passes import Observer, Pass
from ndsnn.engine.planning import Demand, SynapseDemand, make_program
from ndsnn.engine.program import Program
from ndsnn.engine.shapes import infer_shapes
from ndsnn.engine.synapses import BoundSynapse, ConnectionCache, parameters_of
from ndsnn.errors import ConfigError

MEMORY_MODES = ("auto", "recompute", "store")
"""Whether currents are kept for the backward pass: as the back end prefers and memory allows, never, always."""

KEPT_PROGRAMS = 16
"""Programs are kept for so many kinds of input."""

BackendFactory = Callable[[int, int], Backend]
"""Makes a back end for T steps and N samples."""


class Lease:
    """A back end, and with it an arena, for one pass; it goes back to its pool when it is released or forgotten.

    Args:
        backend: The back end.
        pool: Where it goes back to.
    """

    def __init__(self, backend: Backend, pool: list[Backend]) -> None:
        self.backend = backend
        self._pool: list[Backend] | None = pool

    def release(self) -> None:
        """Give the back end back; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.append(self.backend)

    def __del__(self) -> None:
        self.release()


class BackendPool:
    """Hands out back ends for T and N, and keeps the idle ones of the T and N that was asked for last.

    Args:
        make: Makes a new one.
    """

    def __init__(self, make: BackendFactory) -> None:
        self._make = make
        self._size: tuple[int, int] | None = None
        self._idle: list[Backend] = []

    def take(self, steps: int, samples: int) -> Lease:
        """Return an idle back end or a new one. Idle ones of another size are given up, with their memory."""
        if self._size != (steps, samples):
            self._size, self._idle = (steps, samples), []
        return Lease(self._idle.pop() if self._idle else self._make(steps, samples), self._idle)


class Executor:
    """Runs a graph.

    What it keeps between calls (programs, connection sets, arenas) is no part of its copies.

    Args:
        graph: The lowered network.
        make_backend: Makes a back end for T and N.
        dtype: Of input, parameters and logits.
        memory: One of `MEMORY_MODES`.
    """

    def __init__(
        self, graph: Graph, make_backend: BackendFactory, dtype: torch.dtype = torch.float32, memory: str = "auto"
    ) -> None:
        self.graph = graph
        self.make_backend = make_backend
        self.dtype = dtype
        self.memory = memory
        self._forget()

    def _forget(self) -> None:
        self._pool = BackendPool(self.make_backend)
        self._connections = ConnectionCache()
        self._programs: OrderedDict[tuple[Any, ...], Program] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("graph", "make_backend", "dtype", "memory")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def run(self, net: nn.Module, x: Tensor, observer: Observer | None = None) -> Tensor:
        """Return the logits [T, N, classes] ([T, N, classes, H, W] of a conv readout).

        Gradients flow to the parameters of `net` and to `x`; norms in training mode move their running statistics.
        A graph of autograd can be gone back through once.

        Args:
            net: Where the modules of the graph are found by their paths.
            x: Images [N, C, H, W] or events [T, N, C, H, W], N ≥ 1.
            observer: Is told what passes through, or None.

        Raises:
            ShapeError: `x` does not fit the network.
            ConfigError: `x` or a parameter is of another dtype or on another device.
        """
        self._require_fit("the input", x)
        events = x.ndim == 5
        channels, height, width = x.shape[-3:]
        steps = x.shape[0] if events else self.graph.time_steps or 1
        shapes = infer_shapes(self.graph, steps, channels, height, width, events)
        lease = self._pool.take(steps, x.shape[-4])
        bound = self._bind(net, shapes, lease.backend)
        leaks = leaks_of(self.graph, net)
        parameters = [p for one in bound for p in one.parameters] + [leak.parameter for leak in leaks.values()]
        differentiated = torch.is_grad_enabled() and any(
            p is not None and p.requires_grad for p in (x, *parameters)
        )
        masks = self._masks(net, shapes, x.shape[-4])
        wanted = [index for index, leak in leaks.items() if differentiated and leak.parameter.requires_grad]
        extra = frozenset(masks), frozenset(wanted)
        program = self._program(x, shapes, bound, lease.backend, differentiated, extra)
        lease.backend.reserve(program.nbytes)
        one_pass = Pass(program, self.graph, lease.backend, bound, x.detach(), observer, masks, leaks)
        if differentiated:
            logits: Tensor = _Network.apply(one_pass, lease, x, *parameters)
            return logits
        with torch.no_grad():
            logits = one_pass.forward()
        lease.release()
        return logits

    def _bind(self, net: nn.Module, shapes: tuple[MapShape, ...], backend: Backend) -> list[BoundSynapse]:
        """Find the modules of every synapse, with connection sets that hold their present values."""
        bound = []
        for synapse, node in _synapses(self.graph):
            source = shapes[node]
            layer = net.get_submodule(synapse.layer)
            norm = None if synapse.norm is None else net.get_submodule(synapse.norm)
            parameters = parameters_of(layer, norm)
            for parameter in parameters:
                if parameter is not None:
                    self._require_fit(f"a parameter of layer {synapse.layer!r} or its norm", parameter)
            connections = self._connections.get(backend, synapse, layer, source.height, source.width)
            bound.append(BoundSynapse(synapse, layer, norm, connections, parameters))
        return bound

    def _masks(self, net: nn.Module, shapes: tuple[MapShape, ...], samples: int) -> dict[int, Tensor]:
        """Draw the masks of all dropouts that drop, in the order of the graph."""
        masks = {}
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node, Dropout):
                dropout, shape = net.get_submodule(node.path), shapes[index]
                framework = framework_of(dropout)
                assert framework is not None
                like = torch.empty(samples, shape.channels, shape.height, shape.width, dtype=self.dtype)
                mask = framework.dropout_mask(dropout, like.flatten(1) if node.flat else like)
                if mask is not None:
                    masks[index] = mask.view(like.shape)
        return masks

    def _require_fit(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype != self.dtype or tensor.device.type != "cpu":
            raise ConfigError(
                f"{name} is {tensor.dtype} on {tensor.device}; "
                f"this network was accelerated for {self.dtype} on the CPU"
            )

    def _program(
        self,
        x: Tensor,
        shapes: tuple[MapShape, ...],
        bound: list[BoundSynapse],
        backend: Backend,
        differentiated: bool,
        extra: tuple[frozenset[int], frozenset[int]],
    ) -> Program:
        """Return the program for this input and these wishes, from those that are kept or a new one."""
        stored = [
            self.memory == "store" or (self.memory == "auto" and backend.prefers_stored(b.connections))
            for b in bound
        ]
        demand = _demand(x, bound, backend, differentiated, stored, extra)
        key = (tuple(x.shape), demand)
        program = self._programs.get(key)
        if program is None:
            program = make_program(self.graph, shapes, demand, backend.nbytes)
            if self.memory == "auto" and any(stored) and not _fits(program):
                demand = _demand(x, bound, backend, differentiated, [False] * len(bound), extra)
                program = make_program(self.graph, shapes, demand, backend.nbytes)
            self._programs[key] = program
            if len(self._programs) > KEPT_PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return program


class _Network(torch.autograd.Function):
    """The whole network; its parameters are arguments so that autograd knows of them."""

    @staticmethod
    def forward(ctx: Any, one_pass: Pass, lease: Lease, x: Tensor, *parameters: Tensor | None) -> Tensor:
        # Lets autograd say so when a parameter is changed before the backward pass, or this is gone through twice.
        ctx.save_for_backward(*parameters)
        ctx.one_pass, ctx.lease = one_pass, lease
        return one_pass.forward()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        # torch's once_differentiable would take the gradients for constants where ∂L/∂logits is one.
        if torch.is_grad_enabled():
            raise RuntimeError("the engine has no second derivatives; leave create_graph=True out")
        _ = ctx.saved_tensors
        one_pass: Pass | None = ctx.one_pass
        if one_pass is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time: the engine gives a pass's memory back after "
                "its backward pass, whatever retain_graph says. Call the network again for another one."
            )
        ctx.one_pass = None
        of_input = one_pass.backward(gradient)
        ctx.lease.release()
        return None, None, of_input if ctx.needs_input_grad[2] else None, *one_pass.parameter_gradients()


def _synapses(graph: Graph) -> list[tuple[Synapse, int]]:
    """Return all synapses in the order of the graph, each with the node that it reads."""
    terms: list[Term] = []
    for node in graph.nodes:
        terms += node.terms if isinstance(node, Neuron) else [node.term] if isinstance(node, Readout) else []
    return [(term.synapse, term.node) for term in terms if term.synapse is not None]


def _demand(
    x: Tensor,
    bound: list[BoundSynapse],
    backend: Backend,
    differentiated: bool,
    stored: list[bool],
    extra: tuple[frozenset[int], frozenset[int]],
) -> Demand:
    synapses = tuple(
        SynapseDemand(
            trains_weight=differentiated and one.parameters.weight.requires_grad,
            trains=differentiated and one.parameters.wanted(),
            batch_statistics=one.batch_statistics,
            stored=keep,
            in_place=backend.writes_in_place(one.connections),
        )
        for one, keep in zip(bound, stored, strict=True)
    )
    return Demand(synapses, differentiated and x.requires_grad, *extra)


def _fits(program: Program) -> bool:
    """Say whether a program's arena takes at most half of the memory that is free, as far as can be told."""
    available = available_memory()
    return available is None or program.nbytes <= available // 2
