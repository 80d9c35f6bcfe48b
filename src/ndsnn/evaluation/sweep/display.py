"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ndsnn.training.display import duration

LIVE_SECONDS = 1.0
"""Between two drawings on a terminal."""

LINE_SECONDS = 60.0
"""Between two lines about running cells elsewhere."""


@dataclass(frozen=True)
class CellRow:
    """A running cell.

    Args:
        name: Its name.
        epoch: Epochs that are done.
        epochs: Epochs of the whole run, if known.
        accuracy: On the validation images after the last epoch done; None before the first.
        epoch_seconds: Of the last epoch done; None before the first.
    """

    name: str
    epoch: int
    epochs: int | None
    accuracy: float | None
    epoch_seconds: float | None


@dataclass(frozen=True)
class Status:
    """How a sweep stands.

    Args:
        running: The running cells.
        done: Number of finished cells.
        failed: Number of cells that failed.
        waiting: Number of cells that are to be started.
        seconds_left: Until all are finished; None where nothing is known yet.
    """

    running: list[CellRow]
    done: int
    failed: int
    waiting: int
    seconds_left: float | None

    def line(self) -> str:
        """Return the counts and the time left."""
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        return f"{self.done} done, {self.failed} failed, {len(self.running)} running, {self.waiting} waiting{left}"


class SweepDisplay:
    """Shows a sweep on a console.

    Args:
        console: Where to; live only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._last = time.monotonic()

    def __enter__(self) -> SweepDisplay:
        if self._live is not None:
            self._live.start()
            self._last = 0.0
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, text: str) -> None:
        """Print a line above the live table."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, status: Callable[[], Status]) -> None:
        """Show how the sweep stands, if it is time to; `status` is called only then."""
        now = time.monotonic()
        if now - self._last < (LINE_SECONDS if self._live is None else LIVE_SECONDS):
            return
        self._last = now
        if self._live is not None:
            self._live.update(status_table(status()), refresh=True)
        else:
            for text in status_lines(status()):
                self.line(text)


def status_table(status: Status) -> Group:
    """Return the running cells as a table, with the counts below."""
    table = Table(box=box.SIMPLE)
    for heading in ("running", "epoch", "val accuracy", "s/epoch"):
        table.add_column(heading, justify="left" if heading == "running" else "right", overflow="fold")
    for row in status.running:
        table.add_row(row.name, *_figures(row))
    return Group(table, Text(status.line()))


def status_lines(status: Status) -> list[str]:
    """Return the same as plain lines."""
    lines = []
    for row in status.running:
        epoch, accuracy, seconds = _figures(row)
        lines.append(f"  {row.name}: epoch {epoch}" + (f", val {accuracy}, {seconds} s/epoch" if accuracy else ""))
    return [*lines, status.line()]


def _figures(row: CellRow) -> tuple[str, str, str]:
    return (
        f"{row.epoch}/{'?' if row.epochs is None else row.epochs}",
        "" if row.accuracy is None else f"{row.accuracy:.2%}",
        "" if row.epoch_seconds is None else f"{row.epoch_seconds:.1f}",
    )
