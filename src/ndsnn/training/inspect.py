"""Looking at runs and files afterwards: `ndsnn evaluate` and `ndsnn inspect`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ndsnn import data
from ndsnn.config import TrainConfig
from ndsnn.config_parser import read_config
from ndsnn.errors import RunError
from ndsnn.losses import LOSSES
from ndsnn.sparse.sparsify import layer_report, sparsity
from ndsnn.sparse.storage import load, unpack_network
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.build import build_model, load_data
from ndsnn.training.checkpoint import load_checkpoint
from ndsnn.training.evaluate import evaluate
from ndsnn.training.run_directory import CONFIG, RunDirectory


def evaluate_run(path: Path, which: str, split: str, data_root: str | None = None) -> dict[str, Any]:
    """Evaluate a network of a run.

    Args:
        path: Run directory.
        which: "last" or "best".
        split: "validation" or "test".
        data_root: Folder of the data, where it is not the one in the run's configuration.

    Raises:
        RunError: There is no such run, or it has no best network yet.
        CheckpointError: The network cannot be read.
        DataError: The images cannot be read.
    """
    run, config = _open(path)
    if data_root is not None:
        config = replace(config, data=replace(config.data, root=data_root))
    images = load_data(config)
    net, epoch = _network(run, config, which, images.num_classes, images.channels)
    chosen = images.validation if split == "validation" else images.test()
    meter = ActivityMeter(net)
    batches = data.evaluation_batches(chosen, config.batch_size, mean=images.mean, std=images.std)
    result = evaluate(net, batches, LOSSES[config.loss], meter)
    assert result is not None
    return {
        "run": str(path),
        "which": which,
        "split": split,
        "epoch": epoch,
        "images": result.images,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "sparsity": sparsity(net),
        "firing_rate": meter.firing_rate,
        "synaptic_operations_per_image": meter.total_operations(spiking=True) / result.images,
        "analog_operations_per_image": meter.total_operations(spiking=False) / result.images,
    }


def inspect_path(path: Path) -> dict[str, Any]:
    """Return what is known of the layers of a run or a sparse file.

    A finished run knows firing rates and operations, measured on its test set; a file or a run under way does not.

    Raises:
        RunError: There is nothing of that name.
        CheckpointError: The file cannot be read.
    """
    if path.is_file():
        return {"path": str(path), "layers": _bare_table(load(path))}
    run, _ = _open(path)
    if run.finished:
        summary = run.read_summary()
        return {"path": str(path), "layers": summary["layers"], "summary": summary}
    checkpoint = load_checkpoint(run.checkpoints)
    header = checkpoint.state["network"]
    table = [
        {
            "name": key.removesuffix(".weight"),
            "shape": entry["shape"],
            "alive": entry["alive"],
            "step": checkpoint.state["step"],
        }
        for key, entry in header["layers"].items()
    ]
    return {"path": str(path), "layers": [_with_sizes(row) for row in table]}


def _open(path: Path) -> tuple[RunDirectory, TrainConfig]:
    run = RunDirectory(path)
    if not run.exists:
        raise RunError(f"{path} is no run directory and no file")
    return run, read_config(run.path / CONFIG)


def _network(
    run: RunDirectory, config: TrainConfig, which: str, num_classes: int, channels: int
) -> tuple[nn.Module, int]:
    """Return the last or the best network of a run, and the epoch it is of."""
    net = build_model(config.model, num_classes, channels)
    checkpoint = load_checkpoint(run.checkpoints)
    progress = checkpoint.state["progress"]
    if which == "last":
        tensors = {
            key.removeprefix("network/"): value
            for key, value in checkpoint.tensors.items()
            if key.startswith("network/")
        }
        return unpack_network(net, tensors, checkpoint.state["network"]), progress["epoch"]
    if not run.best.is_file():
        raise RunError(f"the run in {run.path} has not reached its final sparsity; use --which last")
    return load(run.best, net), progress["best_epoch"]


def _bare_table(net: nn.Module) -> list[dict[str, Any]]:
    return [
        _with_sizes({"name": row.name, "shape": list(row.shape), "alive": row.alive}) for row in layer_report(net)
    ]


def _with_sizes(row: dict[str, Any]) -> dict[str, Any]:
    weights = 1
    for side in row["shape"]:
        weights *= side
    return row | {"weights": weights, "sparsity": 1 - row["alive"] / weights}
