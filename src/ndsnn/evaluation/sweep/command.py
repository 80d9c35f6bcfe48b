"""What `ndsnn sweep` does with its options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from ndsnn.errors import ConfigError
from ndsnn.evaluation.sweep.directory import STOP, SweepDirectory
from ndsnn.evaluation.sweep.display import SweepDisplay
from ndsnn.evaluation.sweep.dry_run import DryRun, dry_run
from ndsnn.evaluation.sweep.grid import read_grid
from ndsnn.evaluation.sweep.launchers import Launcher, LocalLauncher
from ndsnn.evaluation.sweep.sweep import Outcome, Sweep

LAUNCHERS = ("local", "ray")


@dataclass(frozen=True)
class SweepOptions:
    """How a grid is run.

    Args:
        grid: The grid file.
        output: Directory of the sweep; None makes runs/<directory or name of the grid>.
        workers: Cells that run at once; None: one locally, all that find CPUs on Ray.
        threads: CPU threads of each; None shares those of this machine.
        launcher: "local" or "ray".
        ray_address: Of the cluster; None takes RAY_ADDRESS, else begins one on this machine.
        retry_failed: Whether cells that failed in an earlier call are tried again.
    """

    grid: Path
    output: Path | None = None
    workers: int | None = None
    threads: int | None = None
    launcher: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 4096:
                raise ConfigError(f"{name} is {value}; it must be in 1 … 4096")
        if self.launcher not in LAUNCHERS:
            raise ConfigError(f"launcher is {self.launcher!r}; it must be one of {', '.join(LAUNCHERS)}")
        if self.ray_address is not None and self.launcher != "ray":
            raise ConfigError("ray_address is an option of --launcher ray")

    @property
    def threads_each(self) -> int:
        """CPU threads of a cell."""
        if self.threads is not None:
            return self.threads
        return max(1, len(os.sched_getaffinity(0)) // (self.workers or 1)) if self.launcher == "local" else 1


def run_sweep(options: SweepOptions, console: Console) -> tuple[Outcome, SweepDirectory]:
    """Run the cells of a grid that are not finished.

    Returns:
        How the cells stand in the end, and where they are.

    Raises:
        NdsnnError: The grid or a cell is wrong, or the directory is not to be had; nothing was started.
        RunInterrupted: A signal came; the cells that ran have saved checkpoints.
    """
    grid = read_grid(options.grid)
    directory = SweepDirectory(options.output or Path("runs") / grid.directory)
    directory.require_usable()
    with directory.locked() as lock:
        grid = directory.with_known_names(grid)
        directory.require_same_cells(grid)
        launcher = _launcher(options, lock, directory.path)
        try:
            directory.prepare(grid)
            sweep = Sweep(
                grid, directory, launcher, SweepDisplay(console), options.threads_each, options.retry_failed
            )
            return sweep.run(), directory
        finally:
            launcher.close()


def try_sweep(options: SweepOptions) -> DryRun:
    """Return what a sweep would run and cost; nothing is written.

    Raises:
        NdsnnError: The grid or a cell is wrong.
    """
    grid = read_grid(options.grid)
    directory = SweepDirectory(options.output or Path("runs") / grid.directory)
    directory.require_usable()
    if directory.path.exists():
        grid = directory.with_known_names(grid)
        directory.require_same_cells(grid)
    return dry_run(grid, directory, options.threads_each, options.workers or 1)


def outcome_json(outcome: Outcome, directory: SweepDirectory) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "directory": str(directory.path),
        "done": outcome.done,
        "failed": outcome.failed,
        "left": outcome.left,
    }


def _launcher(options: SweepOptions, lock: int, path: Path) -> Launcher:
    if options.launcher == "local":
        return LocalLauncher(options.workers or 1, lock)
    from ndsnn.evaluation.sweep.ray_launcher import RayLauncher

    return RayLauncher(options.ray_address, options.threads_each, options.workers, path / STOP)
