"""Kills a training run with SIGKILL again and again, resumes it, and compares its end with a run left alone.

    python benchmarks/kill_runs.py --kills 100

Half of the kills come at a random moment after the process has begun; the others wait for a checkpoint to be
written and hit it, between two of its file operations or inside one. Every run that gets to its end must have the
weights, masks, optimizer state, rows and accuracies of the run that was left alone, bit for bit. Exit code 1 if
one has not.

Each process is a fork of this one, which has imported everything; from there on it is `ndsnn train`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import ndsnn.training.run
from ndsnn import data
from ndsnn.cli import main as ndsnn_command
from ndsnn.config_parser import parse_train
from ndsnn.errors import CheckpointError
from ndsnn.training.checkpoint import has_checkpoint, load_checkpoint

SETTINGS = {
    "data.name": "digits",
    "data.image_size": "8",
    "model.name": "vgg",
    "model.layers": "[8,M,16,M]",
    "model.time_steps": "2",
    "method.name": "ndsnn",
    "method.initial_sparsity": "0.5",
    "method.final_sparsity": "0.9",
    "method.update_every": "3",
    "epochs": "6",
    "batch_size": "128",
    "threads": "1",
    "checkpoint_every": "1",
}
TIMES = ("seconds", "images_per_second", "peak_memory_mb")
SAME = ("test_accuracy", "val_accuracy", "best_epoch", "best_test_accuracy", "layers", "final_sparsity")
POLL_SECONDS = 0.0005


class Process:
    """A run that begins, or goes on, in a process of its own.

    Args:
        run: Its directory; what it prints is appended to the file beside it that ends in .log.
    """

    code: int | None

    def __init__(self, run: Path) -> None:
        arguments = [f"--{name}={value}" for name, value in SETTINGS.items()] + [f"--output={run}"]
        if (run / "config.yaml").is_file():
            arguments.append("--resume")
        self.run, self.log, self.code = run, run.with_suffix(".log"), None
        self._pid = os.fork()
        if not self._pid:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                code = ndsnn_command(["train", *arguments])
            finally:
                os._exit(code)

    def poll(self, wait: bool = False) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def kill(self) -> bool:
        """Kill it; return whether it was still running."""
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
        return self.poll(wait=True) == -signal.SIGKILL

    def wait_for(self, path: Path, there: bool) -> None:
        """Wait until a file is there, or is not, or the process has ended."""
        while path.exists() != there and self.poll() is None:
            time.sleep(POLL_SECONDS)

    def require_good_end(self) -> None:
        """Wait for the end, which must be that of a finished run."""
        if self.poll(wait=True) != 0:
            raise RuntimeError(f"exit code {self.code}; the end of its log: {self.log.read_text()[-2000:]}")


def result_of(run: Path) -> dict[str, Any]:
    """Return everything of a finished run that does not depend on the clock."""
    tensors = load_file(run / "checkpoints" / "last.safetensors")
    found: dict[str, Any] = {key: (str(t.dtype), t.numpy().tobytes()) for key, t in tensors.items()}
    for name in ("metrics.jsonl", "topology.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    summary = json.loads((run / "summary.json").read_text())
    return found | {key: summary[key] for key in SAME}


def kill_at_some_time(process: Process, generator: random.Random, longest: float) -> bool:
    """Kill a process at a random moment, or in a random save; return whether it was still running."""
    if generator.random() < 0.5:
        deadline = time.monotonic() + generator.uniform(0, longest)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return process.kill()
    file = process.run / "checkpoints" / generator.choice(("last.safetensors.tmp", "last.json.tmp"))
    delay = generator.choice((0.0, generator.uniform(0, 0.005)))
    for _ in range(generator.randint(0, 20)):
        process.wait_for(file, there=True)
        process.wait_for(file, there=False)
    process.wait_for(file, there=True)
    time.sleep(delay)
    return process.kill()


def temporary_files(run: Path) -> dict[str, int]:
    """Return the files of a checkpoint that is being written, and when each was written to."""
    return {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").glob("*.tmp")}


def state_after_kill(run: Path, before: dict[str, int]) -> str:
    """Say what a kill has left: whether it came inside a save, and which checkpoint is there.

    Args:
        run: Its directory.
        before: Its temporary files when the process began, left by an earlier kill.
    """
    checkpoints = run / "checkpoints"
    if not checkpoints.is_dir():
        return "before there was a run"
    present = temporary_files(run)
    temporary = bool(present.items() - before.items())
    if present and not temporary:
        return "before a resumed process has touched what an earlier kill left"
    where = "inside a save" if temporary else "between saves"
    if not has_checkpoint(checkpoints):
        return f"{where}: no checkpoint yet"
    try:
        found = load_checkpoint(checkpoints)
    except CheckpointError as error:
        return f"LOST: {error}"
    return f"{where}: the {'new' if found.unsettled else 'old' if temporary else 'last'} checkpoint is there"


def kill_often(place: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill runs as often as asked for, and let each go to its end.

    Returns:
        The number of kills and runs, what the kills have left, and the runs that ended otherwise.
    """
    generator = random.Random(seed)
    begin = time.monotonic()
    Process(place / "whole").require_good_end()
    longest = time.monotonic() - begin
    expected = result_of(place / "whole")
    left: Counter[str] = Counter()
    different: list[str] = []
    runs, done = 0, 0
    while done < kills:
        runs += 1
        run = place / f"run{runs}"
        while done < kills:
            before = temporary_files(run)
            process = Process(run)
            if not kill_at_some_time(process, generator, longest):
                process.require_good_end()
                break
            done += 1
            finished = (run / "summary.json").is_file()
            left["after the summary was written" if finished else state_after_kill(run, before)] += 1
            if finished:
                break
        if not (run / "summary.json").is_file():
            Process(run).require_good_end()
        if result_of(run) != expected:
            different.append(run.name)
    return {"kills": done, "runs": runs, "left": dict(left), "different": different}


def import_everything() -> None:
    """Do beforehand what takes a process long and writes nothing."""
    torch.set_num_threads(1)
    parse_train([f"--{name}={value}" for name, value in SETTINGS.items()])
    data.load("digits", image_size=8)
    assert ndsnn.training.run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how often (default: 100)")
    parser.add_argument("--epochs", default=SETTINGS["epochs"], help="of each run, 11 steps each (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments as far as that is possible")
    options = parser.parse_args()
    SETTINGS["epochs"] = options.epochs
    import_everything()
    with tempfile.TemporaryDirectory() as place:
        found = kill_often(Path(place), options.kills, options.seed)
    inside = sum(count for what, count in found["left"].items() if what.startswith("inside a save"))
    print(f"{found['kills']} kills of {found['runs']} runs, {inside} of them inside a save; they left:")
    for what, count in sorted(found["left"].items(), key=lambda item: -item[1]):
        print(f"  {count:4} {what}")
    lost = any(what.startswith("LOST") for what in found["left"])
    print(f"{found['runs'] - len(found['different'])} of {found['runs']} runs ended bit-equal to one left alone")
    return 1 if found["different"] or lost else 0


if __name__ == "__main__":
    sys.exit(main())
