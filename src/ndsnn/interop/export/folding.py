"""From a trained network to a deployable one: norms folded, zeros left out, shapes known.

`fold` walks the engine's plan of a network as it computes in evaluation mode. With y = W∗s + b the current of a
layer, and a norm of gain g (γ, or γ·α·ϑ of a threshold-dependent one), shift β, running mean m and variance v,

    x = g·(y − m)/√(v + eps) + β = W'∗s + b',    W' = k·W,    b' = β + k·(b − m),    k = g/√(v + eps)

computed in float64 and rounded to float32 once. The neurons keep their equations (`ndsnn.lif`); `with_unit_gain`
moves the 1/τ of decay_input into the weights, for targets whose neurons add their input undivided.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ndsnn.engine import graph as plan
from ndsnn.engine.lowering import lower
from ndsnn.engine.lowering.leaves import leaf_class
from ndsnn.engine.module import Accelerated
from ndsnn.engine.norms import PlainSynapse, normed_by_constants
from ndsnn.engine.ops import MapShape
from ndsnn.engine.shapes import infer_shapes
from ndsnn.errors import ExportError
from ndsnn.interop.export.network import (
    AvgPoolNode,
    FlattenNode,
    FoldedNetwork,
    FoldedNode,
    FoldedSynapse,
    FoldedTerm,
    InputNode,
    MaxPoolNode,
    NeuronNode,
    ReadoutNode,
    SumNode,
    Windows,
)
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.topology import alive_count, weight_of


def fold(
    net: nn.Module, shape: tuple[int, int, int], time_steps: int | None = None, events: bool = False
) -> FoldedNetwork:
    """Make the deployable form of a network, as it computes in evaluation mode; `net` stays as it is.

    Args:
        net: A network that the engine can lower: masked, compressed, accelerated or dense.
        shape: (C, H, W) of its input; (F, 1, 1) where it takes features.
        time_steps: T; None takes that of the network's RepeatOverTime.
        events: Whether the input is [T, N, C, H, W] instead of an image.

    Raises:
        UnsupportedLayerError: A layer, or its place, has no lowering.
        ShapeError: The network takes no input of that shape or number of steps.
        ExportError: T is not known, a norm has no running statistics, or a parameter is not finite.
    """
    if isinstance(net, Accelerated):
        net = net.decompressed()
    graph = lower(net)
    steps = graph.time_steps if time_steps is None else time_steps
    if steps is None:
        raise ExportError("the network does not say how many time steps it takes; give time_steps")
    shapes = infer_shapes(graph, steps, *shape, events)
    return FoldedNetwork(_Folding(net, graph, shape, shapes, steps).run(), steps, events)


def with_unit_gain(network: FoldedNetwork) -> FoldedNetwork:
    """Move the 1/τ of decay_input into weights, biases and added values: all neurons get decay_input=False."""
    return replace(network, nodes=tuple(_unit_gain(node) for node in network.nodes))


def fold_synapse(layer: nn.Module, norm: nn.Module | None, synapse: plan.Synapse) -> FoldedSynapse:
    """Fold a norm, if there is one, into the layer in front of it.

    Args:
        layer: The conv or linear module, compressed or not.
        norm: The batch norm behind it.
        synapse: What the plan says of both.

    Raises:
        ExportError: The norm has no running statistics, or a parameter is not finite.
    """
    if norm is not None and norm.running_mean is None:
        raise ExportError(
            f"layer {synapse.norm!r} has no running statistics, so its outputs depend on the batch; "
            "it cannot be folded (build it with track_running_stats=True)"
        )
    bias: Any = layer.bias
    affine = (
        PlainSynapse.of(synapse.out_channels, bias) if norm is None else normed_by_constants(norm, bias)
    ).affine
    weight: Any = (
        layer.scatter(layer.weight.detach()) if isinstance(layer, CompressedModule) else weight_of(layer).detach()
    )
    dense = weight.cpu().double().numpy()
    folded = (dense.reshape(len(dense), -1) * affine.scale.numpy()[:, None]).astype(np.float32)
    # Adding +0.0 makes −0.0 of it +0.0.
    shift = affine.shift.numpy().astype(np.float32) + np.float32(0)
    if not (np.isfinite(folded).all() and np.isfinite(shift).all()):
        raise ExportError(f"layer {synapse.layer!r} with its norm has weights or biases that are not finite")
    flat = folded.reshape(-1)
    positions = np.flatnonzero(flat)
    return FoldedSynapse(
        synapse.layer,
        "linear" if leaf_class(layer) is nn.Linear else "conv",
        tuple(dense.shape),
        flat[positions],
        positions.astype(np.int64),
        shift,
        synapse.stride,
        synapse.padding,
        synapse.norm,
        alive_count(layer),
    )


class _Folding:
    """One pass over a plan.

    Args:
        net: The network.
        graph: Its plan.
        given: (C, H, W) of the input.
        shapes: Of the plan's values.
        steps: T.
    """

    def __init__(
        self,
        net: nn.Module,
        graph: plan.Graph,
        given: tuple[int, int, int],
        shapes: tuple[MapShape, ...],
        steps: int,
    ) -> None:
        self.net, self.graph, self.given, self.shapes, self.steps = net, graph, given, shapes, steps
        self.nodes: list[FoldedNode] = []
        # Index in `nodes` of the value of the plan's node i, behind its max-pool.
        self.place: list[int] = []

    def run(self) -> tuple[FoldedNode, ...]:
        """Return the nodes; a max-pool that the plan has merged with its neuron is a node of its own again."""
        for node, shape in zip(self.graph.nodes, self.shapes, strict=True):
            if isinstance(node, plan.Dropout):
                # In evaluation mode it hands its input on.
                self.place.append(self.place[node.node])
                continue
            if isinstance(node, plan.Source):
                self.nodes.append(self._input(node, shape))
            elif isinstance(node, plan.Neuron):
                self._take_neuron(node)
            elif isinstance(node, plan.MaxPool):
                self._take_max_pool(node.path, self.place[node.node], node.side)
            elif isinstance(node, plan.AvgPool):
                self.nodes.append(self._avg_pool(node, shape))
            elif isinstance(node, plan.Sum):
                self.nodes.append(SumNode(node.path, tuple(self.place[term] for term in node.terms), shape))
            elif isinstance(node, plan.Flatten):
                self.nodes.append(FlattenNode(node.path, self.place[node.node], shape))
            else:
                term = self._term(node.term)
                assert term.synapse is not None
                self.nodes.append(ReadoutNode(term.synapse.layer, term, shape))
            self.place.append(len(self.nodes) - 1)
        return tuple(self.nodes)

    def _input(self, node: plan.Source, shape: MapShape) -> InputNode:
        _, height, width = self.given
        rows, columns = shape.height - height, shape.width - width
        pad = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
        return InputNode(self.given, pad, shape, features=node.features)

    def _take_neuron(self, node: plan.Neuron) -> None:
        terms = tuple(self._term(term) for term in node.terms)
        first, source = terms[0].synapse, self.nodes[terms[0].node].shape
        if first is None:
            channels, height, width = source.channels, source.height, source.width
        else:
            assert node.terms[0].synapse is not None
            channels = first.shape[0]
            height, width = node.terms[0].synapse.output_size(source.height, source.width)
        shape = MapShape(self.steps, channels, height, width)
        self.nodes.append(NeuronNode(node.path, node.parameters, terms, shape))
        if node.pool > 1:
            self._take_max_pool(node.pool_path or node.path, len(self.nodes) - 1, node.pool)

    def _take_max_pool(self, path: str, node: int, side: int) -> None:
        source = self.nodes[node].shape
        window = min(side, source.height), min(side, source.width)
        shape = MapShape(source.steps, source.channels, source.height // window[0], source.width // window[1])
        self.nodes.append(MaxPoolNode(path, node, window, side, shape))

    def _avg_pool(self, node: plan.AvgPool, shape: MapShape) -> AvgPoolNode:
        source = self.nodes[self.place[node.node]].shape
        rows, columns = (
            _plain_windows(inside, node.side) if node.output is None else _adaptive_windows(inside, outside)
            for inside, outside in ((source.height, shape.height), (source.width, shape.width))
        )
        return AvgPoolNode(node.path, self.place[node.node], rows, columns, shape)

    def _term(self, term: plan.Term) -> FoldedTerm:
        synapse = term.synapse
        if synapse is None:
            return FoldedTerm(self.place[term.node], None)
        norm = None if synapse.norm is None else self.net.get_submodule(synapse.norm)
        folded = fold_synapse(self.net.get_submodule(synapse.layer), norm, synapse)
        return FoldedTerm(self.place[term.node], folded)


def _plain_windows(inside: int, side: int) -> Windows:
    return tuple((start, start + side) for start in range(0, inside - side + 1, side))


def _adaptive_windows(inside: int, outside: int) -> Windows:
    """Window i of torch's adaptive pool: [⌊i·n/m⌋, ⌈(i + 1)·n/m⌉)."""
    return tuple((i * inside // outside, -(-(i + 1) * inside // outside)) for i in range(outside))


def _unit_gain(node: FoldedNode) -> FoldedNode:
    if not isinstance(node, NeuronNode) or not node.parameters.decay_input:
        return node
    terms = tuple(
        replace(term, gain=term.gain * node.gain)
        if term.synapse is None
        else replace(term, synapse=term.synapse.scaled(node.gain))
        for term in node.terms
    )
    return replace(node, terms=terms, parameters=replace(node.parameters, decay_input=False))
