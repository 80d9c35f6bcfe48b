"""How the engine's training step grows with alive weights, T, batch and threads: VGG-16, everything else at rest.

    python benchmarks/scaling.py

Each line varies one of them; its cases are interleaved, and the median of the rounds counts. Prints milliseconds,
and what a unit costs against the first case.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import ndsnn
from ndsnn.sparse import sparse_layers


@dataclass(frozen=True)
class Case:
    """A step.

    Args:
        sparsity: Of the network.
        time_steps: T.
        batch: N.
        threads: Of the engine.
    """

    sparsity: float = 0.95
    time_steps: int = 5
    batch: int = 32
    threads: int = 2

    def step(self) -> tuple[Callable[[], None], int]:
        """Return a training step and the network's number of alive weights."""
        torch.manual_seed(0)
        net = ndsnn.models.vgg16(10, self.time_steps)
        ndsnn.sparsify(net, self.sparsity, generator=torch.Generator().manual_seed(0))
        accelerated = ndsnn.accelerate(net, backend="native")
        x, y = torch.randn(self.batch, 3, 32, 32), torch.randint(0, 10, (self.batch,))

        def step() -> None:
            torch.set_num_threads(self.threads)
            accelerated.zero_grad()
            ndsnn.losses.mean_step_cross_entropy(accelerated(x), y).backward()

        return step, sum(layer.nnz for layer in sparse_layers(accelerated))


def measure(cases: list[Case], rounds: int) -> list[tuple[float, int]]:
    """Return for each case the median time of a step in seconds, and the number of alive weights."""
    made = [case.step() for case in cases]
    times: list[list[float]] = [[] for _ in cases]
    for round_number in range(rounds + 1):
        for (step, _), taken in zip(made, times, strict=True):
            begin = time.perf_counter()
            step()
            if round_number:
                taken.append(time.perf_counter() - begin)
    return [(statistics.median(taken), alive) for taken, (_, alive) in zip(times, made, strict=True)]


def main() -> None:
    """Measure and print all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rest = Case()
    sparsities = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
    found = measure([replace(rest, sparsity=sparsity) for sparsity in sparsities], rounds)
    for sparsity, (seconds, alive) in zip(sparsities, found, strict=True):
        print(
            f"sparsity {sparsity:g}: {alive:,} alive, {seconds * 1e3:.0f} ms, {seconds / alive * 1e9:.0f} ns each"
        )
    for sparsity in (0.95, 0.99):
        for name, values in (("time_steps", (1, 2, 5, 10)), ("batch", (8, 16, 32, 64, 128)), ("threads", (1, 2))):
            cases = [replace(rest, sparsity=sparsity, **{name: value}) for value in values]
            steps = [seconds for seconds, _ in measure(cases, rounds)]
            shown = ", ".join(
                f"{value}: {seconds * 1e3:.0f} ms" for value, seconds in zip(values, steps, strict=True)
            )
            work = [value / values[0] if name != "threads" else values[0] / value for value in values]
            relative = [seconds / steps[0] / w for seconds, w in zip(steps, work, strict=True)]
            print(f"sparsity {sparsity:g}, {name} {shown}; per unit {', '.join(f'{r:.2f}' for r in relative)}")


if __name__ == "__main__":
    main()
