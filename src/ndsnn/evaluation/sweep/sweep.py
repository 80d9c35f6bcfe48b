"""`ndsnn sweep`: brings every cell of a grid to its end, some at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from ndsnn.atomic import write_atomically
from ndsnn.config_parser import config_to_yaml
from ndsnn.errors import RunError
from ndsnn.evaluation.sweep.directory import SweepDirectory
from ndsnn.evaluation.sweep.display import Status, SweepDisplay
from ndsnn.evaluation.sweep.grid import Cell, Grid
from ndsnn.evaluation.sweep.launchers import STOPPED, Ended, Job, Launcher
from ndsnn.evaluation.sweep.time_left import Clock
from ndsnn.training.signals import RunInterrupted, StopRequest, stop_signals

POLL_SECONDS = 0.2

DONE, FAILED, WAITING, RUNNING, INTERRUPTED = "done", "failed", "waiting", "running", "interrupted"


@dataclass
class Outcome:
    """How the cells of a sweep stand.

    Args:
        done: Names of the finished cells.
        failed: Last message of each cell that failed.
        left: Names of the others.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all cells are finished."""
        return not self.failed and not self.left


class Sweep:
    """Runs the cells of a grid that are not finished.

    Args:
        grid: The cells, under the names that they have in the directory.
        directory: Of the sweep, prepared and locked.
        launcher: What runs them.
        display: What shows how it goes.
        threads: CPU threads of each cell.
        retry_failed: Whether cells that failed in an earlier call are tried again.
    """

    def __init__(
        self,
        grid: Grid,
        directory: SweepDirectory,
        launcher: Launcher,
        display: SweepDisplay,
        threads: int,
        retry_failed: bool = False,
    ) -> None:
        self.directory, self.launcher, self.display, self.threads = directory, launcher, display, threads
        self.cells = {cell.name: cell for cell in grid.cells}
        self.clock = Clock(directory, list(grid.cells))
        self.messages: dict[str, str] = {}
        failures = {} if retry_failed else directory.failures()
        self.state = {name: self._first_state(name, name in failures) for name in self.cells}
        for name in self._in(FAILED):
            self.messages[name] = str(failures[name].get("message", ""))

    def run(self) -> Outcome:
        """Run all cells that wait.

        Returns:
            How the cells stand in the end.

        Raises:
            RunInterrupted: A signal came; the cells that ran have saved checkpoints.
        """
        self._announce()
        with stop_signals() as stop, self.display:
            try:
                self._loop(stop)
            finally:
                self.launcher.close()
        if stop.signal_number is not None and not self.outcome().complete:
            left = len(self.cells) - len(self._in(DONE))
            raise RunInterrupted(
                f"stopped; {left} of {len(self.cells)} cells in {self.directory.path} are not finished, those "
                f"that ran have saved checkpoints; the same command goes on",
                stop.signal_number,
            )
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return how the cells stand."""
        left = [*self._in(WAITING), *self._in(RUNNING), *self._in(INTERRUPTED)]
        return Outcome(self._in(DONE), {name: self.messages[name] for name in self._in(FAILED)}, left)

    def _loop(self, stop: StopRequest) -> None:
        stopping = False
        while True:
            for ended in self.launcher.poll():
                self._end(ended)
            if stop() and not stopping:
                stopping = True
                self.display.line("stopping: the running cells save checkpoints")
                self.launcher.stop()
            if not stopping:
                self._start_some(stop)
            if not self._in(RUNNING) and (stopping or not stop()):
                return
            self.display.update(self._status)
            time.sleep(POLL_SECONDS)

    def _first_state(self, name: str, failed: bool) -> str:
        run = self.directory.run(name)
        if run.exists and run.finished:
            return DONE
        return FAILED if failed else WAITING

    def _announce(self) -> None:
        done, failed = self._in(DONE), self._in(FAILED)
        begun = [name for name in self._in(WAITING) if self.directory.run(name).exists]
        self.display.line(
            f"{len(self.cells)} cells in {self.directory.path}: {len(done)} done, {len(begun)} to resume, "
            f"{len(self._in(WAITING)) - len(begun)} new, {len(failed)} failed before"
            + ("; try those again with --retry-failed" if failed else "")
        )

    def _start_some(self, stop: StopRequest) -> None:
        for name in self._in(WAITING):
            if stop() or len(self._in(RUNNING)) >= self.launcher.slots:
                return
            cell = self.cells[name]
            if cell.dense is None or self.state[cell.dense] in (DONE, FAILED, INTERRUPTED):
                self._start(cell)

    def _start(self, cell: Cell) -> None:
        run = self.directory.run(cell.name)
        resumed = run.exists
        dense_run = cell.config.dense_run
        if cell.dense is not None and self.state[cell.dense] == DONE:
            dense_run = str(self.directory.run(cell.dense).path)
        if not resumed:
            config = replace(cell.config, output=str(run.path), threads=self.threads, dense_run=dense_run)
            try:
                write_atomically(self.directory.config(cell.name), config_to_yaml(config).encode())
            except OSError as error:
                raise RunError(f"cannot write {self.directory.config(cell.name)}: {error}") from error
        job = Job(
            cell.name,
            self.directory.config(cell.name),
            run.path,
            self.directory.log(cell.name),
            self.threads,
            cell.config.data.root,
        )
        self.directory.record_start(cell, resumed)
        self.launcher.start(job)
        self.clock.begin(cell.name)
        self.state[cell.name] = RUNNING
        alone = cell.dense is not None and self.state[cell.dense] != DONE and not resumed
        self.display.line(
            f"{'resumed' if resumed else 'started'} {cell.name}"
            + (f", without relative cost: its dense run {cell.dense} did not finish" if alone else "")
        )

    def _end(self, ended: Ended) -> None:
        name = ended.name
        seconds = self.clock.end(name)
        run = self.directory.run(name)
        if ended.code == 0 and run.exists and run.finished:
            summary = run.read_summary()
            self.state[name] = DONE
            self.directory.record(name, "finished", seconds=seconds)
            figures = f"test accuracy {summary['test_accuracy']:.2%}, {seconds:.0f} s"
            self.display.line(f"done {name}: {figures}; {self._progress()}")
        elif ended.code in STOPPED:
            self.state[name] = INTERRUPTED
            self.directory.record(name, "interrupted", code=ended.code, seconds=seconds)
            self.display.line(f"interrupted {name}: {ended.message}")
        else:
            message = ended.message if ended.code else "ended without a summary"
            self.state[name], self.messages[name] = FAILED, message
            self.directory.record(name, "failed", code=ended.code, message=message, seconds=seconds)
            self.display.line(f"failed {name}: {message} (log: {self.directory.log(name)}); {self._progress()}")

    def _progress(self) -> str:
        done, failed = len(self._in(DONE)), len(self._in(FAILED))
        return f"{done} done, {failed} failed, {len(self.cells) - done - failed} left"

    def _status(self) -> Status:
        """Return what the display shows; called no more often than it draws."""
        running = [self.clock.row(name) for name in self._in(RUNNING)]
        waiting = self._in(WAITING)
        left = self.clock.seconds_left(running, waiting, self.launcher.slots)
        return Status(running, len(self._in(DONE)), len(self._in(FAILED)), len(waiting), left)

    def _in(self, state: str) -> list[str]:
        return [name for name, its in self.state.items() if its == state]
