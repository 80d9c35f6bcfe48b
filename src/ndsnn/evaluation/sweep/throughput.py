"""How fast this machine trains: seconds per multiply-add and per neuron and step, measured on a small network."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from ndsnn.config import ModelConfig, TrainConfig
from ndsnn.evaluation.sweep.estimate import Estimate, network_use
from ndsnn.sparse.sparsify import layer_report, sparsify
from ndsnn.training.acceleration import put_on_engine
from ndsnn.training.build import build_model

PROBE_MODEL = ModelConfig(name="vgg", layers=(64, 64, "M", 128, 128, "M", 256), time_steps=4)
PROBE_BATCH = 32
PROBE_SIZE = (16, 16)
PROBE_SPARSITIES = (0.0, 0.95)
PROBE_STEPS = 3


@dataclass(frozen=True)
class Throughput:
    """A model of the time of a run: what it does with neurons, and what it does with weights.

    Args:
        per_operation: Seconds per multiply-add of an alive weight.
        per_neuron_step: Seconds per neuron and step: normalisation, membrane, spikes and their gradients.
        source: Where the two come from, for people.
    """

    per_operation: float
    per_neuron_step: float
    source: str

    def seconds(self, estimate: Estimate) -> float:
        """Return the seconds of training that a run takes."""
        return self.per_operation * estimate.operations + self.per_neuron_step * estimate.neuron_steps


TYPICAL = Throughput(1.4e-11, 8e-9, "stated for 1 thread with AVX2 and the native engine")
"""Only their ratio matters to a sweep that runs, which scales by the cells that are finished."""


def measure(threads: int, engine: str = "auto", precision: str = "fp32") -> Throughput:
    """Train a small network, dense and at 95 %, for a few steps, and solve for the two constants.

    Args:
        threads: CPU threads.
        engine: As in `TrainConfig`.
        precision: As in `TrainConfig`.

    Raises:
        ConfigError: The engine cannot compute here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        timed = [_step_seconds(sparsity, engine, precision) for sparsity in PROBE_SPARSITIES]
    finally:
        torch.set_num_threads(before)
    (dense_seconds, dense_operations, name), (sparse_seconds, sparse_operations, _) = timed
    neuron_steps = network_use(PROBE_MODEL, 10, 3, PROBE_SIZE).neuron_steps * PROBE_BATCH
    per_operation = max(dense_seconds - sparse_seconds, 0.0) / (dense_operations - sparse_operations)
    per_neuron_step = max(sparse_seconds - per_operation * sparse_operations, 0.0) / neuron_steps
    return Throughput(
        per_operation,
        per_neuron_step,
        f"measured now: {PROBE_STEPS} steps of a VGG of 5 layers, dense and at 95 %, {name} engine, "
        f"{threads} {'thread' if threads == 1 else 'threads'}",
    )


def _step_seconds(sparsity: float, engine: str, precision: str) -> tuple[float, float, str]:
    """Return the shortest time of a training step, its multiply-adds and the engine's name."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    config = replace(TrainConfig(), model=PROBE_MODEL)
    net = build_model(config.model, 10, 3)
    sparsify(net, sparsity)
    alive = {row.name: row.alive for row in layer_report(net)}
    net, chosen = put_on_engine(net, engine, "auto", precision)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, foreach=True)
    x, y = torch.randn(PROBE_BATCH, 3, *PROBE_SIZE), torch.randint(10, (PROBE_BATCH,))
    torch.set_rng_state(torch_state)
    shortest = float("inf")
    for _ in range(1 + PROBE_STEPS):
        begin = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(net(x).mean(0), y).backward()
        optimizer.step()
        shortest = min(shortest, time.perf_counter() - begin)
    operations = network_use(PROBE_MODEL, 10, 3, PROBE_SIZE).operations(alive)
    return shortest, operations * PROBE_BATCH, chosen.name
