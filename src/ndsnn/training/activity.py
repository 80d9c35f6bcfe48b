"""Counting spikes and synaptic operations while a network runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.engine import Accelerated
from ndsnn.neurons import LIF
from ndsnn.ranks import Ranks
from ndsnn.sparse.topology import maskable_modules, weight_shape
from ndsnn.training.costs import operations


@dataclass
class NeuronActivity:
    """Spikes of one neuron layer.

    Args:
        spikes: Number of spikes.
        chances: Neurons × steps × samples.
    """

    spikes: int = 0
    chances: int = 0

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step."""
        return self.spikes / self.chances if self.chances else 0.0


@dataclass
class SynapseActivity:
    """Operations of one conv or linear layer.

    Args:
        operations: Alive connections reached by non-zero inputs.
        spiking: Whether every input seen was 0 or 1, so that an operation is an addition; else a multiply-add.
    """

    operations: int = 0
    spiking: bool = True


class ActivityMeter:
    """Counts what passes through a network's neurons and sparse layers while `counting()`.

    `feeds` names, for each layer seen, the neuron layer that its output reaches first.

    Operations depend on the topology, so `flush()` must be called before the connections change. Until then a
    forward pass costs one addition per place of each layer's input.

    Args:
        net: The network, plain or accelerated; its `LIF` layers count as neurons.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._modules = maskable_modules(net)
        self._neurons = {name: m for name, m in net.named_modules() if isinstance(m, LIF)}
        self._pending: dict[str, Tensor] = {}
        self._unfed: list[str] = []
        self.feeds: dict[str, str] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self._pending.clear()
        self.neurons = {name: NeuronActivity() for name in self._neurons}
        self.synapses = {name: SynapseActivity() for name in self._modules}

    @contextmanager
    def counting(self, enabled: bool = True) -> Iterator[None]:
        """Count every forward pass inside the `with` block, or none of them."""
        self._unfed.clear()
        if not enabled:
            yield
            return
        if isinstance(self._net, Accelerated):
            self._net.observer = self
            try:
                yield
            finally:
                self._net.observer = None
            return
        handles = [m.register_forward_hook(self._neuron_hook(name)) for name, m in self._neurons.items()]
        handles += [m.register_forward_pre_hook(self._synapse_hook(name)) for name, m in self._modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def on_neuron(self, path: str, spikes: int, chances: int) -> None:
        """Count spikes (see `ndsnn.engine.Observer`)."""
        activity = self.neurons[path]
        activity.spikes += spikes
        activity.chances += chances
        self.feeds |= dict.fromkeys(self._unfed, path)
        self._unfed.clear()

    def on_input(self, layer: str, counts: Tensor, spiking: bool, samples: int) -> None:
        """Count what a layer reads (see `ndsnn.engine.Observer`)."""
        self._unfed.append(layer)
        seen = self._pending.get(layer)
        self._pending[layer] = counts if seen is None else seen.add_(counts)
        self.synapses[layer].spiking &= spiking

    def flush(self) -> None:
        """Turn the inputs seen since the last call into operations of the present topology."""
        for name, counts in self._pending.items():
            self.synapses[name].operations += operations(self._modules[name], counts)
        self._pending.clear()

    def sum_over(self, ranks: Ranks) -> None:
        """Add up the counts of all ranks, each of which calls this."""
        if ranks.alone:
            return
        self.flush()
        own = [number for n in self.neurons.values() for number in (n.spikes, n.chances)]
        own += [number for s in self.synapses.values() for number in (s.operations, not s.spiking)]
        numbers = iter(ranks.sum_(torch.tensor(own, dtype=torch.int64, device=ranks.device), "control").tolist())
        self.neurons = {name: NeuronActivity(next(numbers), next(numbers)) for name in self.neurons}
        self.synapses = {name: SynapseActivity(next(numbers), not next(numbers)) for name in self.synapses}

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step over all neurons, steps and samples."""
        total = NeuronActivity(
            sum(n.spikes for n in self.neurons.values()), sum(n.chances for n in self.neurons.values())
        )
        return total.firing_rate

    def total_operations(self, *, spiking: bool) -> int:
        """Return additions by spikes (spiking) or multiply-adds by analog values, over all layers."""
        self.flush()
        return sum(s.operations for s in self.synapses.values() if s.spiking == spiking)

    def figures(self, accuracy: float, images: int) -> dict[str, Any]:
        """Return what was counted while a network classified `images` images with `accuracy`."""
        return {
            "firing_rate": self.firing_rate,
            "synaptic_operations_per_image": self.total_operations(spiking=True) / images,
            "analog_operations_per_image": self.total_operations(spiking=False) / images,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all counts, JSON-able and exact."""
        self.flush()
        return {
            "neurons": {name: asdict(n) for name, n in self.neurons.items()},
            "synapses": {name: asdict(s) for name, s in self.synapses.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._pending.clear()
        self.neurons = {name: NeuronActivity(**state["neurons"][name]) for name in self._neurons}
        self.synapses = {name: SynapseActivity(**state["synapses"][name]) for name in self._modules}

    def _neuron_hook(self, name: str) -> Any:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
            self.on_neuron(name, int(torch.count_nonzero(spikes.detach())), spikes.numel())

        return count

    def _synapse_hook(self, name: str) -> Any:
        features = len(weight_shape(self._modules[name])) - 1

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            samples = x.reshape(-1, *x.shape[x.ndim - features :])
            nonzero = samples != 0
            self.on_input(name, nonzero.sum(0), bool((samples == nonzero).all()), len(samples))

        return count
