"""One training step by one process and by two: time, traffic, and what that means for many nodes.

    python benchmarks/ranks.py [--model vgg16 --batch 32 --sparsity .9 .99 --rounds 7]

Two processes of one thread each, one process of one thread, and one of two threads take turns in the same run;
the median of the rounds counts. Then the cost of one all-reduce is measured by its size, and the time of a step on
1 to 1,000 nodes is computed from all that, with the assumptions of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ndsnn
from ndsnn.models.norm_statistics import spread_norms
from ndsnn.ranks import ALONE, Ranks
from ndsnn.training.distributed import GradientAverage, joined

NODES = (1, 2, 4, 8, 16, 64, 256, 1000)
NETWORKS = {"10 Gbit/s Ethernet": (30e-6, 1.25e9), "100 Gbit/s": (5e-6, 12.5e9)}
"""Seconds until a message of another node is there, and bytes per second of a link: assumed, not measured."""

SIZES = (4, 256, 4096, 65536, 1 << 20, 1 << 23)
"""Numbers of float32 of the all-reduces that are timed."""


class Step:
    """A training step of one network, with or without other ranks.

    Args:
        model: Name of the network.
        sparsity: Its fraction of zeros.
        batch: Samples of the whole batch.
        ranks: Those that share it.
    """

    def __init__(self, model: str, sparsity: float, batch: int, ranks: Ranks) -> None:
        torch.manual_seed(0)
        net = ndsnn.models.MODELS[model](10, 5)
        ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(0))
        self.net: nn.Module = ndsnn.accelerate(net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, foreach=True)
        self.method = ndsnn.Static(self.net, self.optimizer, sparsity, 10**6)
        self.x, self.y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
        self.ranks = ranks

    def __call__(self, ranks: Ranks) -> None:
        """Do one step, alone or together."""
        mine = ranks.part(len(self.y))
        spread_norms(self.net, ranks)
        self.optimizer.zero_grad()
        ndsnn.losses.mean_step_cross_entropy(self.net(self.x[mine]), self.y[mine]).backward()
        ranks.gather([0.0] * 4)
        GradientAverage(self.net, self.optimizer, self.method, ranks)()
        self.optimizer.step()
        self.method.step()


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def compare(model: str, sparsity: float, batch: int, rounds: int, ranks: Ranks) -> dict[str, Any]:
    """Return median times in seconds, the traffic of a step and the times of collectives."""
    step = Step(model, sparsity, batch, ranks)
    times: dict[str, list[float]] = {"one_thread": [], "two_threads": [], "two_processes": []}
    for round_number in range(rounds + 1):
        for threads, name in ((1, "one_thread"), (2, "two_threads")):
            torch.set_num_threads(threads)
            ranks.gather([0.0])
            if ranks.main:
                times[name].append(timed(lambda: step(ALONE)))
        torch.set_num_threads(1)
        ranks.gather([0.0])
        ranks.traffic.clear()
        times["two_processes"].append(timed(lambda: step(ranks)))
        if not round_number:
            times = {name: [] for name in times}
    traffic = {key: [one.calls, one.bytes, one.seconds] for key, one in ranks.traffic.items()}
    medians = {name: statistics.median(found) for name, found in times.items() if found}
    alive = sum(layer.nnz for layer in step.method.layers)
    return {"sparsity": sparsity, "alive": alive, "traffic": traffic, **medians}


def collectives(ranks: Ranks, rounds: int) -> dict[int, float]:
    """Return the median time of an all-reduce of so many numbers."""
    found = {}
    for size in SIZES:
        tensor = torch.zeros(size)
        found[size] = statistics.median(timed(lambda t=tensor: ranks.sum_(t, "probe")) for _ in range(3 * rounds))
    return found


def predicted(case: dict[str, Any], batch: int, nodes: int, latency: float, bandwidth: float, ring: bool) -> float:
    """Return the seconds of a step on `nodes` nodes that share as many batches of `batch` samples (weak scaling).

    An all-reduce of b bytes takes hops·latency + 2(P − 1)/P·b/bandwidth, with 2(P − 1) hops in a ring and
    2·log₂ P in a tree.
    """
    if nodes == 1:
        return case["two_threads"]
    hops = 2 * (nodes - 1) if ring else 2 * math.ceil(math.log2(nodes))
    calls = sum(one[0] for one in case["traffic"].values())
    sent = sum(one[1] for one in case["traffic"].values())
    return case["two_threads"] + calls * hops * latency + 2 * (nodes - 1) / nodes * sent / bandwidth


def report(cases: list[dict[str, Any]], sizes: dict[int, float], batch: int) -> None:
    """Print all tables."""
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, gloo over the loopback, batch {batch}, T = 5")
    for case in cases:
        one, two, ranks = case["one_thread"], case["two_threads"], case["two_processes"]
        print(
            f"\nsparsity {case['sparsity']:g}, {case['alive']:,} alive weights: 1 process of 1 thread "
            f"{1e3 * one:.0f} ms, of 2 threads {1e3 * two:.0f} ms ({one / two:.2f}×), "
            f"2 processes {1e3 * ranks:.0f} ms ({one / ranks:.2f}×)"
        )
        for key, (calls, sent, seconds) in case["traffic"].items():
            print(f"  {key}: {calls} operations, {sent:,} bytes, {1e3 * seconds:.1f} ms with waiting")
    print("\nall-reduce between 2 processes")
    for size, seconds in sizes.items():
        print(f"  {4 * size:>12,} bytes {1e6 * seconds:>10.0f} µs {4 * size / seconds / 1e9:>8.2f} GB/s")
    for case in cases:
        print(f"\npredicted ms per step at sparsity {case['sparsity']:g}, each node with a batch of {batch}")
        for name, (latency, bandwidth) in NETWORKS.items():
            for shape in ("ring", "tree"):
                times = [predicted(case, batch, n, latency, bandwidth, shape == "ring") for n in NODES]
                row = "  ".join(f"{n}: {1e3 * t:.0f}" for n, t in zip(NODES, times, strict=True))
                print(f"  {name}, {shape}: {row}")


def main() -> None:
    """Start two processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.99])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None, help="also write all figures here")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes = [
            subprocess.Popen([sys.executable, *sys.argv], env=os.environ | meeting | {"RANK": str(rank)})
            for rank in range(2)
        ]
        sys.exit(max(process.wait() for process in processes))
    with joined(torch.device("cpu"), 600) as ranks:
        cases = [compare(options.model, s, options.batch, options.rounds, ranks) for s in options.sparsity]
        sizes = collectives(ranks, options.rounds)
    if ranks.main:
        report(cases, sizes, options.batch)
        if options.json:
            options.json.write_text(json.dumps({"cases": cases, "all_reduce": sizes}))


if __name__ == "__main__":
    main()
