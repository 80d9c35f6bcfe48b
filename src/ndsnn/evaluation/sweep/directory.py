"""The directory of a sweep: one run directory per cell, the grid as resolved, what happened, and logs."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from ndsnn.atomic import exclusive_lock, write_atomically
from ndsnn.config import TrainConfig, to_plain
from ndsnn.config_parser import read_config
from ndsnn.errors import ConfigError, RunError
from ndsnn.evaluation.sweep.grid import Cell, Grid, differences, identity
from ndsnn.json_lines import append_rows, read_rows
from ndsnn.training.run_directory import CONFIG, METRICS, RunDirectory

SWEEP = "sweep.yaml"
EVENTS = "cells.jsonl"
LOGS = "logs"
CONFIGS = "configs"
LOCK = ".lock"
STOP = ".stop"
_EVENT_TEXTS = ("cell", "event", "identity")
_CELL_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")


class SweepDirectory:
    """The files of one sweep.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, name: str) -> RunDirectory:
        """Return the run directory of a cell."""
        return RunDirectory(self.path / name)

    def log(self, name: str) -> Path:
        """Return the file with all that a cell's run has printed."""
        return self.path / LOGS / f"{name}.log"

    def config(self, name: str) -> Path:
        """Return the file with the settings that a cell was started with."""
        return self.path / CONFIGS / f"{name}.yaml"

    def require_usable(self) -> None:
        """Check that the directory is new, empty or a sweep's.

        Raises:
            RunError: It holds something else.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir() or (any(self.path.iterdir()) and not (self.path / SWEEP).is_file()):
            raise RunError(f"{self.path} exists and is no sweep directory; choose another with -o")

    def require_same_cells(self, grid: Grid) -> None:
        """Check that each run that is there already is the one that the grid asks for.

        Raises:
            ConfigError: One was begun with other settings, or needs a dense run that is gone.
        """
        for cell in grid.cells:
            run = self.run(cell.name)
            if not run.exists:
                continue
            stored = read_config(run.path / CONFIG)
            different = differences(stored, cell.config)
            if different:
                raise ConfigError(
                    f"the run in {run.path} has {'; '.join(different)}; name another directory with -o, "
                    f"or move the run away"
                )
            if stored.dense_run and not run.finished and not RunDirectory(stored.dense_run).exists:
                raise ConfigError(
                    f"the run in {run.path} measures its cost against the dense run {stored.dense_run}, which is "
                    f"not there; call ndsnn sweep from the directory where it was begun, or bring that run back"
                )

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Keep other sweeps out meanwhile; the runs that are started inherit the lock.

        Returns:
            The descriptor that holds the lock.

        Raises:
            RunError: A sweep, or a run that one has started, is at work here.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                descriptor = stack.enter_context(exclusive_lock(self.path / LOCK))
            except BlockingIOError as error:
                raise RunError(
                    f"a sweep, or a run that one has started, is at work in {self.path}; wait for it or stop it"
                ) from error
            except OSError as error:
                raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error
            yield descriptor

    def prepare(self, grid: Grid) -> None:
        """Write the grid as resolved and make the folders."""
        cells = {}
        for cell in grid.cells:
            cells[cell.name] = to_plain(cell.config) | {"dense_run": cell.config.dense_run or cell.dense}
            cells[cell.name].pop("output")
        text = yaml.safe_dump(grid.source | {"cells": cells}, sort_keys=False, allow_unicode=True)
        try:
            for folder in (LOGS, CONFIGS):
                (self.path / folder).mkdir(exist_ok=True)
            write_atomically(self.path / SWEEP, text.encode())
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error

    def with_known_names(self, grid: Grid) -> Grid:
        """Return the grid with each cell under the name that it has here already, under another grid perhaps."""
        known = {
            event["identity"]: event["cell"] for event in self.events() if {"identity", "cell"} <= event.keys()
        }
        if foreign := [name for name in known.values() if not _CELL_NAME.fullmatch(name)]:
            raise RunError(
                f"{self.path / EVENTS} names a cell {foreign[0]!r}, which is no name of a run directory"
            )
        names = {cell.name: known.get(digest(cell.config)) for cell in grid.cells}
        taken = {name for name in names.values() if name is not None}
        for own in [own for own, name in names.items() if name is None]:
            choices = itertools.chain([own], (f"{own}-{number}" for number in itertools.count(2)))
            names[own] = next(name for name in choices if name not in taken)
            taken.add(str(names[own]))
        cells = [
            Cell(str(names[cell.name]), cell.config, None if cell.dense is None else names[cell.dense])
            for cell in grid.cells
        ]
        return Grid(grid.name, grid.directory, tuple(cells), grid.source)

    def record_start(self, cell: Cell, resumed: bool) -> None:
        """Append that a cell was started, with what it takes to know it again."""
        self.record(cell.name, "resumed" if resumed else "started", identity=digest(cell.config))

    def record(self, cell: str, event: str, **more: Any) -> None:
        """Append what happened to a cell, and bring it to the disk."""
        row = {"cell": cell, "event": event, "time": round(time.time(), 3)} | more
        try:
            append_rows(self.path / EVENTS, [row])
        except OSError as error:
            raise RunError(f"cannot write {self.path / EVENTS}: {error.strerror or error}") from error

    def events(self) -> list[dict[str, Any]]:
        """Return all that happened; a line that was cut off by a kill, or is none of ours, is left out."""
        rows = read_rows(self.path / EVENTS)[0]
        return [row for row in rows if all(isinstance(row.get(key, ""), str) for key in _EVENT_TEXTS)]

    def failures(self) -> dict[str, Mapping[str, Any]]:
        """Return, of each cell whose last event is a failure, that event."""
        last = {event["cell"]: event for event in self.events() if "cell" in event}
        return {name: event for name, event in last.items() if event.get("event") == "failed"}

    def last_epoch(self, name: str) -> Mapping[str, Any] | None:
        """Return the last row of a cell's metrics.jsonl, or None; reads the end of the file only."""
        try:
            with open(self.path / name / METRICS, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                lines = file.read().split(b"\n")[:-1]
            row = json.loads(lines[-1])
        except (OSError, ValueError, IndexError):
            return None
        return row if isinstance(row, dict) else None


def digest(config: TrainConfig) -> str:
    """Return a short form of a configuration's identity."""
    return hashlib.sha256(identity(config).encode()).hexdigest()[:16]
