"""Reading run directories into records; what cannot be read is named, never dropped in silence."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ndsnn.config import TrainConfig, flatten
from ndsnn.errors import RunError
from ndsnn.training.run_directory import CONFIG, METRICS, SUMMARY, TOPOLOGY, RunDirectory

Rows = list[dict[str, Any]]

SETTINGS = "method.settings"
"""The one setting that is itself a mapping; its entries count as settings of their own."""


@dataclass(frozen=True)
class Problem:
    """A run directory, or a part of one, that a report has to do without.

    Args:
        run: Name of the run directory.
        reason: What is missing or broken, and what to do.
    """

    run: str
    reason: str


@dataclass(frozen=True)
class Record:
    """A finished run.

    Args:
        name: Name of its directory, seen from the folder that was asked for.
        path: Its directory.
        settings: All settings by dotted name, those the run does not state at their defaults.
        summary: Its summary.json.
        metrics: Its metrics.jsonl; empty where there is none.
    """

    name: str
    path: Path
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Rows

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def method(self) -> str:
        """Name of its method."""
        return str(self.settings["method.name"])

    @property
    def final_sparsity(self) -> float:
        """θf that was asked for; 0 for dense."""
        asked = self.settings["method.final_sparsity"]
        return float(self.summary["final_sparsity"] if asked is None else asked)

    @property
    def initial_sparsity(self) -> float:
        """θi that was asked for."""
        asked = self.settings["method.initial_sparsity"]
        return float(self.summary["initial_sparsity"] if asked is None else asked)

    @property
    def where(self) -> tuple[str, ...]:
        """Processor, threads, engine, precision and memory mode: what wall time depends on besides the work."""
        machine = self.summary.get("machine", {})
        threads = machine.get("threads", "?")
        return (
            str(machine.get("processor", "unknown processor")),
            f"{threads} thread{'' if threads == 1 else 's'}",
            f"{self.summary.get('engine', 'reference')} engine",
            str(self.settings["precision"]),
            f"memory {self.settings['memory']}",
        )

    @cached_property
    def topology(self) -> Rows:
        """Its topology.jsonl; empty where there is none."""
        return RunDirectory(self.path).read_rows(TOPOLOGY)


def read_runs(roots: Iterable[Path]) -> tuple[list[Record], list[Problem]]:
    """Read every run directory in or below `roots`.

    Args:
        roots: Run directories, or folders that contain some at any depth. The rounds of an LTH run belong to it.

    Returns:
        The finished runs in the order of their names, and what could not be read.

    Raises:
        RunError: A root does not exist, or none of them holds a run directory.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    found = sorted(_named_runs(roots))
    for name, path in found:
        try:
            record = _read(name, path)
        except RunError as error:
            problems.append(Problem(name, str(error).replace(str(path), name)))
            continue
        records.append(record)
        problems.extend(_missing_parts(record))
    if not found:
        raise RunError(f"there is no run directory in {', '.join(map(str, roots))}")
    return records, problems


def _named_runs(roots: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise RunError(f"{root} is no directory; give run directories or folders that contain some")
        real = root.resolve()
        for path in _walk(real):
            if path not in seen:
                seen.add(path)
                yield "/".join((real.name, *path.relative_to(real).parts)), path


def _walk(root: Path) -> Iterator[Path]:
    """Yield run directories; nothing below one and nothing hidden is looked at."""
    for folder, names, files in os.walk(root):
        if CONFIG in files or SUMMARY in files:
            names.clear()
            yield Path(folder)
        names[:] = sorted(name for name in names if not name.startswith("."))


def _read(name: str, path: Path) -> Record:
    run = RunDirectory(path)
    if not run.finished:
        done = len(run.read_rows(METRICS))
        raise RunError(f"not finished ({done} epochs done); go on with ndsnn train --output RUN --resume")
    summary = run.read_summary()
    run.require_intact_rows(summary)
    try:
        settings = stored_settings(summary["config"])
        record = Record(name, path, settings, summary, run.read_rows(METRICS))
        _check(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path / SUMMARY} is no summary of ndsnn train: {error!r}") from error
    return record


def _check(record: Record) -> None:
    """Check what every table relies on.

    Raises:
        RunError: A number is out of range, or rows are missing.
    """
    summary = record.summary
    accuracies = [summary["test_accuracy"], summary["val_accuracy"]]
    accuracies += [summary[key] for key in ("best_test_accuracy", "best_val_accuracy") if summary[key] is not None]
    for entry in summary.get("rounds", []):
        accuracies += [entry["test_accuracy"], entry["sparsity"]]
        if not (isinstance(entry["round"], int) and math.isfinite(entry["seconds"])):
            raise RunError(f"{record.path / SUMMARY} holds a round without number or seconds")
    for value in (*accuracies, record.final_sparsity, record.initial_sparsity, summary["final_sparsity"]):
        if not 0 <= value <= 1:
            raise RunError(f"{record.path / SUMMARY} holds {value} where a fraction must stand")
    if not all(math.isfinite(summary[key]) for key in ("seconds", "peak_memory_mb")) or "costs" not in summary:
        raise RunError(f"{record.path / SUMMARY} holds no costs, or some that are not finite")
    epochs = [row["epoch"] for row in record.metrics]
    if epochs and epochs != list(range(1, summary["epochs"] + 1)):
        raise RunError(f"{record.path / METRICS} does not hold the {summary['epochs']} epochs of the run in order")


def _missing_parts(record: Record) -> Iterator[Problem]:
    if not record.metrics:
        yield Problem(record.name, f"no {METRICS}: it is in the tables of accuracy, not in the curves")


def stored_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration by dotted name, with defaults where it says nothing.

    Lists become tuples, so that settings compare and hash.
    """
    flat = flatten(TrainConfig())
    flat.pop(SETTINGS)
    flat.update(_flatten(config, ""))
    return flat


def _flatten(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json_tuple(value)
    return flat


def json_tuple(value: Any) -> Any:
    """Return `value` with lists turned into tuples at every depth."""
    return tuple(json_tuple(item) for item in value) if isinstance(value, list) else value


def settings_key(settings: Mapping[str, Any]) -> str:
    """Return a text that is the same for the same settings, whatever their order."""
    return json.dumps({key: settings[key] for key in sorted(settings)})
