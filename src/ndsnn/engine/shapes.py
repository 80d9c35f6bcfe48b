"""Shapes of all values and currents of a lowered network for a given input."""

from __future__ import annotations

from collections.abc import Sequence

from ndsnn.engine.graph import (
    AvgPool,
    Dropout,
    Flatten,
    Graph,
    MaxPool,
    Neuron,
    Node,
    Readout,
    Source,
    Sum,
    Synapse,
    Term,
)
from ndsnn.engine.ops import MapShape
from ndsnn.errors import ShapeError


def infer_shapes(
    graph: Graph, steps: int, channels: int, height: int, width: int, events: bool
) -> tuple[MapShape, ...]:
    """Return the shape of each node's value.

    Args:
        graph: The plan.
        steps: T: of the events, or of what an image is repeated to.
        channels: Of the input.
        height: Of the input.
        width: Of the input.
        events: Whether the input is [T, N, C, H, W]; otherwise an image [N, C, H, W].

    Raises:
        ShapeError: The input has other channels or steps than the network is made for, a map vanishes, a layer
            gets other features, or maps of different shape are added.
    """
    if min(steps, channels, height, width) < 1:
        raise ShapeError(
            f"steps, channels, height and width must be at least 1, got {(steps, channels, height, width)}"
        )
    if graph.time_steps is None and not events:
        raise ShapeError(
            "the network has no RepeatOverTime, so it expects events [T, N, C, H, W]; got an image [N, C, H, W]"
        )
    if graph.time_steps not in (None, steps):
        raise ShapeError(
            f"the network was built with time_steps={graph.time_steps}, but the input has {steps} steps"
        )
    shapes: list[MapShape] = []
    for node in graph.nodes:
        if isinstance(node, Source):
            at_once = not events and not node.repeated
            size = max(height, node.pad_to), max(width, node.pad_to)
            shapes.append(MapShape(1 if at_once else steps, channels, *size))
        else:
            shapes.append(_output(node, shapes, steps))
    return tuple(shapes)


def current_shape(synapse: Synapse, source: MapShape) -> MapShape:
    """Return the shape of the current that a map of shape `source` causes through `synapse`.

    Raises:
        ShapeError: The map has other channels, or is smaller than the kernel.
    """
    if source.channels != synapse.in_channels:
        raise ShapeError(
            f"layer {synapse.layer!r} expects {synapse.in_channels} channels or features, "
            f"got {source.channels} in {_text(source)}"
        )
    height, width = synapse.output_size(source.height, source.width)
    if min(height, width) < 1:
        raise ShapeError(
            f"layer {synapse.layer!r} with kernel {synapse.kernel} and padding {synapse.padding} "
            f"expects a larger map, got {_text(source)}"
        )
    return MapShape(source.steps, synapse.out_channels, height, width)


def current_shapes(graph: Graph, shapes: Sequence[MapShape]) -> dict[str, MapShape]:
    """Return the shape of each synapse's current by the path of its layer, from what `infer_shapes` returned."""
    return {
        term.synapse.layer: current_shape(term.synapse, shapes[term.node])
        for node in graph.nodes
        for term in _terms(node)
        if term.synapse is not None
    }


def integrated_shape(neuron: Neuron, shapes: Sequence[MapShape]) -> MapShape:
    """Return the shape of a neuron's summed input, which has one step where its only term has.

    Args:
        neuron: The node.
        shapes: Shapes of the nodes in front of it.

    Raises:
        ShapeError: The terms have different shapes.
    """
    summed = [_term_shape(term, shapes) for term in neuron.terms]
    for term, shape in zip(neuron.terms, summed, strict=True):
        if shape != summed[0]:
            name = repr(term.synapse.layer) if term.synapse else "one"
            raise ShapeError(
                f"layer {neuron.path!r} sums maps that must have one shape: expected {_text(summed[0])} as of the "
                f"first summand, got {_text(shape)} of {name}"
            )
    return summed[0]


def pooled_shape(path: str, source: MapShape, side: int, whole_windows: bool) -> MapShape:
    """Return the shape behind windows of `side` × `side` side by side.

    Args:
        path: Of the pool, for the message.
        source: Shape of what is pooled.
        side: Window and stride.
        whole_windows: Whether an axis shorter than the window is an error instead of one window.

    Raises:
        ShapeError: Such an axis is one.
    """
    if whole_windows and min(source.height, source.width) < side:
        raise ShapeError(f"layer {path!r} expects a map of at least {side}×{side}, got {_text(source)}")
    return MapShape(source.steps, source.channels, max(source.height // side, 1), max(source.width // side, 1))


def _output(
    node: Neuron | MaxPool | AvgPool | Sum | Dropout | Flatten | Readout, shapes: Sequence[MapShape], steps: int
) -> MapShape:
    if isinstance(node, Neuron):
        summed = integrated_shape(node, shapes)
        if summed.steps not in (1, steps):
            raise ShapeError(f"layer {node.path!r} expects {steps} steps, got {_text(summed)}")
        spikes = MapShape(steps, summed.channels, summed.height, summed.width)
        return pooled_shape(node.pool_path or node.path, spikes, node.pool, node.whole_windows)
    if isinstance(node, Readout):
        return _term_shape(node.term, shapes)
    if isinstance(node, Sum):
        return _sum_shape(node, [shapes[term] for term in node.terms])
    source = shapes[node.node]
    if isinstance(node, Dropout):
        return source
    if isinstance(node, MaxPool):
        return pooled_shape(node.path, source, node.side, node.whole_windows)
    if isinstance(node, AvgPool):
        if node.output is not None:
            return MapShape(source.steps, source.channels, *node.output)
        return pooled_shape(node.path, source, node.side, whole_windows=True)
    return MapShape(source.steps, source.channels * source.height * source.width, 1, 1)


def _sum_shape(node: Sum, shapes: Sequence[MapShape]) -> MapShape:
    for shape in shapes:
        if shape != shapes[0]:
            where = f"layer {node.path!r}" if node.path else "the network"
            raise ShapeError(
                f"{where} sums maps that must have one shape: expected {_text(shapes[0])} as of the first "
                f"summand, got {_text(shape)}"
            )
    return shapes[0]


def _terms(node: Node) -> tuple[Term, ...]:
    return node.terms if isinstance(node, Neuron) else (node.term,) if isinstance(node, Readout) else ()


def _term_shape(term: Term, shapes: Sequence[MapShape]) -> MapShape:
    source = shapes[term.node]
    return source if term.synapse is None else current_shape(term.synapse, source)


def _text(shape: MapShape) -> str:
    return f"a map of {shape.channels} channels, {shape.height}×{shape.width}, {shape.steps} steps"
