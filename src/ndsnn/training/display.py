"""What a run shows while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Display:
    """Shows progress on a console.

    Args:
        console: Where to; live only if it is a terminal.
        epochs: Epochs of the whole run.
        total_steps: Steps of the whole run.
        done: Steps done before, by the run that is resumed.
    """

    def __init__(self, console: Console, epochs: int, total_steps: int, done: int) -> None:
        self.console, self.epochs, self.total_steps, self.done = console, epochs, total_steps, done
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._images = 0
        self._begin = time.perf_counter()
        self._last = 0.0

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task("epoch 1", total=self.total_steps, completed=self.done, figures="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, text: str) -> None:
        """Print a line above the live one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def batch(
        self, epoch: int, step: int, images: int, loss: float, accuracy: float, sparsity: float, rate: float
    ) -> None:
        """Show where the run is; called after every step, drawn a few times a second."""
        self._images += images
        now = time.perf_counter()
        if self._live is None or self._task is None or (now - self._last < 0.2 and step < self.total_steps):
            return
        self._last = now
        figures = (
            f"loss {loss:.3f}  acc {accuracy:.1%}  sparsity {sparsity:.1%}  firing {rate:.3f}  "
            f"{self._images / (now - self._begin):.0f} img/s"
        )
        self._live.update(self._task, completed=step, description=f"epoch {epoch}/{self.epochs}", figures=figures)

    def epoch(self, row: Mapping[str, Any], left: float) -> None:
        """Print the figures of an epoch and the time left in seconds."""
        self.line(
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  loss {row['train_loss']:.4f}  "
            f"train {row['train_accuracy']:6.2%}  val {row['val_accuracy']:6.2%}  "
            f"sparsity {row['sparsity']:7.3%}  firing {row['firing_rate']:.4f}  "
            f"{row['images_per_second']:.0f} img/s  {row['seconds']:.1f} s  left {duration(left)}"
        )


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TransferDisplay:
    """Shows what preparing a data set is busy with; called as `ndsnn.data.Progress`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> TransferDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes or images of `what` are through."""
        if not self._tasks:
            self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)
