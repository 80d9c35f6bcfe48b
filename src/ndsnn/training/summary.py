"""The summary of a finished run: accuracies, sparsity by layer, costs, and where it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import nn

from ndsnn.config import TrainConfig, to_plain
from ndsnn.data import SplitData
from ndsnn.ranks import ALONE, Ranks
from ndsnn.sparse.methods import SparseTraining
from ndsnn.sparse.sparsify import LayerRow, layer_report
from ndsnn.training.acceleration import Engine
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.costs import network_footprint_bits, peak_memory_mb
from ndsnn.training.evaluate import Evaluation
from ndsnn.training.machine import machine, versions
from ndsnn.training.progress import Progress


class Tested(NamedTuple):
    """What the test images say of a run.

    Args:
        meter: What its last network did on them.
        last: Result of the last network.
        best: Result of the one best by validation, None where no epoch was at θf.
    """

    meter: ActivityMeter
    last: Evaluation
    best: Evaluation | None


def epoch_row(
    progress: Progress,
    result: Evaluation,
    sparsities: Mapping[str, float],
    meter: ActivityMeter,
    relative_cost: float | None,
    lr: float,
) -> dict[str, Any]:
    """Return the row of an epoch that is trained and validated, but not counted yet.

    Args:
        progress: Where the run is.
        result: On the validation images.
        sparsities: After the epoch, and its mean over the epoch.
        meter: What the network did on the training images.
        relative_cost: R_s·(1 − θ)/R_d, None if unknown.
        lr: Learning rate.
    """
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "train_loss": progress.loss_sum / progress.seen,
        "train_accuracy": progress.correct / progress.seen,
        "val_loss": result.loss,
        "val_accuracy": result.accuracy,
        **sparsities,
        "firing_rate": meter.firing_rate,
        "synaptic_operations": meter.total_operations(spiking=True),
        "analog_operations": meter.total_operations(spiking=False),
        "relative_cost": relative_cost,
        "lr": lr,
        "seconds": progress.epoch_seconds,
        "images_per_second": progress.seen / progress.epoch_seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def summarise(
    config: TrainConfig,
    engine: Engine,
    progress: Progress,
    method: SparseTraining,
    net: nn.Module,
    tested: Tested,
    rows: list[dict[str, Any]],
    images: SplitData,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Put everything together that is known of a finished run.

    Args:
        config: Its settings.
        engine: What computed it.
        progress: Where it ended.
        method: Its method, after the last step.
        net: Its last network.
        tested: What the test images said.
        rows: Its metrics.jsonl.
        images: What it learned from and was validated on.
        ranks: The processes that trained it; peak memory is rank 0's.

    Returns:
        The content of summary.json.
    """
    meter, last, best = tested
    sizes = {"train": len(images.train), "validation": len(images.validation), "test": last.images}
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
        "costs": cost_table(net, meter, rows, last.images, config),
        "seconds": progress.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "engine": engine.name,
        "engine_reason": engine.reason,
        "instruction_set": engine.instruction_set,
        "versions": versions(),
        "ranks": {"number": ranks.size, "traffic": {key: asdict(one) for key, one in ranks.traffic.items()}},
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
    net: nn.Module, meter: ActivityMeter, rows: list[dict[str, Any]], images: int, config: TrainConfig
) -> dict[str, Any]:
    """Return the costs of a training by its metrics, and of inference by what `meter` saw over `images` images.

    The relative cost is the sum over all epochs, divided by the epochs of one dense training, also where the run
    has more of them (LTH).
    """
    relative = [row["relative_cost"] for row in rows]
    known = relative and all(cost is not None for cost in relative)
    return {
        "relative_training_cost": sum(relative) / config.epochs if known else None,
        "mean_training_firing_rate": sum(row["firing_rate"] for row in rows) / len(rows),
        "training_synaptic_operations": sum(row["synaptic_operations"] for row in rows),
        "training_analog_operations": sum(row["analog_operations"] for row in rows),
        "test_firing_rate": meter.firing_rate,
        "synaptic_operations_per_image": meter.total_operations(spiking=True) / images,
        "analog_operations_per_image": meter.total_operations(spiking=False) / images,
        "memory_footprint_bytes": network_footprint_bits(net, config.model.time_steps) / 8,
    }
