"""GMP: gradual magnitude pruning from a denser network (Zhu & Gupta 2017)."""

from __future__ import annotations

import torch
from torch import nn

from ndsnn.sparse.methods.base import SparseTraining


class GMP(SparseTraining):
    """Prune the smallest |w| of each layer along the cubic ramp of Eq. 4; nothing is ever born.

    A network without masks starts dense.

    Args:
        net: As for `SparseTraining`, like all others.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        update_every: See there.
        start: See there.
        stop_fraction: See there.
    """

    needs_gradient = False
    starts_dense = True

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        update_every: int | None = None,
        start: int = 0,
        stop_fraction: float = 0.75,
    ) -> None:
        super().__init__(
            net,
            optimizer,
            final_sparsity,
            total_steps,
            update_every=update_every,
            start=start,
            stop_fraction=stop_fraction,
            death_ratio=0.0,
            min_death_ratio=0.0,
        )
