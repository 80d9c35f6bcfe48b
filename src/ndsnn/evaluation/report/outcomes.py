"""What one run reached and what it cost, at its end or after one of its rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ndsnn.evaluation.report.records import Record, Rows
from ndsnn.training.costs import relative_training_cost

ROUND_TOLERANCE = 0.15
"""A round of a lottery-ticket run stands for θf where its density is within this fraction of 1 − θf."""


@dataclass(frozen=True)
class Costs:
    """What a training cost: the measure of Section IV-C, and what was really spent.

    Args:
        relative: Σ over epochs of R_s·(1 − θ)/R_d, over the epochs of a dense training; None if unknown.
        operations: Synaptic operations of all training passes; None if unknown.
        seconds: Wall time of training.
        memory_mb: Peak resident memory of the process, 10⁶ bytes; None if unknown.
    """

    relative: float | None
    operations: float | None
    seconds: float
    memory_mb: float | None


@dataclass(frozen=True)
class Outcome:
    """What a run reached.

    Args:
        record: The run.
        last: Test accuracy after the last epoch, a fraction.
        best: Test accuracy of the epoch best by validation; None where no epoch was at θf.
        sparsity: The sparsity it really had.
        round: The round of a lottery-ticket run it was read from; None for the end of a run.
        costs: What it cost up to there.
    """

    record: Record
    last: float
    best: float | None
    sparsity: float
    round: int | None
    costs: Costs


def outcome_of(record: Record, dense: Record | None) -> Outcome:
    """Return what a run reached at its end.

    Args:
        record: The run.
        dense: The dense run of its recipe and seed, for a relative cost it does not state itself.
    """
    summary = record.summary
    stated = summary["costs"].get("relative_training_cost")
    costs = Costs(
        relative=relative_cost(record.metrics, record, dense) if stated is None else float(stated),
        operations=summary["costs"].get("training_synaptic_operations"),
        seconds=float(summary["seconds"]),
        memory_mb=float(summary["peak_memory_mb"]),
    )
    best = summary["best_test_accuracy"]
    return Outcome(record, summary["test_accuracy"], best, summary["final_sparsity"], None, costs)


def round_outcome(record: Record, final: float, dense: Record | None) -> Outcome | None:
    """Return what a run reached after the round nearest to θf.

    Args:
        record: The run.
        final: θf that is asked for.
        dense: As in `outcome_of`.

    Returns:
        The outcome; None where the run has no rounds, none is near enough, or its rounds share a budget of epochs:
        then one before the last is not what a budgeted run for that sparsity would be.
    """
    rounds = record.summary.get("rounds")
    if not rounds or record.settings.get("method.settings.budgeted"):
        return None
    nearest = min(rounds, key=lambda entry: abs(entry["sparsity"] - final))
    if abs(nearest["sparsity"] - final) > ROUND_TOLERANCE * (1 - final) + 1e-9:
        return None
    number = nearest["round"]
    rows = [row for row in record.metrics if row.get("round", 0) <= number]
    costs = Costs(
        relative=relative_cost(rows, record, dense),
        operations=sum(row["synaptic_operations"] for row in rows) if rows else None,
        seconds=sum(entry["seconds"] for entry in rounds if entry["round"] <= number),
        memory_mb=None,
    )
    best = nearest.get("best_test_accuracy")
    return Outcome(record, nearest["test_accuracy"], best, nearest["sparsity"], number, costs)


def relative_cost(rows: Rows, record: Record, dense: Record | None) -> float | None:
    """Return the training cost of some epochs relative to a whole dense training.

    Args:
        rows: Rows of metrics.jsonl.
        record: The run they belong to; a dense one is its own measure.
        dense: The dense run whose firing rates R_d are used where a row states no relative cost.

    Returns:
        Σ R_s·(1 − θ)/R_d over the rows, divided by the epochs of the recipe; None where R_d is unknown.
    """
    if record.method == "dense":
        dense = record
    rates = [row["firing_rate"] for row in dense.metrics] if dense is not None else []
    costs = [_epoch_cost(row, rates) for row in rows]
    known = [cost for cost in costs if cost is not None]
    return sum(known) / int(record.settings["epochs"]) if known and len(known) == len(costs) else None


def _epoch_cost(row: dict[str, Any], dense_rates: list[float]) -> float | None:
    if row.get("relative_cost") is not None:
        return float(row["relative_cost"])
    epoch = row.get("round_epoch", row["epoch"])
    if not 1 <= epoch <= len(dense_rates) or not dense_rates[epoch - 1]:
        return None
    return relative_training_cost(row["firing_rate"], row["mean_sparsity"], dense_rates[epoch - 1])
