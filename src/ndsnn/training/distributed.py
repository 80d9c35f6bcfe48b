"""One network trained by several processes: how they come together, share a state, and average gradients."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ndsnn.errors import ConfigError, RankError
from ndsnn.models.norm_statistics import ranks_of
from ndsnn.ranks import ALONE, Ranks, present_ranks
from ndsnn.sparse.handle import SparseLayer, parameters_of
from ndsnn.sparse.methods import SparseTraining

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which torchrun tells a process which one it is."""


@contextmanager
def joined(device: torch.device, timeout: float) -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started; without torchrun there are none.

    Args:
        device: What computes; gloo connects CPUs, nccl connects GPUs.
        timeout: Seconds after which a rank that does not answer counts as lost.

    Raises:
        RankError: They cannot be met.
        ConfigError: Not all of torchrun's variables are there.
    """
    if distributed.is_initialized():
        yield present_ranks()
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE
        return
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is set, but {missing[0]} is not; start the processes with torchrun")
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout)
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(f"the ranks cannot meet at {os.environ['MASTER_ADDR']}: {error}") from error
    try:
        ranks = present_ranks()
        yield ranks
        # Nobody leaves while another one still needs the meeting place.
        ranks.any(False)
    finally:
        distributed.destroy_process_group()


class GradientAverage:
    """Takes the mean of all gradients over ranks: of alive weights alone, in one operation.

    Call it between `loss.backward()` and `optimizer.step()`. Where norms take the statistics of a rank's own
    samples, the mean of their running statistics is taken too.

    Args:
        net: The network.
        optimizer: Of its parameters.
        method: Knows which weights are alive.
        ranks: All of them call it in every step.
    """

    def __init__(self, net: nn.Module, optimizer: Optimizer, method: SparseTraining, ranks: Ranks) -> None:
        self._optimizer, self._method, self._ranks = optimizer, method, ranks
        self._norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]

    @torch.no_grad()
    def __call__(self) -> None:
        """Take the mean."""
        if self._ranks.alone:
            return
        sparse = {id(layer.weight): layer for layer in self._method.layers}
        targets: list[tuple[Tensor, SparseLayer | None]] = [
            (parameter.grad, sparse.get(id(parameter)))
            for parameter in parameters_of(self._optimizer)
            if parameter.grad is not None
        ]
        targets += [(one, None) for one in self._local_statistics()]
        parts = [target if layer is None else layer.alive_part(target) for target, layer in targets]
        flat = self._ranks.average_(torch.cat([part.flatten() for part in parts]), "gradients")
        begin = 0
        for (target, layer), part in zip(targets, parts, strict=True):
            mean = flat[begin : begin + part.numel()]
            begin += part.numel()
            target.copy_(mean.view_as(target) if layer is None else layer.per_weight(mean))

    def _local_statistics(self) -> Iterator[Tensor]:
        for norm in self._norms:
            if norm.training and ranks_of(norm).alone and not self._ranks.duplicated:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                yield norm.running_mean
                yield norm.running_var


def require_same_settings(settings: Mapping[str, Any], ranks: Ranks) -> None:
    """Check that all ranks were started with the same settings.

    Raises:
        ConfigError: They were not; it names one that differs.
    """
    if ranks.alone:
        return
    mine = json.loads(json.dumps(dict(settings)))
    first = ranks.share(mine)
    different = sorted(key for key in first if first[key] != mine.get(key))
    if not ranks.any(bool(different)):
        return
    if not different:
        raise ConfigError("another rank was started with other settings than rank 0; see its message")
    key = different[0]
    raise ConfigError(f"rank {ranks.rank} was started with {key} = {mine.get(key)}, rank 0 with {first[key]}")


def shows_results() -> bool:
    """Say whether this process is the one of a run that prints what came of it."""
    return int(os.environ.get("RANK", "0")) == 0


def require_divisible(batch_size: int, ranks: Ranks) -> None:
    """Check that every rank has a sample of a whole batch.

    Raises:
        ConfigError: There are more ranks than samples.
    """
    if batch_size < ranks.size:
        raise ConfigError(
            f"batch_size is {batch_size} for all {ranks.size} processes together; it must be at least one each"
        )
