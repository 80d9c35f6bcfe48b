"""The summary of a finished run: accuracies, sparsity by layer, costs, and where it was computed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from ndsnn.config import to_plain
from ndsnn.data import ImageSet
from ndsnn.sparse.sparsify import layer_report
from ndsnn.sparse.storage import load
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.costs import network_footprint_bits, peak_memory_mb
from ndsnn.training.evaluate import Evaluation, evaluate
from ndsnn.training.machine import machine, versions
from ndsnn.training.run_directory import METRICS

if TYPE_CHECKING:
    from ndsnn.training.loop import Trainer


def summarise(trainer: Trainer, test_images: ImageSet) -> dict[str, Any] | None:
    """Test the last and the best network and put everything together.

    Args:
        trainer: A trainer whose epochs are all done.
        test_images: The test set.

    Returns:
        The content of summary.json, or None if a signal came.
    """
    progress, method = trainer.progress, trainer.method
    meter = ActivityMeter(trainer.net)
    last = _test(trainer, trainer.net, test_images, meter)
    best = last
    if progress.best_epoch != progress.epoch:
        best = _test(trainer, load(trainer.run.best, copy.deepcopy(trainer.net)), test_images)
    if last is None or best is None:
        return None
    rows = trainer.run.read_rows(METRICS)
    return {
        "config": to_plain(trainer.config),
        "seed": trainer.config.seed,
        "method": trainer.config.method.name,
        "initial_sparsity": 1 - sum(method.initial_counts.values()) / trainer.weights,
        "final_sparsity": 1 - trainer.alive / trainer.weights,
        "epochs": progress.epoch,
        "steps": progress.step,
        "test_accuracy": last.accuracy,
        "val_accuracy": progress.last_val_accuracy,
        "best_epoch": progress.best_epoch,
        "best_test_accuracy": best.accuracy,
        "best_val_accuracy": progress.best_val_accuracy,
        "images": {
            "train": len(trainer.images.train),
            "validation": len(trainer.images.validation),
            "test": len(test_images),
        },
        "layers": layer_table(trainer.net, meter, last.images),
        "costs": _costs(trainer, rows, meter, last.images),
        "seconds": progress.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
        "machine": machine(),
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
            {
                "name": row.name,
                "shape": list(row.shape),
                "weights": row.weights,
                "alive": row.alive,
                "sparsity": row.sparsity,
                "firing_rate": None if neuron is None else meter.neurons[neuron].firing_rate,
                "operations": synapses.operations / images,
                "operation": "add" if synapses.spiking else "multiply-add",
                "share_of_operations": synapses.operations / total if total else 0.0,
            }
        )
    return table


def _test(
    trainer: Trainer, net: nn.Module, images: ImageSet, meter: ActivityMeter | None = None
) -> Evaluation | None:
    return evaluate(net, trainer.evaluation_batches(images), trainer.criterion, meter, trainer.interrupted)


def _costs(trainer: Trainer, rows: list[dict[str, Any]], meter: ActivityMeter, images: int) -> dict[str, Any]:
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
        "memory_footprint_bytes": network_footprint_bits(trainer.net, trainer.config.model.time_steps) / 8,
    }
