"""Grids of very small runs, and a launcher that only pretends."""

import json
from io import StringIO
from pathlib import Path

import yaml
from rich.console import Console

from ndsnn.config_parser import read_config
from ndsnn.evaluation.sweep.display import SweepDisplay
from ndsnn.evaluation.sweep.launchers import Ended, Job
from ndsnn.training.run_directory import RunDirectory

BASE = {
    "data": {"name": "digits", "image_size": 8},
    "model": {"name": "vgg", "layers": [4, "M", 8, "M"], "time_steps": 2},
    "epochs": 2,
    "batch_size": 128,
}


def write_grid(path: Path, *blocks: dict, **more) -> Path:
    """Write a grid of blocks with the base of this module."""
    path.write_text(yaml.safe_dump({"name": "tiny", "base": BASE, "grids": list(blocks)} | more))
    return path


def quiet() -> SweepDisplay:
    return SweepDisplay(Console(file=StringIO(), width=200))


def said(display: SweepDisplay) -> str:
    return display.console.file.getvalue()


class PretendLauncher:
    """Ends each job at the next poll: with a summary, or by the code that `codes` gives its name.

    A job in `slow` goes on until it is told to stop.
    """

    def __init__(self, slots: int = 1, codes: dict[str, int] | None = None, on_start=None, slow=()) -> None:
        self.slots, self.codes, self.on_start = slots, codes or {}, on_start
        self.slow = slow
        self.started: list[str] = []
        self.dense_runs: dict[str, str | None] = {}
        self.most = 0
        self.running: dict[str, Job] = {}
        self.stopped = False

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self.running[job.name] = job
        self.most = max(self.most, len(self.running))
        config = read_config(job.config)
        self.dense_runs[job.name] = config.dense_run
        run = RunDirectory(job.run)
        if not run.exists:
            run.create(job.config.read_text())
        if self.on_start:
            self.on_start(job)

    def poll(self) -> list[Ended]:
        ended = []
        for name, job in list(self.running.items()):
            if name in self.slow and not self.stopped:
                continue
            del self.running[name]
            code = 143 if self.stopped else self.codes.get(name, 0)
            if code == 0:
                summary = {"test_accuracy": 0.5, "seconds": 1.0}
                (job.run / "summary.json").write_text(json.dumps(summary))
            ended.append(Ended(name, code, "" if code == 0 else f"ended with {code}"))
        return ended

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.running.clear()
