"""Static sparsity: the connections drawn at the start stay for good."""

from __future__ import annotations

import torch
from torch import nn

from ndsnn.sparse.methods.constant import ConstantSparsity
from ndsnn.sparse.schedules import UpdateSchedule


class Static(ConstantSparsity):
    """Train a fixed random topology: the control that every dynamic method must beat.

    It takes no settings of its own, since nothing is ever updated.
    """

    needs_gradient = False

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, final_sparsity: float, total_steps: int
    ) -> None:
        super().__init__(net, optimizer, final_sparsity, total_steps)

    def plan_schedule(self, *, interval: int | None, start: int, stop_fraction: float) -> UpdateSchedule | None:
        """Return None: there are no rounds."""
        return None


class Dense(Static):
    """Train the dense network with the same loop and the same records: sparsity 0 from start to end."""

    starts_dense = True
