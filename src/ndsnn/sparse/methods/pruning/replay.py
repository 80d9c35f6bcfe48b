"""Running a network to learn something of it, without a trace: copies run, and random numbers are given back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def rehearsal(net: nn.Module) -> Iterator[nn.Module]:
    """Give a copy of `net` that may be run in any way; torch's generators are as before after the `with` block.

    The copy has no gradients, and hooks on parameters are not copied.
    """
    devices = {p.device.index for p in net.parameters() if p.device.type == "cuda" and p.device.index is not None}
    with torch.random.fork_rng(sorted(devices)):
        yield copy.deepcopy(net)


def reset_neurons(net: nn.Module) -> None:
    """Let all neurons of any framework that have a `reset` begin anew, as before every batch."""
    for module in net.modules():
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset()
