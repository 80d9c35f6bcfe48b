"""Do the engines train to the same end? The same runs on the reference, natively and with mixed precision.

    python benchmarks/accuracy.py --contestants reference native --sparsities 0.95 --seeds 0 1 2
    python benchmarks/accuracy.py --contestants native mixed --sparsities 0.95 0.99 --seeds 0 1 2 3 4

Every run is a run directory of `ndsnn train` under --output; those that are finished are not run again. Prints the
accuracy on the test set after the last epoch, mean and standard deviation over the seeds, each seed's, and the
validation accuracy by epoch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

CONTESTANTS = {
    "reference": ("--engine", "reference"),
    "native": ("--engine", "native"),
    "mixed": ("--engine", "native", "--precision", "mixed"),
}


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="experiments/quick/fashion-vgg.yaml")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=["native", "mixed"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.95, 0.99])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/accuracy"))
    options = parser.parse_args()
    cases = list(itertools.product(options.sparsities, options.contestants))
    for (sparsity, contestant), seed in itertools.product(cases, options.seeds):
        train(options, sparsity, contestant, seed)
    for sparsity, contestant in cases:
        report(options, sparsity, contestant)


def place(options: argparse.Namespace, sparsity: float, contestant: str, seed: int) -> Path:
    """Return the run directory of a run."""
    return Path(options.output) / f"{contestant}-{sparsity:g}-seed{seed}"


def train(options: argparse.Namespace, sparsity: float, contestant: str, seed: int) -> None:
    """Train, unless that is done."""
    run = place(options, sparsity, contestant, seed)
    if (run / "summary.json").exists():
        return
    command = [sys.executable, "-m", "ndsnn", "train", "--config", options.config, *CONTESTANTS[contestant]]
    command += ["--method.final_sparsity", f"{sparsity:g}", "--seed", str(seed), "--threads", str(options.threads)]
    command += ["--output", str(run), "--overwrite", "true"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def report(options: argparse.Namespace, sparsity: float, contestant: str) -> None:
    """Print one case."""
    runs = [place(options, sparsity, contestant, seed) for seed in options.seeds]
    tests = [100 * json.loads((run / "summary.json").read_text())["test_accuracy"] for run in runs]
    curves = [[100 * float(row["val_accuracy"]) for row in rows(run / "metrics.jsonl")] for run in runs]
    mean = [statistics.mean(epoch) for epoch in zip(*curves, strict=True)]
    spread = statistics.stdev(tests) if len(tests) > 1 else float("nan")
    print(
        f"sparsity {sparsity:g}, {contestant}: {statistics.mean(tests):.2f} ± {spread:.2f} % of the test set "
        f"(n = {len(tests)}: {', '.join(f'{test:.2f}' for test in tests)}); "
        f"validation by epoch {', '.join(f'{epoch:.2f}' for epoch in mean)}"
    )


def rows(path: Path) -> list[dict[str, float]]:
    """Return the epochs of a run."""
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
