"""How long the cells of a sweep have taken, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ndsnn.config import TrainConfig
from ndsnn.evaluation.sweep.directory import SweepDirectory
from ndsnn.evaluation.sweep.display import CellRow
from ndsnn.evaluation.sweep.estimate import estimate_cell
from ndsnn.evaluation.sweep.grid import Cell
from ndsnn.evaluation.sweep.throughput import TYPICAL
from ndsnn.training.build import plan_epochs


class Clock:
    """Times the cells of a sweep.

    Args:
        directory: Of the sweep.
        cells: All of them.

    Raises:
        NdsnnError: A cell's sparsities cannot be had on its network, or its schedule does not fit.

    Attributes:
        taken: Seconds that each finished cell has taken.
    """

    def __init__(self, directory: SweepDirectory, cells: Sequence[Cell]) -> None:
        self._directory = directory
        self._epochs = {cell.name: plan_epochs(cell.config).epochs for cell in cells}
        self._cost = {cell.name: _expected_cost(cell) for cell in cells}
        self._kind = {cell.name: _kind(cell.config) for cell in cells}
        self._begun: dict[str, float] = {}
        self.taken: dict[str, float] = {}
        for cell in cells:
            self._note_if_finished(cell.name, 0.0)

    def begin(self, name: str) -> None:
        """Note that a cell begins, or goes on."""
        self._begun[name] = time.monotonic()

    def end(self, name: str) -> float:
        """Note that a cell no longer runs; return the seconds since `begin`."""
        seconds = time.monotonic() - self._begun.pop(name)
        self._note_if_finished(name, seconds)
        return seconds

    def row(self, name: str) -> CellRow:
        """Return how far a running cell is, by its metrics."""
        last = self._directory.last_epoch(name)
        if last is None:
            return CellRow(name, 0, self._epochs[name], None, None)
        return CellRow(name, last["epoch"], self._epochs[name], last["val_accuracy"], last["seconds"])

    def seconds_left(self, running: Sequence[CellRow], waiting: Sequence[str], slots: int) -> float | None:
        """Return the seconds until all is done: the rest, shared by the slots, but no less than the longest cell.

        Args:
            running: The cells that run.
            waiting: Names of those that are to be started.
            slots: How many run at once.

        Returns:
            None while a cell is left of which nothing is known.
        """
        left = [self._rest(row) for row in running] + [self._whole(name) for name in waiting]
        known = [seconds for seconds in left if seconds is not None]
        if len(known) < len(left):
            return None
        return max(sum(known) / slots, *known) if known else 0.0

    def _rest(self, row: CellRow) -> float | None:
        if row.epochs is None or row.epoch_seconds is None:
            return self._whole(row.name)
        return row.epoch_seconds * (row.epochs - row.epoch)

    def _whole(self, name: str) -> float | None:
        """Return the seconds that a cell should take: its cost at the pace of cells of the same network and data.

        Where none of those has finished, at the pace of all.
        """
        cost = self._cost[name]
        if cost is None:
            alike = [s / self._epochs[n] for n, s in self.taken.items() if self._kind[n] == self._kind[name]]
            return sum(alike) / len(alike) * self._epochs[name] if alike else None
        paced = {other: known for other in self.taken if (known := self._cost[other]) is not None}
        paced = {other: c for other, c in paced.items() if self._kind[other] == self._kind[name]} or paced
        if not paced:
            return None
        return cost * sum(self.taken[other] for other in paced) / sum(paced.values())

    def _note_if_finished(self, name: str, seconds: float) -> None:
        """Take what the summary says of all its training, or `seconds` where those are more."""
        run = self._directory.run(name)
        if run.exists and run.finished:
            self.taken[name] = max(seconds, float(run.read_summary()["seconds"]))


def _expected_cost(cell: Cell) -> float | None:
    """Return seconds of a typical machine; None where the size of the data is not known beforehand."""
    found = estimate_cell(cell.name, cell.config)
    return None if found is None else TYPICAL.seconds(found)


def _kind(config: TrainConfig) -> tuple[object, ...]:
    return config.data, config.model, config.engine, config.precision
