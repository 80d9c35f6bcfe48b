"""Every kernel on several threads, for `make tsan`: programs of calls, then steps of networks."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "data")]

import torch  # noqa: E402
from fuzz_draw import Draw  # noqa: E402
from fuzz_mutate import mutants  # noqa: E402
from fuzz_native import Program  # noqa: E402
from fuzz_seeds import seeds  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import ndsnn  # noqa: E402
from ndsnn.engine import library  # noqa: E402

PROGRAMS = int(os.environ.get("NDSNN_TSAN_PROGRAMS", "2000"))
SAMPLES = 33


def run_programs() -> tuple[int, int]:
    done = raised = 0
    for data in mutants(seeds("native"), PROGRAMS, seed=0):
        program = Program(Draw(data), apart=True)
        program.run()
        done, raised = done + program.done, raised + program.raised
    return done, raised


def train(precision: str, memory: str) -> float:
    """Two steps of a network with strides, pools, a readout, and weights that are sparse and dense."""
    torch.manual_seed(0)
    net = ndsnn.models.vgg([16, "M", 32, "M"], num_classes=5, time_steps=3, in_channels=2)
    ndsnn.sparsify(net, 0.8)
    net = ndsnn.accelerate(net, memory=memory, precision=precision)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = torch.zeros(())
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(torch.rand(SAMPLES, 2, 12, 12)).mean(0), torch.arange(SAMPLES) % 5)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def main() -> None:
    threads = library.load().max_threads()
    done, raised = run_programs()
    losses = [train(precision, memory) for precision in ("fp32", "mixed") for memory in ("store", "recompute")]
    print(f"{threads} threads: {done} calls, {raised} of them refused; losses {[round(one, 4) for one in losses]}")
    assert threads > 1, "set OMP_NUM_THREADS"


if __name__ == "__main__":
    main()
