"""Online pruning: weights that are small, or that have shrunk since the last look (Nguyen et al., ICONS 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.errors import ConfigError
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.pruning.gmp import GMP
from ndsnn.sparse.selection import ranks


class OnlinePruning(GMP):
    """Prune first the weights with |w| < threshold or |w| < shrink·|w′|, w′ the weight at the last check.

    A check is a round; before the first one w′ is the weight at the start. How many die in each layer is what the
    cubic ramp of Eq. 4 says. Where there are more candidates than that, the smallest |w| of them die; where there
    are fewer, all of them and the smallest |w| of the others.

    A network without masks starts dense.

    Args:
        net: As for `SparseTraining`, like all others.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        threshold: Magnitude under which a weight is a candidate; 0 for none.
        shrink: Fraction of its magnitude at the last check under which a weight is one; 0 for none.
        **settings: Settings of `GMP`: `update_every`, `start`, `stop_fraction`.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        threshold: float = 1e-3,
        shrink: float = 0.9,
        **settings: Any,
    ) -> None:
        if isinstance(threshold, bool) or not 0 <= threshold < float("inf"):
            raise ConfigError(f"threshold is {threshold!r}; it must be a number of at least 0")
        if isinstance(shrink, bool) or not 0 <= shrink <= 1:
            raise ConfigError(f"shrink is {shrink!r}; it must be a fraction in [0, 1]")
        super().__init__(net, optimizer, final_sparsity, total_steps, **settings)
        self.threshold, self.shrink = float(threshold), float(shrink)
        self._remember()

    def candidates(self, layer: SparseLayer) -> Tensor:
        """Return for each alive weight [nnz] whether it is small or has shrunk since the last check."""
        size = layer.active_values().abs()
        before = self.records.get("magnitude").get(layer.name)
        small = size < self.threshold
        return small if before is None else small | (size < self.shrink * before)

    def drop_scores(self, layer: SparseLayer) -> Tensor:
        """Return ranks: candidates by |w|, then the others by |w|."""
        size = self._finite(layer, layer.active_values().abs())
        return ranks(~self.candidates(layer), size)

    def after_round(self, q: int) -> None:
        """Remember the magnitudes of this check; after the last round there is none any more."""
        if q == self._rounds_planned():
            self.records.clear()
        else:
            self._remember()

    def _remember(self) -> None:
        self.records["magnitude"] = {layer.name: layer.active_values().abs() for layer in self.layers}

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"threshold": self.threshold, "shrink": self.shrink}
