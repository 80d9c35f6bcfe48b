"""Looking at runs and files afterwards: `ndsnn evaluate` and `ndsnn inspect`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ndsnn import data
from ndsnn.config import TrainConfig
from ndsnn.config_parser import read_config
from ndsnn.errors import CheckpointError, DataError, RunError
from ndsnn.losses import LOSSES
from ndsnn.sparse.sparsify import LayerRow, layer_report, sparsity
from ndsnn.sparse.storage import load, read_sparse_file, unpack_network
from ndsnn.training.acceleration import put_on_engine
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.build import build_model, load_data
from ndsnn.training.checkpoint import Checkpoint, load_checkpoint, network_tensors
from ndsnn.training.evaluate import evaluate
from ndsnn.training.run_directory import CONFIG, SUMMARY, RunDirectory
from ndsnn.training.saved_state import is_layer_row, state_problem, summary_problem
from ndsnn.training.summary import what_is_alive


def evaluate_run(
    path: Path,
    which: str,
    split: str | None = None,
    data_root: str | None = None,
    meter_class: type[ActivityMeter] = ActivityMeter,
) -> dict[str, Any]:
    """Evaluate a network of a run, by the reference engine if the run asked for it, else by the fastest there is.

    Args:
        path: Run directory.
        which: "last" or "best".
        split: "validation" or "test"; None takes the test images of a finished run, else the validation images.
        data_root: Folder of the data, where it is not the one in the run's configuration.
        meter_class: What counts spikes and operations; its figures are part of the result.

    Raises:
        RunError: There is no such run, or it has no best network yet.
        CheckpointError: The network cannot be read.
        DataError: The images cannot be read.
    """
    run, config = open_run(path)
    if data_root is not None:
        config = replace(config, data=replace(config.data, root=data_root))
    images = load_data(config)
    checkpoint = load_checkpoint(run.checkpoints, state_problem)
    if checkpoint.state["data"] != images.fingerprint:
        raise DataError(f"the images of {images.name} or their split are not those that {path} was trained with")
    blank = build_model(config.model, images.num_classes, images.channels, images.image_size)
    net, epoch = network_of(run, which, checkpoint, blank)
    net, engine = put_on_engine(net, "reference" if config.engine == "reference" else "auto", "auto")
    split = split or ("test" if run.finished else "validation")
    chosen = images.validation if split == "validation" else images.test()
    meter = meter_class(net)
    batches = data.evaluation_batches(chosen, config.batch_size, mean=images.mean, std=images.std)
    result = evaluate(net, batches, LOSSES[config.loss], meter)
    assert result is not None
    return {
        "run": str(path),
        "notes": list(checkpoint.skipped),
        "which": which,
        "split": split,
        "epoch": epoch,
        "engine": engine.name,
        "engine_reason": engine.reason,
        "images": result.images,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "sparsity": sparsity(net),
        **meter.figures(result.accuracy, result.images),
    }


def inspect_path(path: Path) -> dict[str, Any]:
    """Return what is known of the layers of a run or a sparse file.

    Firing rates and operations are those of the test images for a finished run, of the validation images after the
    last epoch for a run under way and its best network; a file that `ndsnn.save` wrote for somebody else has none.

    Raises:
        RunError: There is nothing of that name.
        CheckpointError: The file cannot be read.
    """
    if path.is_file():
        _, header = read_sparse_file(path)
        layers = (header.get("notes") or {}).get("layers")
        if layers is not None and not (isinstance(layers, list) and all(map(is_layer_row, layers))):
            raise CheckpointError(f"{path}: its header is malformed (the table of its layers)")
        if layers is None:
            rows = layer_report(load(path)) if header["architecture"] else _header_rows(header)
            layers = [what_is_alive(row) for row in rows]
        return {"path": str(path), "layers": layers}
    run, _ = open_run(path)
    if run.finished:
        summary = run.read_summary()
        if problem := summary_problem(summary):
            raise RunError(f"{run.path / SUMMARY} is malformed or no summary of ndsnn train ({problem})")
        return {"path": str(path), "layers": summary["layers"], "summary": summary}
    checkpoint = load_checkpoint(run.checkpoints, state_problem)
    rows = _header_rows(checkpoint.state["network"])
    layers = checkpoint.state["layers"] or [what_is_alive(row) for row in rows]
    return {
        "path": str(path),
        "layers": layers,
        "step": checkpoint.state["step"],
        "notes": list(checkpoint.skipped),
    }


def open_run(path: Path) -> tuple[RunDirectory, TrainConfig]:
    """Return a run and its configuration; raises RunError if there is none."""
    run = RunDirectory(path)
    if not run.exists:
        raise RunError(f"{path} is no run directory and no file")
    return run, read_config(run.path / CONFIG)


def network_of(run: RunDirectory, which: str, checkpoint: Checkpoint, net: nn.Module) -> tuple[nn.Module, int]:
    """Return `net` filled with the last or the best network of a run, and the epoch it is of.

    Raises:
        RunError: It has no best network yet.
        CheckpointError: The network cannot be read, or is not of the architecture of `net`.
    """
    progress = checkpoint.state["progress"]
    if which == "last":
        return unpack_network(net, network_tensors(checkpoint), checkpoint.state["network"]), progress["epoch"]
    if not progress["best_epoch"]:
        raise RunError(f"the run in {run.path} has not reached its final sparsity; use --which last")
    return load(run.best(progress["best_epoch"]), net), progress["best_epoch"]


def _header_rows(header: dict[str, Any]) -> list[LayerRow]:
    """Return the sparse layers that a header lists; dense ones of a foreign network are not in it."""
    return [
        LayerRow(key.removesuffix(".weight"), tuple(entry["shape"]), math.prod(entry["shape"]), entry["alive"])
        for key, entry in header["layers"].items()
    ]
