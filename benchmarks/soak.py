"""Trains for a long time with frequent rewiring and watches the process: memory, threads, files, connections.

    python benchmarks/soak.py --seconds 3600

`ndsnn train` with RigL at a constant sparsity, an update every 2 steps and a checkpoint every 5. After a warm-up,
the resident memory must not grow (a line is fitted), the numbers of threads and of open files must stay, and every
layer must have exactly as many connections after each of its updates as before. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndsnn.training.checkpoint import load_checkpoint

SETTINGS = {
    "data.name": "digits",
    "data.image_size": "8",
    "model.name": "vgg",
    "model.layers": "[16,M,32,M]",
    "model.time_steps": "2",
    "method.name": "rigl",
    "method.final_sparsity": "0.9",
    "method.update_every": "2",
    "epochs": "100000",
    "batch_size": "128",
    "threads": "1",
    "checkpoint_every": "5",
}
LIMIT_MB = 2.0
"""Growth of the fitted resident memory over the whole measurement that counts as none."""


@dataclass(frozen=True)
class Sample:
    """What the process has at a moment.

    Args:
        seconds: Since its begin.
        memory_mb: Resident, 10⁶ bytes.
        threads: Number of them.
        files: Open descriptors.
    """

    seconds: float
    memory_mb: float
    threads: int
    files: int


def sample(process: subprocess.Popen[bytes], begin: float) -> Sample:
    """Read what Linux says of a process."""
    place = Path("/proc") / str(process.pid)
    lines = (line.split(":", 1) for line in (place / "status").read_text().splitlines())
    status = {name: value.strip() for name, value in lines}
    memory = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return Sample(time.monotonic() - begin, memory, int(status["Threads"]), len(list((place / "fd").iterdir())))


def watch(run: Path, seconds: float, every: float) -> list[Sample]:
    """Train for so long after the first epoch and return what was seen; the run is stopped by SIGTERM.

    Raises:
        RuntimeError: It ended by itself, or not with a checkpoint.
    """
    with open(run.with_suffix(".log"), "wb") as log:
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        command = [sys.executable, "-m", "ndsnn", "train", *options, f"--output={run}"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    begin = time.monotonic()
    samples: list[Sample] = []
    try:
        while process.poll() is None and (not samples or samples[-1].seconds - samples[0].seconds < seconds):
            time.sleep(every)
            if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size:
                samples.append(sample(process, begin))
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    finally:
        process.kill()
    if code != 128 + signal.SIGTERM:
        raise RuntimeError(f"exit code {code}; the end of its log: {run.with_suffix('.log').read_text()[-2000:]}")
    return samples


def connections(run: Path) -> tuple[int, list[str]]:
    """Return the number of topology updates and what is wrong with the connections of a layer."""
    alive: dict[str, int] = {}
    steps, wrong = set(), []
    with open(run / "topology.jsonl", encoding="utf-8") as file:
        for row in map(json.loads, file):
            steps.add(row["step"])
            before = alive.setdefault(row["layer"], row["nnz"])
            if row["nnz"] != before or row["dropped"] != row["grown"]:
                wrong.append(f"{row['layer']} at step {row['step']}: {before} → {row['nnz']}")
    layers = load_checkpoint(run / "checkpoints").state["network"]["layers"]
    saved = {key.removesuffix(".weight"): entry["alive"] for key, entry in layers.items()}
    wrong += [f"{name}: {count} in the rows, {saved.get(name)} in the checkpoint" for name, count in alive.items()
              if saved.get(name) != count]  # fmt: skip
    return len(steps), wrong


def judge(samples: list[Sample]) -> tuple[dict[str, Any], list[str]]:
    """Return figures of the samples after the warm-up, and what has grown."""
    warm = [
        one
        for one in samples
        if one.seconds >= samples[0].seconds + 0.2 * (samples[-1].seconds - samples[0].seconds)
    ]
    slope, _ = statistics.linear_regression([one.seconds for one in warm], [one.memory_mb for one in warm])
    length = warm[-1].seconds - warm[0].seconds
    half = len(warm) // 2
    figures: dict[str, Any] = {
        "measured_seconds": length,
        "samples": len(warm),
        "memory_mb": statistics.mean(one.memory_mb for one in warm),
        "growth_mb": slope * length,
        "growth_mb_per_hour": slope * 3600,
    }
    grown = [f"memory by {figures['growth_mb']:.2f} MB"] if figures["growth_mb"] > LIMIT_MB else []
    for name in ("threads", "files"):
        parts = [statistics.median(getattr(one, name) for one in part) for part in (warm[:half], warm[half:])]
        figures[name] = parts
        grown += [f"{name} from {parts[0]} to {parts[1]}"] if parts[1] > parts[0] else []
    return figures, grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="how long (default: 3600)")
    parser.add_argument("--every", type=float, default=2, help="seconds between two samples (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        samples = watch(run, options.seconds, options.every)
        if len(samples) < 10:
            raise SystemExit(f"only {len(samples)} samples; train for longer than {options.seconds} s")
        updates, wrong = connections(run)
        epochs = (run / "metrics.jsonl").read_bytes().count(b"\n")
    figures, grown = judge(samples)
    print(
        f"{epochs} epochs, {updates} topology updates; after the warm-up {figures['measured_seconds']:.0f} s with "
        f"{figures['samples']} samples\nmemory {figures['memory_mb']:.1f} MB, fitted growth "
        f"{figures['growth_mb']:+.3f} MB ({figures['growth_mb_per_hour']:+.3f} MB per hour)\n"
        f"threads {figures['threads']}, open files {figures['files']} (medians of both halves)\n"
        f"connections: {len(wrong)} deviations"
    )
    for problem in (*grown, *wrong[:10]):
        print(f"FAIL: {problem}")
    print("FAIL" if grown or wrong else "PASS")
    return 1 if grown or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
