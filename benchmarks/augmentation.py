"""How many images a second the augmentation and the loader deliver (CIFAR: 3×32×32, batches of 128).

Run: python benchmarks/augmentation.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from ndsnn.data import Augmentation, ImageSet, batches, default_augmentation, normalise

BATCH = 128
SHAPE = (3, 32, 32)
MEAN, STD = (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)


def machine() -> str:
    """Name processor, cores and torch version."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.get_num_threads()} threads by default, torch {torch.__version__}"


def rate(work: Callable[[], int], rounds: int, seconds: float) -> float:
    """Median over rounds of images per second."""
    work()
    found = []
    for _ in range(rounds):
        images, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            images += work()
        found.append(images / (time.perf_counter() - start))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one round")
    options = parser.parse_args()
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (100 * BATCH, *SHAPE), generator=source, dtype=torch.uint8)
    data = ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    recipe = default_augmentation("cifar10", MEAN, STD)
    batch = pixels[:BATCH].clone()

    def augmented(augmentation: Augmentation) -> int:
        return len(augmentation(batch, source))

    def loaded(prefetch: bool) -> int:
        return sum(
            len(y) for _, y in batches(data, BATCH, seed=0, epoch=0, augmentation=recipe, prefetch=prefetch)
        )

    cases: dict[str, Callable[[], int]] = {
        "crop + flip + normalise + cutout": lambda: augmented(recipe),
        "normalise": lambda: len(normalise(batch, MEAN, STD)),
        "loader": lambda: loaded(False),
        "loader, prefetched": lambda: loaded(True),
    }
    print(machine())
    print(f"median of {options.rounds} rounds of {options.seconds} s, batches of {BATCH}×{SHAPE}")
    print(f"{'':34}{'1 thread':>14}{'2 threads':>14}  images/s")
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, work in cases.items():
            found[name, threads] = rate(work, options.rounds, options.seconds)
    for name in cases:
        print(f"{name:34}{found[name, 1]:14,.0f}{found[name, 2]:14,.0f}")


if __name__ == "__main__":
    main()
