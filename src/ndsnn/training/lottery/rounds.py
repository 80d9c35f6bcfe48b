"""The directories of the rounds of a lottery-ticket run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ndsnn.atomic import replaced_directory
from ndsnn.config import TrainConfig
from ndsnn.config_parser import config_to_yaml
from ndsnn.errors import RunError
from ndsnn.training.checkpoint import save_checkpoint
from ndsnn.training.lottery.plan import LotteryPlan
from ndsnn.training.progress import Progress
from ndsnn.training.run_directory import METRICS, ROUNDS, TOPOLOGY, RunDirectory

Rows = list[dict[str, Any]]

LISTED = (
    "epochs",
    "test_accuracy",
    "val_accuracy",
    "best_test_accuracy",
    "best_val_accuracy",
    "seconds",
)
"""Entries of a round's summary that the whole run's summary lists."""


@dataclass(frozen=True)
class RoundRecord:
    """A round that is over, counted from its own beginning.

    Args:
        number: Which one, 0 is the dense one.
        config: The run's settings, with the round's directory as output.
        progress: Where the round ended: its own epochs, steps and seconds, and the best of them.
        metrics: Its rows.
        topology: Its rows: the pruning it began with.
    """

    number: int
    config: TrainConfig
    progress: Progress
    metrics: Rows
    topology: Rows


def record_round(
    run: RunDirectory, config: TrainConfig, plan: LotteryPlan, progress: Progress, number: int
) -> RoundRecord:
    """Cut a round that is over out of the rows and the progress of its run."""
    first = plan.begin(number)
    rows = run.read_rows(METRICS)
    before = max((row["step"] for row in rows if row["epoch"] <= first), default=0)

    def local(row: dict[str, Any]) -> dict[str, Any]:
        moved = {"epoch": row["epoch"] - first} if "epoch" in row else {}
        return row | moved | {"step": row["step"] - before}

    metrics = [local(row) for row in rows if row["round"] == number]
    own = replace(
        progress,
        epoch=progress.epoch - first,
        step=progress.step - before,
        best_epoch=max(0, progress.best_epoch - first),
        seconds=sum(row["seconds"] for row in metrics),
    )
    topology = [local(row) for row in run.read_rows(TOPOLOGY) if row["round"] == number]
    return RoundRecord(number, replace(config, output=str(run.round(number))), own, metrics, topology)


def write_round(
    run: RunDirectory,
    record: RoundRecord,
    summary: Mapping[str, Any],
    best: Path | None,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write a round's directory, whole or not at all, in place of one that a stopped run has written before.

    Args:
        run: The whole run.
        record: The round.
        summary: Its summary.
        best: File of its best network, None where there is none.
        tensors: Its last network, as in a checkpoint.
        state: The state of that checkpoint.

    Raises:
        RunError: It cannot be written.
    """
    target = run.round(record.number)
    try:
        target.parent.mkdir(exist_ok=True)
        for left_by_a_kill in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        with replaced_directory(target) as new:
            part = RunDirectory(new)
            part.create(config_to_yaml(record.config))
            part.append(METRICS, record.metrics)
            part.append(TOPOLOGY, record.topology)
            if best is not None:
                shutil.copyfile(best, part.best(record.progress.best_epoch))
            progress = {"step": record.progress.step, "progress": asdict(record.progress)}
            save_checkpoint(part.checkpoints, tensors, dict(state) | progress)
            part.write_summary(summary)
    except OSError as error:
        raise RunError(f"cannot write the round {target}: {error.strerror or error}") from error


def list_rounds(run: RunDirectory, count: int) -> Rows:
    """Return what the summary of the whole says of each of its `count` rounds."""
    rows = []
    for number in range(count):
        summary = RunDirectory(run.round(number)).read_summary()
        rows.append(
            {"round": number, "sparsity": summary["final_sparsity"]} | {key: summary[key] for key in LISTED}
        )
    return rows


def require_no_round(run: RunDirectory) -> None:
    """Check that a run directory is not a round of another one.

    Raises:
        RunError: It is.
    """
    whole = RunDirectory(run.path.absolute().parent.parent)
    if run.path.absolute().parent.name == ROUNDS and whole.exists:
        raise RunError(f"{run.path} is a round of the run in {whole.path}; that is the one to resume or overwrite")
