"""How far memory grows in a training step: each contestant in a process of its own (Linux).

`python -m ndsnn.evaluation.bench.memory REQUEST` measures one in this process; REQUEST and the answer are JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ndsnn.errors import ConfigError
from ndsnn.evaluation.bench.nets import Contestant, Workload

STEPS = 2
"""Training steps that are watched: gradients of the first are there when the second begins."""

_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class MemoryRequest:
    """Whose memory to measure.

    Args:
        workload: Network and batch.
        threads: Of torch and the engine.
        dense_format: Format of the dense network; None for the engine.
        sparsity: Of the engine's network.
        memory: Of the engine, as in `accelerate`.
        precision: Of the engine, as in `accelerate`.
    """

    workload: Workload
    threads: int
    dense_format: str | None = None
    sparsity: float = 0.0
    memory: str = "auto"
    precision: str = "fp32"

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> MemoryRequest:
        """Undo `dataclasses.asdict`."""
        return cls(**values | {"workload": Workload(**values["workload"])})

    def build(self) -> Contestant:
        """Return the contestant."""
        if self.dense_format is not None:
            return self.workload.dense(self.dense_format)
        return self.workload.engine(self.sparsity, self.memory, self.precision)


def require_measurable() -> None:
    """Check that this system tells the peak of a process.

    Raises:
        ConfigError: It does not.
    """
    if not (_PROCESS / "clear_refs").exists():
        raise ConfigError("peak memory can be measured on Linux with /proc only; give --no-memory")


def peak_growth_mb(request: MemoryRequest) -> float:
    """Return how far resident memory grows in training steps, in MB (10⁶ bytes), measured in a new process.

    Network and batch are there before; activations, gradients and the engine's index count.

    Raises:
        ConfigError: The process failed; its last words are quoted.
    """
    command = [sys.executable, "-m", "ndsnn.evaluation.bench.memory", json.dumps(asdict(request))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it was killed, perhaps for want of memory"]
        raise ConfigError(
            f"the memory of {request.workload.model} at batch {request.workload.batch} could not be measured "
            f"(exit code {done.returncode}: {words[-1]}); give a smaller --batch, or --no-memory"
        )
    return float(json.loads(done.stdout)["peak_mb"])


def measure(request: MemoryRequest) -> float:
    """Do the work of `peak_growth_mb` in this process."""
    torch.set_num_threads(request.threads)
    contestant = request.build()
    _wake_torch()
    _return_free_memory()
    before = _status_bytes("VmRSS")
    # Sets VmHWM back to VmRSS (proc(5)).
    (_PROCESS / "clear_refs").write_text("5")
    for _ in range(STEPS):
        contestant.step()
    return (_status_bytes("VmHWM") - before) / 1e6


def _wake_torch() -> None:
    """Have torch set up its threads and libraries on something tiny, so that this is nobody's growth."""
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    weight = torch.ones(1, 1, 3, 3, requires_grad=True)
    y = torch.nn.functional.conv2d(x, weight).flatten(1)
    (y @ y.T).sum().backward()


def _return_free_memory() -> None:
    """Give back what the building of the network has left in the heap: a step that reuses it would not grow."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(key: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ConfigError(f"this system does not tell {key} of a process; give --no-memory")


if __name__ == "__main__":
    print(json.dumps({"peak_mb": measure(MemoryRequest.from_plain(json.loads(sys.argv[1])))}))
