"""The native kernels layer by layer: time, multiply-adds per second, and share of the machine's limits.

Every kernel runs alone, on random inputs as busy as those that the layer sees in the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ndsnn.engine.graph import Flatten, Graph, MaxPool, Neuron, Node, Readout, Source, Synapse, Term
from ndsnn.engine.module import Accelerated
from ndsnn.engine.ops import Affine, InputTerm, MapShape, Role
from ndsnn.engine.shapes import current_shape, infer_shapes, integrated_shape
from ndsnn.evaluation.bench.limits import Limits
from ndsnn.evaluation.bench.maps import RandomMaps
from ndsnn.evaluation.bench.nets import CHANNELS, Activity, Workload
from ndsnn.evaluation.bench.timing import median_seconds
from ndsnn.evaluation.bench.traffic import VALUE_BYTES, Traffic, synapse_macs, weight_bytes
from ndsnn.sparse.compressed import CompressedModule

NORM_EPS = 1e-5
"""Added to the variance of a current."""

_FIGURES = ("ms", "share", "limit")
NO_NEURONS: dict[str, Any] = dict.fromkeys(
    ("neuron", *(f"neuron_{way}_{figure}" for way in ("forward", "backward") for figure in _FIGURES))
)
"""What the row of a layer says that has no neurons behind it, or has them in the row of another layer."""


@dataclass(frozen=True)
class Feed:
    """A conv or linear layer and its input.

    Args:
        synapse: As in the graph.
        layer: The module.
        node: Index of the node that it reads.
        shape: Of what it reads.
        grad_source: Floats that receive the gradient of the input; None for images, of which none is wanted.
        current: What the back end makes of weights and input; it is stored.
    """

    synapse: Synapse
    layer: CompressedModule
    node: int
    shape: MapShape
    grad_source: Any | None
    current: Any

    @property
    def out_shape(self) -> MapShape:
        """Shape of the current."""
        return current_shape(self.synapse, self.shape)


class LayerBench:
    """Times the kernels of a network's layers.

    Args:
        net: The network on the native engine.
        workload: What it runs.
        activity: What was seen in it.
        limits: Of the machine.
        rounds: How often each kernel is timed, for the median.
        precision: As in `accelerate`.
    """

    def __init__(
        self, net: Accelerated, workload: Workload, activity: Activity, limits: Limits, rounds: int, precision: str
    ) -> None:
        self.net, self.samples, self.limits, self.rounds = net, workload.batch, limits, rounds
        self.graph: Graph = net.graph
        size = workload.image_size
        self.shapes = infer_shapes(self.graph, workload.time_steps, CHANNELS, size, size, events=False)
        self.maps = RandomMaps(workload.time_steps, workload.batch, precision, workload.seed)
        self.backend = self.maps.backend
        self.mean_rate = activity.firing_rate
        self.rates = {
            term.node: activity.input_rates[term.synapse.layer]
            for node in self.graph.nodes
            for term in _terms(node)
            if term.synapse is not None
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every conv and linear layer; neurons stand in that of the first layer they read."""
        found: list[dict[str, Any]] = []
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node, Neuron):
                found += self._neuron_rows(index, node)
            elif isinstance(node, Readout):
                feed = self._feed(node.term)
                grad_x = self.maps.floats(feed.out_shape, role=Role.GRADIENT)
                found.append(self._forward(feed) | self._backward(feed, grad_x, None) | NO_NEURONS)
        return found

    def _neuron_rows(self, index: int, node: Neuron) -> list[dict[str, Any]]:
        feeds = [None if term.synapse is None else self._feed(term) for term in node.terms]
        rows = [self._forward(feed) for feed in feeds if feed is not None]
        summands = [
            InputTerm(self._value(term.node), None) if feed is None else InputTerm(feed.current, self._norm(feed))
            for term, feed in zip(node.terms, feeds, strict=True)
        ]
        grad_x = self.maps.empty(integrated_shape(node, self.shapes), Role.GRADIENT)
        neurons = self._neurons(index, node, summands, grad_x)
        passed = [(feed, one.affine) for feed, one in zip(feeds, summands, strict=True) if feed is not None]
        for row, (feed, norm) in zip(rows, passed, strict=True):
            row |= self._backward(feed, grad_x, norm) | neurons
            neurons = NO_NEURONS
        return rows

    def _feed(self, term: Term) -> Feed:
        """Return a layer with a random input, and with room for its current and the gradient of its input."""
        synapse, shape = term.synapse, self.shapes[term.node]
        assert synapse is not None
        layer = self.net.get_submodule(synapse.layer)
        assert isinstance(layer, CompressedModule)
        positions = None if layer.positions is None else layer.positions.long()
        connections = self.backend.connections(synapse, shape.height, shape.width, positions)
        self.backend.set_values(connections, layer.weight)
        stored = self.maps.empty(current_shape(synapse, shape), self._current_role(term.node))
        current = self.backend.current(connections, self._value(term.node), stored)
        is_image = isinstance(self.graph.nodes[term.node], Source)
        grad_source = None if is_image else self.maps.empty(shape, Role.GRADIENT)
        return Feed(synapse, layer, term.node, shape, grad_source, current)

    def _value(self, node: int) -> Any:
        """Return a map such as node `node` hands on, as busy as it was seen to be."""
        rate = self.rates.get(node, self.mean_rate)
        make = self.maps.spikes if self._fires(node) else self.maps.floats
        return make(self.shapes[node], rate)

    def _fires(self, index: int) -> bool:
        """Say whether a node hands on spikes."""
        node = self.graph.nodes[index]
        return self._fires(node.node) if isinstance(node, Flatten) else isinstance(node, Neuron | MaxPool)

    def _current_role(self, node: int) -> Role:
        """Return how the current of what a node hands on is kept."""
        return Role.CURRENT if self._fires(node) else Role.VALUES

    def _norm(self, feed: Feed) -> Affine:
        """Return the map that gives a stored current mean 0 and variance 1 in every channel."""
        shape = feed.out_shape
        values = shape.steps * self.samples * shape.height * shape.width
        total, squares = self.backend.statistics(feed.current)
        mean = total / values
        scale = (squares / values - mean.square()).clamp(min=0).add(NORM_EPS).rsqrt()
        return Affine(scale, -scale * mean)

    def _forward(self, feed: Feed) -> dict[str, Any]:
        """Describe a layer, and time the kernel that computes its current, stores it and takes its statistics."""
        layer = feed.layer
        macs = synapse_macs(feed.synapse, layer.positions, feed.shape, self.samples)
        read = self._source_bytes(feed) + weight_bytes(layer.nnz, layer.positions)
        return {
            "name": feed.synapse.layer,
            "shape": list(layer.dense_shape),
            "weights": layer.size,
            "alive": layer.nnz,
            "density": layer.nnz / layer.size,
            "input_rate": self.rates[feed.node],
        } | self._kernel(
            "forward",
            lambda: self.backend.statistics(feed.current),
            Traffic(macs, read, self.maps.nbytes(feed.out_shape, self._current_role(feed.node))),
        )

    def _backward(self, feed: Feed, grad_x: Any, norm: Affine | None) -> dict[str, Any]:
        """Time the kernel that goes back to the weights and, but for images, to the input."""
        layer, channels = feed.layer, feed.synapse.out_channels
        products = 1 if feed.grad_source is None else 2
        macs = products * synapse_macs(feed.synapse, layer.positions, feed.shape, self.samples)
        maps_read = self.maps.nbytes(feed.out_shape, Role.GRADIENT)
        if norm is not None:  # then the current is read too
            maps_read += self.maps.nbytes(feed.out_shape, self._current_role(feed.node))
        read = self._source_bytes(feed) + maps_read + weight_bytes(layer.nnz, layer.positions)
        written = layer.nnz * VALUE_BYTES + (products - 1) * self.maps.nbytes(feed.shape, Role.GRADIENT)
        zero = torch.zeros(channels, dtype=torch.float64)
        affine = (zero + 1, zero, zero) if norm is None else (norm.scale, norm.scale / 100, norm.scale / 100)
        return self._kernel(
            "backward",
            lambda: self.backend.synapse_backward(feed.current, grad_x, affine, feed.grad_source, False, None),
            Traffic(macs, read, written),
        )

    def _neurons(self, index: int, node: Neuron, summands: list[InputTerm], grad_x: Any) -> dict[str, Any]:
        """Time neurons both ways; this fills `grad_x`."""
        fired, integrated = self.shapes[index], integrated_shape(node, self.shapes)
        out, grad_out = self.maps.empty(fired, Role.SPIKES), self.maps.floats(fired, role=Role.GRADIENT)
        read = sum(
            self.maps.nbytes(
                integrated, self._role(term.node) if term.synapse is None else self._current_role(term.node)
            )
            for term in node.terms
        )
        forward = Traffic(0, read, self.maps.nbytes(fired, Role.SPIKES))
        read_back = read + self.maps.nbytes(fired, Role.GRADIENT)
        backward = Traffic(0, read_back, self.maps.nbytes(integrated, Role.GRADIENT))
        how = node.parameters, node.pool
        return (
            {"neuron": node.path}
            | self._kernel("neuron_forward", lambda: self.backend.neuron_forward(summands, *how, out), forward)
            | self._kernel(
                "neuron_backward", lambda: self.backend.neuron_backward(summands, *how, grad_out, grad_x), backward
            )
        )

    def _source_bytes(self, feed: Feed) -> int:
        return self.maps.nbytes(feed.shape, self._role(feed.node))

    def _role(self, node: int) -> Role:
        return Role.SPIKES if self._fires(node) else Role.VALUES

    def _kernel(self, name: str, run: Callable[[], object], traffic: Traffic) -> dict[str, Any]:
        """Time a kernel; return its milliseconds, 10⁹ multiply-adds per second, and share of what limits it."""
        seconds = median_seconds(run, self.rounds)
        least, limit = self.limits.least_seconds(traffic.macs, traffic.read, traffic.written)
        figures = {f"{name}_ms": seconds * 1e3, f"{name}_share": least / seconds, f"{name}_limit": limit}
        return figures | ({f"{name}_gmacs": traffic.macs / seconds / 1e9} if traffic.macs else {})


def _terms(node: Node) -> tuple[Term, ...]:
    return node.terms if isinstance(node, Neuron) else (node.term,) if isinstance(node, Readout) else ()
