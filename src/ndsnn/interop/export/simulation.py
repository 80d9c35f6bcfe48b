"""Runs a deployable network in torch: the yardstick that exported files are held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ndsnn.errors import ShapeError
from ndsnn.interop.export.network import (
    AvgPoolNode,
    FlattenNode,
    FoldedNetwork,
    FoldedTerm,
    InputNode,
    MaxPoolNode,
    NeuronNode,
    SumNode,
)
from ndsnn.neurons import lif


class Simulation(NamedTuple):
    """What a network did.

    Attributes:
        logits: [T, N, classes] ([T, N, classes, H, W] of a conv readout).
        spikes: Of each layer of neurons by its path, [T, N, C, H, W].
    """

    logits: Tensor
    spikes: dict[str, Tensor]


@torch.no_grad()
def simulate(network: FoldedNetwork, x: Tensor, dtype: torch.dtype = torch.float32) -> Simulation:
    """Run a deployable network.

    Args:
        network: What `fold` returned.
        x: Images [N, C, H, W] or features [N, F], with T in front where it was folded for events.
        dtype: What is computed in.

    Raises:
        ShapeError: `x` is of another shape than the network was folded for.
    """
    steps, axes = (network.time_steps,) if network.events else (), network.input.axes
    fits = x.ndim == len(steps) + 1 + len(axes)
    if not fits or x.shape[-len(axes) :] != axes or x.shape[: len(steps)] != steps:
        wanted = ", ".join(map(str, (*steps, "N", *axes)))
        raise ShapeError(f"the network was folded for an input [{wanted}], got {list(x.shape)}")
    values: list[Tensor] = []
    spikes: dict[str, Tensor] = {}
    for node in network.nodes:
        if isinstance(node, InputNode):
            values.append(_input(node, x.to(dtype).view(*x.shape[: len(steps) + 1], *node.given), network))
        elif isinstance(node, NeuronNode):
            current = sum((_term(term, values, dtype) for term in node.terms), start=torch.zeros((), dtype=dtype))
            values.append(
                lif(current.expand(network.time_steps, *current.shape[1:]), None, node.parameters).spikes
            )
            spikes[node.path] = values[-1]
        elif isinstance(node, MaxPoolNode):
            values.append(_max_pool(node, values[node.node]))
        elif isinstance(node, AvgPoolNode):
            values.append(_average(node, values[node.node]))
        elif isinstance(node, SumNode):
            values.append(torch.stack([values[term] for term in node.terms]).sum(0))
        elif isinstance(node, FlattenNode):
            values.append(values[node.node].flatten(2)[..., None, None])
        else:
            logits = _term(node.term, values, dtype)
            linear = node.term.synapse is not None and node.term.synapse.kind == "linear"
            return Simulation(logits.flatten(2) if linear else logits, spikes)
    raise AssertionError("a deployable network ends in a readout")


def _input(node: InputNode, x: Tensor, network: FoldedNetwork) -> Tensor:
    above, below, left, right = node.pad
    padded = functional.pad(x, (left, right, above, below))
    return padded if network.events else padded.expand(node.shape.steps, *padded.shape)


def _term(term: FoldedTerm, values: list[Tensor], dtype: torch.dtype) -> Tensor:
    source, synapse = values[term.node], term.synapse
    if synapse is None:
        return source * term.gain
    weight = torch.from_numpy(synapse.dense()).to(dtype).view(*synapse.shape[:2], *synapse.kernel)
    bias = torch.from_numpy(synapse.bias).to(dtype)
    return _per_step(source, lambda step: functional.conv2d(step, weight, bias, synapse.stride, synapse.padding))


def _max_pool(node: MaxPoolNode, x: Tensor) -> Tensor:
    return _per_step(x, lambda step: functional.max_pool2d(step, node.window, node.stride))


def _average(node: AvgPoolNode, x: Tensor) -> Tensor:
    rows = torch.stack([x[..., start:stop, :].mean(-2) for start, stop in node.rows], -2)
    return torch.stack([rows[..., start:stop].mean(-1) for start, stop in node.columns], -1)


def _per_step(x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
    return call(x.flatten(0, 1)).unflatten(0, x.shape[:2])
