"""The plan of a lowered network: a list of nodes in execution order, each named after the module it came from.

A value is what a node hands on: spikes (zeros and ones, held as bits) or floats (everything else), always a map
[S, N, C, H, W] with S = T steps, or S = 1 where the value is the same at every step (an image before its first
neuron). A linear layer is a 1×1 convolution of a 1×1 map; flattening relabels [C, H, W] as [C·H·W, 1, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ndsnn.neurons import LIFParameters


@dataclass(frozen=True)
class Synapse:
    """The connections of one conv or linear layer, with the norm behind them if there is one.

    Args:
        layer: Path of the conv or linear module.
        out_channels: Channels of the current.
        in_channels: Channels of the input (features of a linear layer).
        kernel: Height and width of the kernel; (1, 1) for a linear layer.
        stride: One stride for both axes.
        padding: Zeros above/below and left/right.
        norm: Path of the batch norm behind it, or None.
    """

    layer: str
    out_channels: int
    in_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    norm: str | None = None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the current for an input of that size."""
        return tuple(  # type: ignore[return-value]
            (n + 2 * p - k) // self.stride + 1
            for n, p, k in zip((height, width), self.padding, self.kernel, strict=True)
        )


@dataclass(frozen=True)
class Source:
    """The input of the network: analog floats [1, N, C, H, W] of images or [T, N, C, H, W] of events.

    Args:
        pad_to: Zero-pad the map centrally to this height and width where it is smaller (LeNet-5), 0 for none.
        repeated: Whether an image is repeated over time at once, so that its map has S = T like that of events.
        features: Whether the input is features, [N, F] or [T, N, F], rather than maps.
    """

    pad_to: int = 0
    repeated: bool = False
    features: bool = False


@dataclass(frozen=True)
class Term:
    """One summand of a neuron's input current.

    Args:
        node: Index of the node whose value comes in.
        synapse: What it passes through (conv or linear, with norm and bias), or None where it is added as it is.
    """

    node: int
    synapse: Synapse | None


@dataclass(frozen=True)
class Neuron:
    """LIF neurons that integrate a sum of terms, with the max-pool of their spikes if that is all that reads them.

    Args:
        path: Path of the LIF module.
        parameters: The neuron.
        terms: What is summed; a term of S = 1 must be the only one and is the same at every step.
        pool: Side of the max-pool window behind it (its stride too); 1 for none.
        pool_path: Path of that max-pool's module, or None.
        whole_windows: As in `MaxPool`.
        learned: Whether τ is a parameter of the module, so that `parameters` has the one of when it was lowered.
    """

    path: str
    parameters: LIFParameters
    terms: tuple[Term, ...]
    pool: int = 1
    pool_path: str | None = None
    whole_windows: bool = False
    learned: bool = False


@dataclass(frozen=True)
class MaxPool:
    """Max-pool (the OR of bits) of spikes over windows side by side, for spikes that others read unpooled.

    Args:
        path: Path of the module.
        node: Index of the node that fires.
        side: Window and stride; an axis shorter than it is one window.
        whole_windows: Whether such an axis is an error instead, as it is to torch's own module.
    """

    path: str
    node: int
    side: int
    whole_windows: bool = False


@dataclass(frozen=True)
class AvgPool:
    """Average pool to floats.

    Args:
        path: Path of the module.
        node: Index of the input node.
        output: Height and width of an adaptive pool, or None.
        side: Window and stride of a plain one (a rest that fills no window is left out), or 0.
    """

    path: str
    node: int
    output: tuple[int, int] | None = None
    side: int = 0


@dataclass(frozen=True)
class Sum:
    """A sum of values to floats, for a sum that others read than neurons (a spike-element-wise residual).

    Args:
        path: Path of the module whose forward adds.
        terms: Indices of the nodes that are added; their maps have one shape.
    """

    path: str
    terms: tuple[int, ...]


@dataclass(frozen=True)
class Dropout:
    """Multiply every step by one mask [N, C, H, W], to floats; where nothing is dropped, hand the value on.

    Args:
        path: Path of the module, which makes the mask.
        node: Index of the input node.
        flat: Whether the module sees features [N, F].
    """

    path: str
    node: int
    flat: bool = False


@dataclass(frozen=True)
class Flatten:
    """[C, H, W] → [C·H·W, 1, 1].

    Args:
        path: Path of the module, or of the one that calls `torch.flatten`.
        node: Index of the input node.
    """

    path: str
    node: int


@dataclass(frozen=True)
class Readout:
    """The last layer: logits [T, N, classes] with no neuron behind (a map [T, N, classes, H, W] from a conv).

    Args:
        term: Its synapse (without norm) and what it reads.
    """

    term: Term


Node = Source | Neuron | MaxPool | AvgPool | Sum | Dropout | Flatten | Readout


@dataclass(frozen=True)
class Graph:
    """A lowered network.

    Args:
        nodes: In execution order: `Source` first, `Readout` last; a node reads only nodes before it.
        time_steps: T of the module that repeats an image over time, or None without one (event input only).
    """

    nodes: tuple[Node, ...]
    time_steps: int | None

    def inputs(self, index: int) -> tuple[int, ...]:
        """Return the indices of the nodes that node `index` reads, one for each use."""
        node = self.nodes[index]
        if isinstance(node, Source):
            return ()
        if isinstance(node, Neuron):
            return tuple(term.node for term in node.terms)
        if isinstance(node, Readout):
            return (node.term.node,)
        return node.terms if isinstance(node, Sum) else (node.node,)

    def synapses(self) -> tuple[Synapse, ...]:
        """Return all synapses in execution order."""
        found: list[Synapse] = []
        for node in self.nodes:
            terms = node.terms if isinstance(node, Neuron) else (node.term,) if isinstance(node, Readout) else ()
            found += [term.synapse for term in terms if term.synapse is not None]
        return tuple(found)


def fuse_pools(graph: Graph) -> Graph:
    """Merge each max-pool directly behind a neuron whose spikes nobody else reads into that `Neuron`."""
    readers = Counter(read for index in range(len(graph.nodes)) for read in graph.inputs(index))
    fused: list[Node] = []
    # Index in `fused` of what used to be node i.
    place: list[int] = []
    for node in graph.nodes:
        if isinstance(node, MaxPool) and readers[node.node] == 1:
            neuron = fused[place[node.node]]
            if isinstance(neuron, Neuron) and neuron.pool == 1:
                place.append(place[node.node])
                fused[place[-1]] = replace(
                    neuron, pool=node.side, pool_path=node.path, whole_windows=node.whole_windows
                )
                continue
        place.append(len(fused))
        fused.append(_moved(node, place))
    return Graph(tuple(fused), graph.time_steps)


def _moved(node: Node, place: Sequence[int]) -> Node:
    """Return `node` reading node place[i] wherever it read node i."""
    if isinstance(node, Source):
        return node
    if isinstance(node, Neuron):
        return replace(node, terms=tuple(replace(term, node=place[term.node]) for term in node.terms))
    if isinstance(node, Readout):
        return Readout(replace(node.term, node=place[node.term.node]))
    if isinstance(node, Sum):
        return replace(node, terms=tuple(place[term] for term in node.terms))
    return replace(node, node=place[node.node])
