"""The processes that train one network together, each called a rank, and what they tell each other.

One process is the case in which nobody else is there: every operation then returns at once. Nothing is pickled;
what is shared is numbers, JSON and safetensors.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, distributed

from ndsnn.errors import NdsnnError, RankError

Shared = TypeVar("Shared")


@dataclass
class Traffic:
    """What was sent for one purpose.

    Args:
        calls: Number of collective operations.
        bytes: Size of what this rank put into them.
        seconds: Wall time in them, waiting for other ranks included.
    """

    calls: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Ranks:
    """The ranks of a process group, or one process alone.

    Args:
        rank: Number of this process, from 0; rank 0 is the one that writes.
        size: Number of processes.
        device: Where tensors must be for the group to take them ("cpu" for gloo, a CUDA device for nccl).

    Attributes:
        duplicated: Whether all ranks compute the same batch at present, so that sums over the batch are whole
            already.
        traffic: What was sent, by purpose.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")
        self.duplicated = False
        self.traffic: dict[str, Traffic] = {}

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    @property
    def counts(self) -> bool:
        """Whether what this rank counts in the present batch is part of the total."""
        return self.main or not self.duplicated

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """Return itself: a copy of a network belongs to the same ranks."""
        return self

    def part(self, count: int) -> slice:
        """Return which of `count` samples this rank computes: parts in order, whose sizes differ by one at most.

        Where there are fewer samples than ranks, every rank computes all of them.
        """
        if count < self.size:
            return slice(0, count)
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    @contextmanager
    def batch_of(self, count: int) -> Iterator[None]:
        """Say while a batch of `count` samples is computed whether all ranks have the same."""
        self.duplicated = self.size > count
        try:
            yield
        finally:
            self.duplicated = False

    def sum_(self, tensor: Tensor, purpose: str) -> Tensor:
        """Add up a tensor over all ranks, in place; every rank gets the same bits."""
        if not self.alone:
            with self._sending(tensor, purpose):
                distributed.all_reduce(tensor)
        return tensor

    def average_(self, tensor: Tensor, purpose: str) -> Tensor:
        """Take the mean of a tensor over all ranks, in place; every rank gets the same bits."""
        return tensor if self.alone else self.sum_(tensor, purpose).div_(self.size)

    def gather(self, numbers: list[float], purpose: str = "control") -> list[list[float]]:
        """Return a list of numbers of each rank, as float64."""
        if self.alone:
            return [numbers]
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self._sending(mine, purpose):
            distributed.all_gather(found, mine)
        return [one.tolist() for one in found]

    def any(self, flag: bool) -> bool:
        """Say whether `flag` is true on any rank."""
        return flag if self.alone else any(one[0] for one in self.gather([float(flag)]))

    def share(self, value: Any) -> Any:
        """Return rank 0's `value`, which must be JSON-able."""
        if self.alone:
            return value
        data = json.dumps(value).encode() if self.main else b""
        return json.loads(self._share_bytes(data))

    def share_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return rank 0's tensors, on the CPU; the other ranks give None."""
        if self.alone:
            return dict(tensors or {})
        data = safetensors.torch.save(dict(tensors or {})) if self.main else b""
        return safetensors.torch.load(self._share_bytes(data))

    def on_main(self, action: Callable[[], Shared]) -> Shared:
        """Do something on rank 0 alone and return what it returned, which must be JSON-able.

        Raises:
            NdsnnError: Rank 0 failed; there it is the error itself, elsewhere a `RankError` with its words.
        """
        if self.alone:
            return action()
        result, failure = None, None
        if self.main:
            try:
                result = action()
            except NdsnnError as error:
                failure = error
        answer = self.share({"result": result, "error": None if failure is None else str(failure)})
        if failure is not None:
            raise failure
        if answer["error"] is not None:
            raise RankError(f"rank 0 gave up: {answer['error']}")
        shared: Shared = answer["result"]
        return shared

    def require_same(self, digest: bytes, what: str) -> None:
        """Check that all ranks have the same `digest`.

        Raises:
            RankError: They have not; it names the ranks that differ from rank 0.
        """
        if self.alone:
            return
        words = [float(int.from_bytes(digest[i : i + 6], "big")) for i in range(0, len(digest), 6)]
        found = self.gather(words)
        others = [number for number, one in enumerate(found) if one != found[0]]
        if others:
            raise RankError(f"{what} of rank 0 and of {_listed(others)} differ; the ranks have drifted apart")

    def require_same_text(self, text: str, what: str) -> None:
        """Check that all ranks have the same `text`; raises as `require_same`."""
        self.require_same(hashlib.sha256(text.encode()).digest(), what)

    def _share_bytes(self, data: bytes) -> bytes:
        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        with self._sending(length, "control"):
            distributed.broadcast(length, 0)
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.main:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else content
        content = content.to(self.device)
        with self._sending(content, "control"):
            distributed.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    @contextmanager
    def _sending(self, tensor: Tensor, purpose: str) -> Iterator[None]:
        """Count what is sent, and say it plainly when another rank is gone."""
        begin = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"rank {self.rank} of {self.size} lost the others while sending {purpose}: one of them has ended, "
                f"or did not answer in time ({str(error).splitlines()[0]}); see its own message, then go on with "
                f"--resume true"
            ) from error
        traffic = self.traffic.setdefault(purpose, Traffic())
        traffic.calls += 1
        traffic.bytes += tensor.numel() * tensor.element_size()
        traffic.seconds += time.perf_counter() - begin


ALONE = Ranks()
"""One process."""

_known: dict[int, Ranks] = {}


def present_ranks() -> Ranks:
    """Return the ranks of torch's default process group, or `ALONE` where there is none or it has one process."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return ALONE
    group = distributed.group.WORLD
    if id(group) not in _known:
        _known.clear()
        device = torch.device("cpu")
        if distributed.get_backend() == "nccl":
            device = torch.device("cuda", torch.cuda.current_device())
        _known[id(group)] = Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    return _known[id(group)]


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"
