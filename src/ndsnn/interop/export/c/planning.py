"""From a deployable network to the operations of the C code."""

from __future__ import annotations

import numpy as np

from ndsnn.errors import ExportError
from ndsnn.interop.export.c.program import Average, Drive, Operation, OrPool, Output, Population, Program, Source
from ndsnn.interop.export.folding import with_unit_gain
from ndsnn.interop.export.network import (
    AvgPoolNode,
    FlattenNode,
    FoldedNetwork,
    FoldedNode,
    FoldedTerm,
    InputNode,
    MaxPoolNode,
    NeuronNode,
    ReadoutNode,
)

LARGEST_SIDE = 65535
"""Channels, heights and widths are uint16_t in C."""


def plan_program(network: FoldedNetwork) -> Program:
    """Plan the operations of a deployable network, with float64 numbers.

    Args:
        network: What `fold` returned.

    Raises:
        ExportError: A layer has no form in C; the message names it.
    """
    return _Planning(with_unit_gain(network)).run()


class _Planning:
    """One pass over a deployable network whose neurons add their input undivided."""

    def __init__(self, network: FoldedNetwork) -> None:
        self.network = network
        self.sources: dict[int, Source] = {}
        self.operations: list[Operation] = []
        # Max-pool nodes that are part of the neuron in front of them.
        self.merged: set[int] = set()
        self.readers: dict[int, list[int]] = {index: [] for index in range(len(network.nodes))}
        for index in range(len(network.nodes)):
            for read in network.inputs(index):
                self.readers[read].append(index)

    def run(self) -> Program:
        """Return the program."""
        for index, node in enumerate(self.network.nodes):
            if max(node.shape.channels, node.shape.height, node.shape.width) > LARGEST_SIDE:
                raise ExportError(
                    f"layer {node.path!r} has a map of {node.shape.channels} channels, {node.shape.height}×"
                    f"{node.shape.width}; the C export takes sides of at most {LARGEST_SIDE}"
                )
            self._take(index, node)
        given, pad = self.network.input.given, self.network.input.pad
        return Program(
            given,
            (pad[0], pad[2]),
            tuple(self.operations),
            self._output(self.network.readout),
            self.network.time_steps,
            self.network.events,
        )

    def _take(self, index: int, node: FoldedNode) -> None:
        if isinstance(node, InputNode):
            self._define(index, "image")
        elif isinstance(node, NeuronNode):
            self._take_neurons(index, node)
        elif isinstance(node, MaxPoolNode):
            self._define(index, "spikes")
            if index not in self.merged:
                size = node.shape.height, node.shape.width
                self.operations.append(OrPool(node.path, index, self.sources[node.node], node.stride, size))
        elif isinstance(node, AvgPoolNode):
            source = self.sources[node.node]
            if node.is_identity:
                self.sources[index] = source
                return
            if source.kind == "image":
                raise ExportError(
                    f"layer {node.path!r}: the C export has no average pool of the network's input; average the "
                    "images before they are given to the network"
                )
            self.operations.append(Average(node.path, index, source, node.rows, node.columns))
            self._define(index, "values")
        elif isinstance(node, FlattenNode):
            self.sources[index] = self.sources[node.node]

    def _define(self, index: int, kind: str) -> None:
        shape = self.network.nodes[index].shape
        self.sources[index] = Source(kind, index, (shape.channels, shape.height, shape.width))

    def _take_neurons(self, index: int, node: NeuronNode) -> None:
        self._define(index, "spikes")
        shape = self.sources[index].shape
        readers, pool, place, pooled = self.readers[index], 1, index, shape[1:]
        behind = self.network.nodes[readers[0]] if len(readers) == 1 else None
        if isinstance(behind, MaxPoolNode):
            self.merged.add(readers[0])
            pool, place, pooled = behind.stride, readers[0], (behind.shape.height, behind.shape.width)
        parameters = node.parameters
        if parameters.v_reset is None and parameters.soft_reset != parameters.v_threshold:
            raise ExportError(
                f"neuron {node.path!r} loses {parameters.soft_reset:g} by a spike, not its threshold; the C "
                f"export has a soft reset by the threshold only"
            )
        bias = np.zeros(shape[0])
        for term in node.terms:
            if term.synapse is not None:
                bias += term.synapse.bias
        self.operations.append(
            Population(
                node.path,
                place,
                shape,
                node.leak,
                np.full(shape[0], parameters.v_threshold - (parameters.v_reset or 0.0)),
                parameters.v_reset is None,
                bias,
                tuple(self._drive(node.path, term, shape[0]) for term in node.terms),
                pool,
                pooled,
            )
        )

    def _output(self, node: ReadoutNode) -> Output:
        synapse = node.term.synapse
        assert synapse is not None
        drive = self._drive(node.path, node.term, synapse.shape[0])
        if drive.source.kind == "image":
            raise ExportError(f"layer {node.path!r} reads the image itself; the C export needs neurons in between")
        shape = (node.shape.channels, node.shape.height, node.shape.width)
        return Output(node.path, shape, drive, synapse.bias.astype(np.float64), np.ones(shape[0]))

    def _drive(self, path: str, term: FoldedTerm, channels: int) -> Drive:
        source, synapse, nothing = self.sources[term.node], term.synapse, np.zeros(0)
        flattened = isinstance(self.network.nodes[term.node], FlattenNode)
        if synapse is None:
            if flattened and source.shape[1:] != (1, 1):
                raise ExportError(
                    f"layer {path!r} reads a flattened map without a layer between; the C export has no form for "
                    "it: flatten behind the neurons"
                )
            return Drive(source, "", "add", nothing, np.full(channels, term.gain))
        weight = synapse.dense().astype(np.float64)
        if synapse.kind == "linear":
            return Drive(source, synapse.layer, "linear", weight.reshape(channels, *source.shape), nothing)
        if synapse.stride not in (1, 2):
            raise ExportError(f"layer {synapse.layer!r} has stride {synapse.stride}; the C export takes 1 and 2")
        return Drive(source, synapse.layer, "conv", weight, nothing, synapse.stride, synapse.padding)
