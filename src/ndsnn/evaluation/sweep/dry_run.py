"""What a sweep would run: its cells, and an estimate of operations, time and disk of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ndsnn.evaluation.sweep.directory import SweepDirectory
from ndsnn.evaluation.sweep.estimate import Estimate, estimate_cell
from ndsnn.evaluation.sweep.grid import Cell, Grid
from ndsnn.evaluation.sweep.throughput import Throughput, measure


@dataclass(frozen=True)
class Planned:
    """A cell that would run.

    Args:
        cell: The cell.
        state: "done", "begun" or "new".
        estimate: What the whole cell costs; None where only its data tell.
        seconds: Its training time on this machine; None likewise.
    """

    cell: Cell
    state: str
    estimate: Estimate | None
    seconds: float | None


@dataclass(frozen=True)
class DryRun:
    """What a sweep would run.

    Args:
        name: Of the grid.
        directory: Of the sweep.
        cells: All cells.
        throughput: By which their time is estimated: one for each engine and precision that occur.
        workers: Cells at once.
    """

    name: str
    directory: SweepDirectory
    cells: list[Planned]
    throughput: list[Throughput]
    workers: int

    @property
    def left(self) -> list[Planned]:
        """The cells that are not finished."""
        return [planned for planned in self.cells if planned.state != "done"]

    def total(self, cells: list[Planned]) -> tuple[float, float, float]:
        """Return multiply-adds, seconds and bytes of cells that are known."""
        known = [(p.estimate, p.seconds or 0.0) for p in cells if p.estimate is not None]
        return (
            sum(found.operations for found, _ in known),
            sum(seconds for _, seconds in known) / self.workers,
            sum(found.disk_bytes for found, _ in known),
        )


def dry_run(grid: Grid, directory: SweepDirectory, threads: int, workers: int) -> DryRun:
    """Return what a sweep would run.

    Raises:
        NdsnnError: The sparsities of a cell cannot be had on its network, or its schedule does not fit.
    """
    measured: dict[tuple[str, str], Throughput] = {}
    cells = []
    for cell in grid.cells:
        found = estimate_cell(cell.name, cell.config)
        kind = cell.config.engine, cell.config.precision
        if found is not None and kind not in measured:
            measured[kind] = measure(threads, *kind)
        seconds = None if found is None else measured[kind].seconds(found)
        run = directory.run(cell.name)
        state = "new" if not run.exists else "done" if run.finished else "begun"
        cells.append(Planned(cell, state, found, seconds))
    return DryRun(grid.name, directory, cells, list(measured.values()), workers)


def print_dry_run(plan: DryRun, console: Console) -> None:
    """Print the cells with their costs, the totals, and where the time comes from."""
    title = f"{plan.name}: {len(plan.cells)} cells in {plan.directory.path}"
    table = Table(box=box.SIMPLE, title=title, title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("cell", "state", "epochs", "multiply-adds", "time", "disk"):
        table.add_column(heading, justify="left" if heading in ("cell", "state") else "right", no_wrap=True)
    for planned in plan.cells:
        table.add_row(planned.cell.name, planned.state, *_figures(planned))
    table.add_section()
    for label, cells in (("all", plan.cells), ("not finished", plan.left)):
        operations, seconds, disk = plan.total(cells)
        table.add_row(f"{label}: {len(cells)} cells", "", "", f"{operations:.2e}", long_time(seconds), _size(disk))
    console.print(table)
    each = "one cell at a time" if plan.workers == 1 else f"{plan.workers} cells at a time"
    notes = [
        "multiply-adds: of training, every input counted; the synaptic operations that a run counts are fewer by "
        "the firing rate",
        f"time: training only, {each}; {'; '.join(t.source for t in plan.throughput) or 'nothing measured'}",
    ]
    unknown = [planned for planned in plan.cells if planned.estimate is None]
    if unknown:
        notes.append(f"{len(unknown)} cells read a folder of images and are not in the totals")
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def dry_run_json(plan: DryRun) -> dict[str, Any]:
    """Return the same for `--json`."""
    operations, seconds, disk = plan.total(plan.left)
    return {
        "name": plan.name,
        "directory": str(plan.directory.path),
        "cells": [_cell_json(planned) for planned in plan.cells],
        "left": {"cells": len(plan.left), "operations": operations, "seconds": seconds, "disk_bytes": disk},
        "throughput": [
            {"per_operation": t.per_operation, "per_neuron_step": t.per_neuron_step, "source": t.source}
            for t in plan.throughput
        ],
    }


def long_time(seconds: float) -> str:
    """Return a duration in the largest unit that leaves a number above 1.5."""
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _cell_json(planned: Planned) -> dict[str, Any]:
    found = planned.estimate
    return {
        "name": planned.cell.name,
        "state": planned.state,
        "dense_run": planned.cell.dense,
        "epochs": None if found is None else found.epochs,
        "operations": None if found is None else found.operations,
        "seconds": planned.seconds,
        "disk_bytes": None if found is None else found.disk_bytes,
    }


def _figures(planned: Planned) -> tuple[str, str, str, str]:
    found = planned.estimate
    if found is None or planned.seconds is None:
        return str(planned.cell.config.epochs), "?", "?", "?"
    return (
        str(found.epochs),
        f"{found.operations:.2e}",
        long_time(planned.seconds),
        _size(found.disk_bytes),
    )


def _size(size: float) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
