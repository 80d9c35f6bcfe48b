"""What NeuroBench measures, counted natively: under its own keys, with what the compressed form needs beside it.

Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing algorithms and systems", Nature
Communications 2025. The figures are those that its package gives for the dense export of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.interop.energy import energy_estimates
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.topology import MASK, alive_count, maskable_modules, weight_of, weight_shape
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.costs import dense_operations, operations

POSITION_BYTES = 4
"""Of an alive weight's place in a layer that is not dense: the engine's index holds 32-bit integers."""


class NeuroBenchMeter(ActivityMeter):
    """Counts what NeuroBench's workload metrics count, beside what every `ActivityMeter` does.

    A layer's operations are accumulations (ACs) in a forward pass in which it reads nothing but 0 and 1, and
    multiply-accumulates (MACs) in any other.

    Args:
        net: The network, plain or accelerated; its `LIF` layers count as neurons.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._all_read: dict[tuple[str, torch.Size], tuple[int, int]] = {}
        self.acs = self.macs = self.dense = self.executed = 0

    def on_input(self, layer: str, counts: Tensor, spiking: bool, samples: int) -> None:
        """Count what a layer reads (see `ndsnn.engine.Observer`)."""
        super().on_input(layer, counts, spiking, samples)
        module = self._modules[layer]
        effective = operations(module, counts)
        if spiking:
            self.acs += effective
        else:
            self.macs += effective
        key = layer, counts.shape
        if key not in self._all_read:
            everything = torch.ones(counts.shape, dtype=torch.int64)
            self._all_read[key] = dense_operations(module, everything), operations(module, everything)
        dense, executed = self._all_read[key]
        self.dense += dense * samples
        self.executed += executed * samples

    def figures(self, accuracy: float, images: int) -> dict[str, Any]:
        """Return the figures of every `ActivityMeter`, and `metrics` as "neurobench"."""
        return super().figures(accuracy, images) | {"neurobench": self.metrics(accuracy, images)}

    def metrics(self, accuracy: float, images: int) -> dict[str, Any]:
        """Return the metrics of a network that was run on `images` images while `counting()`.

        Returns:
            NeuroBench's: "Footprint" (bytes of the dense parameters and buffers), "ConnectionSparsity",
            "ClassificationAccuracy", "ActivationSparsity" and "SynapticOperations" per image ("Effective_MACs",
            "Effective_ACs" and "Dense"); and "ndsnn": "CompressedFootprint" (bytes with alive weights and their
            places alone), "ExecutedOperations" per image (additions of alive weights at every place and step,
            spikes or not, as the engine's sparse kernels do them) and "EnergyEstimates" per image.
        """
        spikes = sum(neuron.spikes for neuron in self.neurons.values())
        chances = sum(neuron.chances for neuron in self.neurons.values())
        acs, macs = self.acs / images, self.macs / images
        return {
            "Footprint": footprint(self._net),
            "ConnectionSparsity": connection_sparsity(self._net),
            "ClassificationAccuracy": accuracy,
            "ActivationSparsity": (chances - spikes) / chances if chances else 0.0,
            "SynapticOperations": {
                "Effective_MACs": macs,
                "Effective_ACs": acs,
                "Dense": self.dense / images,
            },
            "ndsnn": {
                "CompressedFootprint": compressed_footprint(self._net),
                "ExecutedOperations": self.executed / images,
                "EnergyEstimates": energy_estimates(acs, macs, self.dense / images),
            },
        }


def metric_lines(metrics: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Give metrics as lines for a person, a value to a line, nested ones indented."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from metric_lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {f'{value:,.6g}' if isinstance(value, float) else value}"


def footprint(net: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of the dense export."""
    return _other_bytes(net) + sum(
        weight_of(module).element_size() * math.prod(weight_shape(module))
        for module in maskable_modules(net).values()
    )


def compressed_footprint(net: nn.Module) -> int:
    """Return the bytes with only the alive weights of each layer, and their places where it is not dense."""
    total = _other_bytes(net)
    for module in maskable_modules(net).values():
        weight = weight_of(module)
        alive = alive_count(module)
        sparse = alive < math.prod(weight_shape(module))
        total += alive * (weight.element_size() + (POSITION_BYTES if sparse else 0))
    return total


def connection_sparsity(net: nn.Module) -> float:
    """Return the fraction of the weights of conv and linear layers that are 0, to 4 decimals like NeuroBench."""
    modules = maskable_modules(net).values()
    weights = sum(math.prod(weight_shape(m)) for m in modules)
    return round(1 - sum(int(torch.count_nonzero(weight_of(m))) for m in modules) / weights, 4)


def _other_bytes(net: nn.Module) -> int:
    """Return the bytes of all that a dense network has beside the weights of its conv and linear layers."""
    weights = {id(weight_of(module)) for module in maskable_modules(net).values()}
    kept: list[Tensor] = [p for p in net.parameters() if id(p) not in weights]
    for module in net.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name != MASK and not (isinstance(module, CompressedModule) and name == "positions"):
                kept.append(buffer)
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)
