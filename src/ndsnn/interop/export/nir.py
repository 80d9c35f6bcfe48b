"""NIR, the neuromorphic intermediate representation: a graph of neurons and connections in continuous time.

A NIR neuron is τ·dv/dt = (v_leak − v) + R·I, fires where v > v_threshold and then has v = v_reset. One step of
forward Euler of length dt is v + (dt/τ)·(v_leak − v + R·I), which is the charge of `ndsnn.lif` (τₙ in steps) with

    τ = τₙ·dt,    v_leak = v_reset,    R = 1 with decay_input, τₙ without

What NIR has no word for is refused, or with `allow_lossy` written in other words and declared in the metadata:

- soft reset becomes reset to 0, which is another neuron;
- a max-pool of spikes becomes the sum over its window and a LIF neuron that fires on one or more. In steps of dt
  by forward Euler that is the same, spike for spike, as its potential is 0 before every step.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ndsnn
from ndsnn.engine.ops import MapShape
from ndsnn.errors import ConfigError, ExportError, MissingDependencyError
from ndsnn.interop.export.files import write_export
from ndsnn.interop.export.network import (
    AvgPoolNode,
    FlattenNode,
    FoldedNetwork,
    FoldedSynapse,
    InputNode,
    MaxPoolNode,
    NeuronNode,
    ReadoutNode,
    SumNode,
)

DEFAULT_DT = 1e-4
"""Seconds of a step; the one that snnTorch and SpikingJelly take when they import."""

POOL_TAU = 2.0
"""τₙ of the neurons in place of a max-pool: a step adds half of the sum. Any above 1 would do."""

POOL_THRESHOLD = 0.25
"""Their threshold: below the ½ of one spike, above the 0 of none."""


@dataclass(frozen=True)
class NirExport:
    """A NIR graph and what it could not say.

    Args:
        graph: The `nir.NIRGraph`.
        lossy: A sentence for each layer that was written in other words.
    """

    graph: Any
    lossy: tuple[str, ...]

    def write(self, path: Path) -> int:
        """Write the graph as HDF5, whole or not at all; return the bytes.

        Raises:
            ExportError: The file cannot be written.
        """
        buffer = io.BytesIO()
        _nir().write(buffer, self.graph)
        return write_export(path, buffer.getvalue())


def to_nir(
    network: FoldedNetwork, dt: float = DEFAULT_DT, allow_lossy: bool = False, notes: dict[str, Any] | None = None
) -> NirExport:
    """Turn a deployable network into a NIR graph; an image is fed to it at every step.

    Args:
        network: What `fold` returned.
        dt: Seconds of a step.
        allow_lossy: Whether what NIR cannot say may be written in other words.
        notes: More entries for the metadata: strings, numbers, arrays.

    Raises:
        ExportError: A layer cannot be said in NIR; it is named.
        ConfigError: `dt` is not above 0.
        MissingDependencyError: The package nir is not there.
    """
    if not 0 < dt < float("inf"):
        raise ConfigError(f"dt must be a finite number of seconds above 0, got {dt}")
    return _Writer(network, dt, allow_lossy).run(notes or {})


def node_name(path: str, taken: set[str]) -> str:
    """Return a name for a node that no other has, also where an importer takes "." for "_"."""
    name = base = "".join(c if c.isalnum() or c in "._" else "_" for c in path) or "layer"
    number = 2
    while name.replace(".", "_") in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name.replace(".", "_"))
    return name


class _Writer:
    """One pass over a deployable network."""

    def __init__(self, network: FoldedNetwork, dt: float, allow_lossy: bool) -> None:
        self.nir = _nir()
        self.network, self.dt, self.allow_lossy = network, dt, allow_lossy
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.taken: set[str] = {"input", "output", "state"}
        self.lossy: list[str] = []
        # Names of the NIR nodes that add up to the value of node i of the network, and its shape as NIR has it:
        # [F] behind a flattening, else [C, H, W].
        self.names: list[tuple[str, ...]] = []
        self.shapes: list[tuple[int, ...]] = []

    def run(self, notes: dict[str, Any]) -> NirExport:
        for node in self.network.nodes:
            if isinstance(node, InputNode):
                self._name_input(node)
            elif isinstance(node, NeuronNode):
                self._take_neuron(node)
            elif isinstance(node, MaxPoolNode):
                self._take_max_pool(node)
            elif isinstance(node, AvgPoolNode):
                self._take_avg_pool(node)
            elif isinstance(node, SumNode):
                self._value(sum((self.names[term] for term in node.terms), start=()), self.shapes[node.terms[0]])
            elif isinstance(node, FlattenNode):
                # Counted from the end, so that it is the same with and without a batch in front.
                flatten = self.nir.Flatten(np.array(self.shapes[node.node]), -3, -1)
                name = self._add(node.path or "flatten", flatten, self.names[node.node])
                self._value((name,), (node.shape.channels,))
            else:
                self._take_readout(node)
        graph = self.nir.NIRGraph(self.nodes, self.edges, metadata=self._metadata(notes))
        return NirExport(graph, tuple(self.lossy))

    def _metadata(self, notes: dict[str, Any]) -> dict[str, Any]:
        said = {
            "generator": f"ndsnn {ndsnn.__version__}",
            "dt": self.dt,
            "time_steps": self.network.time_steps,
            "input": "events, one frame a step" if self.network.events else "the same image at every step",
            "lossy": "; ".join(self.lossy),
        }
        return said | notes

    def _add(self, path: str, node: Any, sources: tuple[str, ...]) -> str:
        """Add a NIR node that reads the sum of others; return its name."""
        if len(set(sources)) < len(sources):
            raise ExportError(f"layer {path!r} adds a value to itself, which the edges of NIR cannot say")
        name = node_name(path, self.taken)
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def _value(self, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Say what the next node of the network gives."""
        self.names.append(names)
        self.shapes.append(shape)

    def _name_input(self, node: InputNode) -> None:
        self.nodes["input"] = self.nir.Input(np.array(node.axes))
        self._value(("input",), node.axes)

    def _take_neuron(self, node: NeuronNode) -> None:
        p = node.parameters
        if p.v_reset is None:
            self._lose(node.path, "soft reset (v − ϑ after a spike)", "reset to 0", "train with v_reset=0")
        sources: tuple[str, ...] = ()
        for term in node.terms:
            own = self.names[term.node] if term.synapse is None else (self._connection(term.synapse, term.node),)
            sources += own
        flat = any(
            len(self.shapes[term.node]) == 1 if term.synapse is None else term.synapse.kind == "linear"
            for term in node.terms
        )
        shape = _axes(node.shape)[: 1 if flat else 3]
        neuron = self._lif(shape, p.tau, p.decay_input, p.v_threshold, p.v_reset or 0.0)
        self._value((self._add(node.path, neuron, sources),), shape)

    def _lif(self, shape: tuple[int, ...], tau: float, decay_input: bool, threshold: float, reset: float) -> Any:
        filled = {
            "tau": tau * self.dt,
            "r": 1.0 if decay_input else tau,
            "v_leak": reset,
            "v_threshold": threshold,
            "v_reset": reset,
        }
        return self.nir.LIF(**{name: np.full(shape, value) for name, value in filled.items()})

    def _take_max_pool(self, node: MaxPoolNode) -> None:
        self._lose(
            node.path,
            f"max-pool over {node.window[0]}×{node.window[1]}",
            "a sum, and a LIF neuron that fires on any spike",
            "use an average pool",
        )
        pool = self.nir.SumPool2d(*_pool(node.window, (node.stride, node.stride)))
        name = self._add(f"{node.path}.sum", pool, self.names[node.node])
        shape = _axes(node.shape)
        neuron = self._lif(shape, POOL_TAU, True, POOL_THRESHOLD, 0.0)
        self._value((self._add(node.path, neuron, (name,)),), shape)

    def _take_avg_pool(self, node: AvgPoolNode) -> None:
        if node.is_identity:
            self._value(self.names[node.node], self.shapes[node.node])
            return
        if node.uniform is None:
            source = self.network.nodes[node.node].shape
            raise ExportError(
                f"layer {node.path!r} averages a map of {source.height}×{source.width} over windows of different "
                f"size, which NIR cannot say; use images of another size"
            )
        name = self._add(node.path, self.nir.AvgPool2d(*_pool(*node.uniform)), self.names[node.node])
        self._value((name,), _axes(node.shape))

    def _take_readout(self, node: ReadoutNode) -> None:
        synapse = node.term.synapse
        assert synapse is not None
        name = self._connection(synapse, node.term.node)
        shape = _axes(node.shape)[: 1 if synapse.kind == "linear" else 3]
        self.nodes["output"] = self.nir.Output(np.array(shape))
        self.edges.append((name, "output"))

    def _connection(self, synapse: FoldedSynapse, source: int) -> str:
        """Add the node of a conv or linear layer; return its name."""
        node = self._linear(synapse) if synapse.kind == "linear" else self._conv(synapse, source)
        return self._add(synapse.layer, node, self.names[source])

    def _linear(self, synapse: FoldedSynapse) -> Any:
        if synapse.has_bias:
            return self.nir.Affine(synapse.dense(), synapse.bias)
        return self.nir.Linear(synapse.dense())

    def _conv(self, synapse: FoldedSynapse, source: int) -> Any:
        given = self.network.nodes[source]
        height, width = given.shape.height, given.shape.width
        pad_h, pad_w = synapse.padding
        if isinstance(given, InputNode):
            above, below, left, right = given.pad
            if above != below or left != right:
                raise ExportError(
                    f"layer {synapse.layer!r} reads the input padded by {above} and {below} rows, {left} and "
                    f"{right} columns; NIR pads both sides alike, so use images of even height and width"
                )
            height, width = given.given[1:]
            pad_h, pad_w = pad_h + above, pad_w + left
        weight, (pad_h, pad_w) = _square(synapse.dense(), (pad_h, pad_w))
        return self.nir.Conv2d(
            (height, width), weight, synapse.stride, (pad_h, pad_w), dilation=1, groups=1, bias=synapse.bias
        )

    def _lose(self, path: str, what: str, words: str, advice: str) -> None:
        """Take other words for what NIR cannot say, or refuse."""
        if not self.allow_lossy:
            raise ExportError(
                f"layer {path!r}: NIR has no {what}; {advice}, or accept {words} in its place with --allow-lossy"
            )
        self.lossy.append(f"{path}: {what} became {words}")


def _axes(shape: MapShape) -> tuple[int, ...]:
    return shape.channels, shape.height, shape.width


def _pool(window: tuple[int, int], stride: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kernel, stride and padding of a NIR pool."""
    return np.array(window), np.array(stride), np.array((0, 0))


def _square(weight: np.ndarray, padding: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a kernel and padding that compute the same with a square kernel, surrounded by zeros."""
    # nir 1.0 infers the shape of the output from the kernel's height alone.
    height, width = weight.shape[2:]
    side = max(height, width)
    rows, columns = (side - height) // 2, (side - width) // 2
    grown = np.pad(weight, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    return grown, (padding[0] + rows, padding[1] + columns)


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise MissingDependencyError(
            "export to NIR needs the packages nir and nirtorch: pip install 'ndsnn[nir]'"
        ) from error
    return nir
