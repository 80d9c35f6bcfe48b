"""What a deployable network is: nodes in execution order, weights as numpy arrays, shapes known.

`ndsnn.interop.export.folding` makes it; the export formats read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ndsnn.engine.ops import MapShape
from ndsnn.neurons import LIFParameters

Floats = NDArray[np.float32]
Windows = tuple[tuple[int, int], ...]
"""Of one axis of a pool: [start, stop) of each output's window."""


@dataclass(frozen=True)
class FoldedSynapse:
    """The connections of one conv or linear layer with its norm folded in; cross-correlation, as torch's.

    Args:
        layer: Path of the conv or linear module.
        kind: "conv" or "linear".
        shape: Of the weight: (C_out, C_in, k_h, k_w), or (C_out, C_in) of a linear layer.
        values: The weights that are not 0, in ascending order of their flat positions [nnz].
        positions: The flat positions in a weight of `shape`, C order [nnz].
        bias: What is added to each output channel [C_out]; zeros where there is nothing.
        stride: One stride for both axes.
        padding: Zeros above and below, left and right.
        norm: Path of the norm that was folded in, or None.
        alive: Connections that the mask counts, those of weight 0 included.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    values: Floats = field(repr=False)
    positions: NDArray[np.int64] = field(repr=False)
    bias: Floats = field(repr=False)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    norm: str | None = None
    alive: int = 0

    @property
    def nnz(self) -> int:
        """Number of weights that are not 0."""
        return len(self.values)

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel; (1, 1) for a linear layer."""
        return (self.shape[2], self.shape[3]) if self.kind == "conv" else (1, 1)

    @property
    def has_bias(self) -> bool:
        """Whether any entry of the bias is not 0."""
        return bool(self.bias.any())

    def dense(self) -> Floats:
        """Return the weight of `shape` with +0.0 where there is no connection."""
        weight = np.zeros(self.shape, np.float32)
        weight.reshape(-1)[self.positions] = self.values
        return weight

    def scaled(self, factor: float) -> FoldedSynapse:
        """Return the same connections with weights and bias times `factor`."""
        values = (self.values.astype(np.float64) * factor).astype(np.float32)
        alive = values != 0
        bias = (self.bias.astype(np.float64) * factor).astype(np.float32) + np.float32(0)
        return replace(self, values=values[alive], positions=self.positions[alive], bias=bias)


@dataclass(frozen=True)
class FoldedTerm:
    """One summand of an input current.

    Args:
        node: Index of the node whose value comes in.
        synapse: What it passes through, or None where it is added as it is.
        gain: Factor on a value that is added as it is; 1 unless `with_unit_gain` made it 1/τ.
    """

    node: int
    synapse: FoldedSynapse | None
    gain: float = 1.0


@dataclass(frozen=True)
class InputNode:
    """The input of the network, always node 0.

    Args:
        given: Shape (C, H, W) of what the user passes.
        pad: Zeros above, below, left and right, which bring it to `shape`.
        shape: Shape of the value; `steps` is 1 where an image reaches the first neuron's current as it is.
        features: Whether the user passes features [N, F], with C = F and H = W = 1, not maps [N, C, H, W].
    """

    given: tuple[int, int, int]
    pad: tuple[int, int, int, int]
    shape: MapShape
    path: str = ""
    features: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of one sample as the user passes it: (C, H, W) or (F,)."""
        return self.given[:1] if self.features else self.given


@dataclass(frozen=True)
class NeuronNode:
    """LIF neurons that integrate the sum of their terms, step by step, from v = v_reset (hard) or 0 (soft).

    h = leak·v + gain·Σ terms + v_reset/τ;  o = u(h − ϑ);  v = (1 − o)·h + o·v_reset (hard) or h − r·o (soft, with
    r the neuron's `soft_reset`). The mathematics of `ndsnn.lif`, which rounds in another order.

    Args:
        path: Path of the LIF module.
        parameters: τ, ϑ, v_reset, decay_input.
        terms: What is summed. A term whose source has `shape.steps` 1 is the only one, and the same at every step.
        shape: Shape of the spikes.
    """

    path: str
    parameters: LIFParameters
    terms: tuple[FoldedTerm, ...]
    shape: MapShape

    @property
    def leak(self) -> float:
        """1 − 1/τ."""
        return 1 - 1 / self.parameters.tau

    @property
    def gain(self) -> float:
        """1/τ with decay_input, else 1."""
        return 1 / self.parameters.tau if self.parameters.decay_input else 1.0

    @property
    def initial(self) -> float:
        """Potential before the first step."""
        return self.parameters.v_reset or 0.0


@dataclass(frozen=True)
class MaxPoolNode:
    """Max-pool of spikes: an output fires where any spike of its window does.

    Args:
        path: Path of the pool.
        node: Index of the input node, which is a neuron or another max-pool.
        window: Height and width of a window, cut to the map where that is smaller.
        stride: Distance of the windows, both axes.
        shape: Shape of the output.
    """

    path: str
    node: int
    window: tuple[int, int]
    stride: int
    shape: MapShape


@dataclass(frozen=True)
class AvgPoolNode:
    """Average pool: the mean over rows × columns of each window.

    Args:
        path: Path of the pool.
        node: Index of the input node.
        rows: Windows of the output's rows.
        columns: Windows of the output's columns.
        shape: Shape of the output.
    """

    path: str
    node: int
    rows: Windows
    columns: Windows
    shape: MapShape

    @property
    def uniform(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """((k_h, k_w), (s_h, s_w)) if all windows have one size and one distance, from 0 on; else None."""
        sides = [_uniform(windows) for windows in (self.rows, self.columns)]
        if None in sides:
            return None
        (k_h, s_h), (k_w, s_w) = sides  # type: ignore[misc]
        return (k_h, k_w), (s_h, s_w)

    @property
    def is_identity(self) -> bool:
        """Whether every window is one place, in order."""
        return self.uniform == ((1, 1), (1, 1))


@dataclass(frozen=True)
class SumNode:
    """A sum of values that others read than neurons.

    Args:
        path: Path of the module whose forward adds.
        terms: Indices of the nodes that are added.
        shape: Shape of each and of the sum.
    """

    path: str
    terms: tuple[int, ...]
    shape: MapShape


@dataclass(frozen=True)
class FlattenNode:
    """[C, H, W] → [C·H·W, 1, 1] in C order.

    Args:
        path: Path of the module.
        node: Index of the input node.
        shape: Shape of the output.
    """

    path: str
    node: int
    shape: MapShape


@dataclass(frozen=True)
class ReadoutNode:
    """The logits of each step, always the last node; prediction is the argmax of their mean over the steps.

    Args:
        path: Path of the conv or linear module.
        term: Its synapse and what it reads.
        shape: (T, classes, 1, 1) of a linear layer; of a conv a map.
    """

    path: str
    term: FoldedTerm
    shape: MapShape


FoldedNode = InputNode | NeuronNode | MaxPoolNode | AvgPoolNode | SumNode | FlattenNode | ReadoutNode


@dataclass(frozen=True)
class FoldedNetwork:
    """A deployable network.

    Args:
        nodes: In execution order; a node reads only nodes before it.
        time_steps: T.
        events: Whether the input is [T, N, C, H, W]; else an image [N, C, H, W], shown at every step.
    """

    nodes: tuple[FoldedNode, ...]
    time_steps: int
    events: bool = False

    @property
    def input(self) -> InputNode:
        """The first node."""
        node = self.nodes[0]
        assert isinstance(node, InputNode)
        return node

    @property
    def readout(self) -> ReadoutNode:
        """The last node."""
        node = self.nodes[-1]
        assert isinstance(node, ReadoutNode)
        return node

    def inputs(self, index: int) -> tuple[int, ...]:
        """Return the indices of the nodes that node `index` reads, one for each use."""
        node = self.nodes[index]
        if isinstance(node, InputNode):
            return ()
        if isinstance(node, NeuronNode):
            return tuple(term.node for term in node.terms)
        if isinstance(node, SumNode):
            return node.terms
        return (node.term.node if isinstance(node, ReadoutNode) else node.node,)

    def synapses(self) -> tuple[FoldedSynapse, ...]:
        """Return all synapses in execution order."""
        return tuple(term.synapse for node in self.nodes for term in terms_of(node) if term.synapse is not None)


def terms_of(node: FoldedNode) -> tuple[FoldedTerm, ...]:
    """Return the summands of a neuron or readout; of another node none."""
    return node.terms if isinstance(node, NeuronNode) else (node.term,) if isinstance(node, ReadoutNode) else ()


def _uniform(windows: Windows) -> tuple[int, int] | None:
    sizes = {stop - start for start, stop in windows}
    starts = [start for start, _ in windows]
    size = min(sizes)
    stride = starts[1] - starts[0] if len(starts) > 1 else size
    even = len(sizes) == 1 and starts == [index * stride for index in range(len(starts))]
    return (size, stride) if even else None
