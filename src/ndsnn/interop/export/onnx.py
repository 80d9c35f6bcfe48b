"""ONNX: the network unrolled over its time steps, for any number of images at once.

Every step is written out in the order of operations of `ndsnn.lif`. Weights stand in the file once, dense. What is
the same at every step (an image, and its first current) is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ndsnn
from ndsnn.errors import ConfigError, ExportError, MissingDependencyError
from ndsnn.interop.export.files import write_export
from ndsnn.interop.export.network import (
    AvgPoolNode,
    FlattenNode,
    FoldedNetwork,
    FoldedTerm,
    InputNode,
    MaxPoolNode,
    NeuronNode,
    SumNode,
    Windows,
)

OPSET = 17
"""Version of the operators; the oldest that is offered."""

IR_VERSION = 8
"""Version of the file format that came with it."""

INPUT, OUTPUT = "input", "logits"
"""Names of the input, float32 [N, C, H, W] or [T, N, C, H, W], and the output [T, N, classes]."""

LARGEST = 2**31 - 1
"""Bytes that a protobuf message can have."""

Steps = list[str]
"""Names of a value at each step; one name where it is the same at all steps."""


def to_onnx(network: FoldedNetwork, opset: int = OPSET, notes: dict[str, str] | None = None) -> Any:
    """Turn a deployable network into an `onnx.ModelProto`, checked.

    Args:
        network: What `fold` returned.
        opset: Version of the operators, at least 17.
        notes: More entries for the model's metadata.

    Raises:
        ConfigError: The installed onnx does not have that opset, or it is below 17.
        MissingDependencyError: The package onnx is not there.
    """
    onnx = _onnx()
    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ConfigError(f"opset must lie between {OPSET} and {newest}, got {opset}")
    said = {"generator": f"ndsnn {ndsnn.__version__}", "time_steps": str(network.time_steps)}
    model = _Writer(onnx, network).run(opset, said | (notes or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(model: Any, path: Path) -> int:
    """Write a model, whole or not at all; return the bytes.

    Raises:
        ExportError: It is larger than an ONNX file can be, or cannot be written.
    """
    if model.ByteSize() > LARGEST:
        raise ExportError(f"the network has {model.ByteSize():,} bytes; an ONNX file cannot have more than 2 GB")
    return write_export(path, model.SerializeToString())


class _Writer:
    """One pass over a deployable network."""

    def __init__(self, onnx: Any, network: FoldedNetwork) -> None:
        self.onnx, self.network = onnx, network
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        # Names of the value of node i of the network.
        self.values: list[Steps] = []

    def run(self, opset: int, metadata: dict[str, str]) -> Any:
        for node in self.network.nodes[:-1]:
            self.values.append(self._take(node))
        readout = self.network.readout
        logits = self._term(readout.term)
        axis = self._constant("axis_0", np.array([0], np.int64))
        steps = [self._op("Unsqueeze", [step, axis], f"{readout.path}/step_{t}") for t, step in enumerate(logits)]
        self._op("Concat", steps, OUTPUT, axis=0)
        helper = self.onnx.helper
        kind = self.onnx.TensorProto.FLOAT
        given, out = self.network.input.axes, readout.shape
        steps_in = [self.network.time_steps] if self.network.events else []
        linear = readout.term.synapse is not None and readout.term.synapse.kind == "linear"
        shape = [self.network.time_steps, "N", out.channels] + ([] if linear else [out.height, out.width])
        graph = helper.make_graph(
            self.nodes,
            "ndsnn",
            [helper.make_tensor_value_info(INPUT, kind, [*steps_in, "N", *given])],
            [helper.make_tensor_value_info(OUTPUT, kind, shape)],
            list(self.constants.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="ndsnn", ir_version=IR_VERSION
        )
        helper.set_model_props(model, metadata)
        return model

    def _take(self, node: Any) -> Steps:
        if isinstance(node, InputNode):
            return self._input(node)
        if isinstance(node, NeuronNode):
            return self._neuron(node)
        if isinstance(node, SumNode):
            return self._sum(node)
        source = self.values[node.node]
        if isinstance(node, MaxPoolNode):
            return self._each(
                source, node.path, "MaxPool", kernel_shape=node.window, strides=(node.stride, node.stride)
            )
        if isinstance(node, FlattenNode):
            return self._each(source, node.path or "flatten", "Flatten", axis=1)
        assert isinstance(node, AvgPoolNode)
        return self._average(node, source)

    def _op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _each(self, source: Steps, path: str, kind: str, *more: str, **attributes: Any) -> Steps:
        """Apply an operator to a value at each of its steps."""
        return self._map(source, lambda x, name: self._op(kind, [x, *more], name, **attributes), path)

    def _map(self, source: Steps, make: Callable[[str, str], str], path: str) -> Steps:
        # The index of the node in front, as a path need not be unique.
        place = f"{path}#{len(self.values)}"
        return [make(x, f"{place}/{t}" if len(source) > 1 else place) for t, x in enumerate(source)]

    def _constant(self, name: str, array: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def _scalar(self, value: float) -> str:
        return self._constant(f"scalar_{float(value)!r}", np.array(value, np.float32))

    def _input(self, node: InputNode) -> Steps:
        steps = [INPUT]
        if self.network.events:
            steps = [
                self._op(
                    "Gather", [INPUT, self._constant(f"step_{t}", np.array(t, np.int64))], f"input/{t}", axis=0
                )
                for t in range(self.network.time_steps)
            ]
        if any(node.pad):
            above, below, left, right = node.pad
            pads = self._constant("input_pads", np.array([0, 0, above, left, 0, 0, below, right], np.int64))
            return self._each(steps, "padded", "Pad", pads)
        return steps

    def _average(self, node: AvgPoolNode, source: Steps) -> Steps:
        if node.is_identity:
            return source
        if node.uniform is not None:
            kernel, strides = node.uniform
            return self._each(source, node.path, "AveragePool", kernel_shape=kernel, strides=strides)
        given = self.network.nodes[node.node].shape
        rows = self._constant(f"{node.path}/rows", _averaging(node.rows, given.height))
        columns = self._constant(f"{node.path}/columns", _averaging(node.columns, given.width).T)
        over_rows = self._map(
            source, lambda x, name: self._op("MatMul", [rows, x], f"{name}/over_rows"), node.path
        )
        return self._each(over_rows, node.path, "MatMul", columns)

    def _term(self, term: FoldedTerm) -> Steps:
        source, synapse = self.values[term.node], term.synapse
        if synapse is None:
            return source
        weight = self._constant(f"{synapse.layer}.weight", synapse.dense())
        bias = [self._constant(f"{synapse.layer}.bias", synapse.bias)] if synapse.has_bias else []
        if synapse.kind == "linear":
            return self._each(source, synapse.layer, "Gemm", weight, *bias, transB=1)
        (rows, columns), stride = synapse.padding, (synapse.stride, synapse.stride)
        return self._each(
            source, synapse.layer, "Conv", weight, *bias, strides=stride, pads=(rows, columns, rows, columns)
        )

    def _neuron(self, node: NeuronNode) -> Steps:
        place = f"{node.path}#{len(self.values)}"
        terms = [self._term(term) for term in node.terms]
        v = self._scalar(node.initial)
        spikes = []
        for t in range(self.network.time_steps):
            at = f"{place}/{t}"
            x = self._added([_at(steps, t) for steps in terms], at)
            h = self._charge(node, x, v, at)
            fires = self._op("GreaterOrEqual", [h, self._scalar(node.parameters.v_threshold)], f"{at}/fires")
            spikes.append(self._op("Cast", [fires], f"{at}/spikes", to=self.onnx.TensorProto.FLOAT))
            if t + 1 < self.network.time_steps:
                v = self._reset(node, h, fires, spikes[-1], at)
        return spikes

    def _sum(self, node: SumNode) -> Steps:
        terms = [self.values[term] for term in node.terms]
        place = f"{node.path or 'sum'}#{len(self.values)}"
        return [
            self._added([_at(steps, t) for steps in terms], f"{place}/{t}") for t in range(max(map(len, terms)))
        ]

    def _added(self, terms: list[str], at: str) -> str:
        total, *others = terms
        for index, other in enumerate(others):
            total = self._op("Add", [total, other], f"{at}/sum_{index}")
        return total

    def _charge(self, node: NeuronNode, x: str, v: str, at: str) -> str:
        """Write h = v + (x − (v − v_reset))/τ, or v − (v − v_reset)/τ + x; return the name of h."""
        p, leaking = node.parameters, v
        if p.v_reset:
            leaking = self._op("Sub", [v, self._scalar(p.v_reset)], f"{at}/above_reset")
        tau = self._scalar(p.tau)
        if p.decay_input:
            difference = self._op("Sub", [x, leaking], f"{at}/difference")
            return self._op("Add", [v, self._op("Div", [difference, tau], f"{at}/change")], f"{at}/h")
        kept = self._op("Sub", [v, self._op("Div", [leaking, tau], f"{at}/leak")], f"{at}/kept")
        return self._op("Add", [kept, x], f"{at}/h")

    def _reset(self, node: NeuronNode, h: str, fires: str, spikes: str, at: str) -> str:
        p = node.parameters
        if p.v_reset is not None:
            return self._op("Where", [fires, self._scalar(p.v_reset), h], f"{at}/v")
        drop = self._op("Mul", [spikes, self._scalar(p.soft_reset)], f"{at}/drop")
        return self._op("Sub", [h, drop], f"{at}/v")


def _at(steps: Steps, t: int) -> str:
    return steps[t] if len(steps) > 1 else steps[0]


def _averaging(windows: Windows, size: int) -> np.ndarray:
    """Return the matrix [outputs, inputs] that averages each window of an axis."""
    matrix = np.zeros((len(windows), size), np.float32)
    for row, (start, stop) in zip(matrix, windows, strict=True):
        row[start:stop] = 1 / (stop - start)
    return matrix


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("export to ONNX needs the package onnx: pip install 'ndsnn[onnx]'") from error
    return onnx
