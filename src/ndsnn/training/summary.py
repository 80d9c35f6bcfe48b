"""The summary of a finished run: accuracies, sparsity by layer, costs, and where it was computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from ndsnn.config import TrainConfig, to_plain
from ndsnn.sparse.methods import SparseTraining
from ndsnn.sparse.sparsify import LayerRow, layer_report
from ndsnn.training.acceleration import Engine
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.costs import network_footprint_bits, peak_memory_mb
from ndsnn.training.evaluate import Evaluation
from ndsnn.training.machine import machine, versions
from ndsnn.training.progress import Progress


def summarise(
    config: TrainConfig,
    engine: Engine,
    progress: Progress,
    method: SparseTraining,
    net: nn.Module,
    meter: ActivityMeter,
    tested: tuple[Evaluation, Evaluation | None],
    rows: list[dict[str, Any]],
    sizes: dict[str, int],
) -> dict[str, Any]:
    """Put everything together that is known of a finished run.

    Args:
        config: Its settings.
        engine: What computed it.
        progress: Where it ended.
        method: Its method, after the last step.
        net: Its last network.
        meter: What the last network did on the test images.
        tested: Test results of the last network and of the one best by validation, None where no epoch was at θf.
        rows: Its metrics.jsonl.
        sizes: Numbers of training, validation and test images.

    Returns:
        The content of summary.json.
    """
    last, best = tested
    weights = sum(layer.size for layer in method.layers)
    return {
        "config": to_plain(config),
        "seed": config.seed,
        "method": config.method.name,
        "initial_sparsity": 1 - sum(method.initial_counts.values()) / weights,
        "final_sparsity": method.current_sparsity(),
        "epochs": progress.epoch,
        "steps": progress.step,
        "test_accuracy": last.accuracy,
        "val_accuracy": progress.last_val_accuracy,
        "best_epoch": progress.best_epoch if best else None,
        "best_test_accuracy": best.accuracy if best else None,
        "best_val_accuracy": progress.best_val_accuracy if best else None,
        "images": sizes,
        "layers": layer_table(net, meter, last.images),
        "costs": cost_table(net, meter, rows, last.images, config.model.time_steps),
        "seconds": progress.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "engine": engine.name,
        "engine_reason": engine.reason,
        "instruction_set": engine.instruction_set,
        "versions": versions(),
        "machine": machine() | {"instruction_set": engine.instruction_set},
    }


def layer_table(net: nn.Module, meter: ActivityMeter, images: int) -> list[dict[str, Any]]:
    """Return one object per conv and linear layer, with what `meter` saw over `images` images.

    The firing rate is that of the neurons the layer feeds; operations are per image.
    """
    total = meter.total_operations(spiking=True) + meter.total_operations(spiking=False)
    table = []
    for row in layer_report(net):
        synapses = meter.synapses[row.name]
        neuron = meter.feeds.get(row.name)
        table.append(
            what_is_alive(row)
            | {
                "firing_rate": None if neuron is None else meter.neurons[neuron].firing_rate,
                "operations": synapses.operations / images,
                "operation": "add" if synapses.spiking else "multiply-add",
                "share_of_operations": synapses.operations / total if total else 0.0,
            }
        )
    return table


def what_is_alive(row: LayerRow) -> dict[str, Any]:
    """Return the entries of a layer that need no run: name, shape, weights, alive, sparsity."""
    return {
        "name": row.name,
        "shape": list(row.shape),
        "weights": row.weights,
        "alive": row.alive,
        "sparsity": row.sparsity,
    }


def cost_table(
    net: nn.Module, meter: ActivityMeter, rows: list[dict[str, Any]], images: int, time_steps: int
) -> dict[str, Any]:
    """Return the costs of a training by its metrics, and of inference by what `meter` saw over `images` images."""
    relative = [row["relative_cost"] for row in rows]
    known = relative and all(cost is not None for cost in relative)
    return {
        "relative_training_cost": sum(relative) / len(relative) if known else None,
        "mean_training_firing_rate": sum(row["firing_rate"] for row in rows) / len(rows),
        "training_synaptic_operations": sum(row["synaptic_operations"] for row in rows),
        "training_analog_operations": sum(row["analog_operations"] for row in rows),
        "test_firing_rate": meter.firing_rate,
        "synaptic_operations_per_image": meter.total_operations(spiking=True) / images,
        "analog_operations_per_image": meter.total_operations(spiking=False) / images,
        "memory_footprint_bytes": network_footprint_bits(net, time_steps) / 8,
    }
