"""NDSNN whose layers find their own densities on the way down, by LAMP scores (Lee et al., ICLR 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.errors import ConfigError
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.global_pruning import global_counts
from ndsnn.sparse.methods.ndsnn import NDSNN


class LampNDSNN(NDSNN):
    """NDSNN's total of every round, shared among the layers by what their weights are worth to them.

    The whole network has as many alive weights after each round as with NDSNN, and drops and grows by the same
    rules. How many of them a layer has is not fixed by its shape: one threshold on the LAMP scores of all alive
    weights decides it, within `lowest` and `highest` times the count that NDSNN would give that layer.

    Args:
        net: As for `SparseTraining`, like all others.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        lowest: The least that a layer keeps, in (0, 1] of NDSNN's count.
        highest: The most that a layer keeps, ≥ 1 times NDSNN's count.
        **settings: Settings of `SparseTraining`.

    Raises:
        ConfigError: A limit is out of range.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        lowest: float = 0.5,
        highest: float = 2.0,
        **settings: Any,
    ) -> None:
        if not (0 < lowest <= 1 <= highest < math.inf):
            raise ConfigError(f"limits must be 0 < lowest ≤ 1 ≤ highest, not {lowest!r} and {highest!r}")
        self.lowest, self.highest = lowest, highest
        super().__init__(net, optimizer, final_sparsity, total_steps, **settings)

    def target_counts(self, q: int) -> dict[str, int]:
        """Return the counts that one threshold on the LAMP scores leaves of the total of Eq. 4."""
        fixed = super().target_counts(q)
        total = sum(fixed.values())
        dense = self.distribution.dense_names(layer.name for layer in self.layers)
        limits = {layer.name: self._limits(layer, fixed[layer.name]) for layer in self.layers}
        if sum(layer.nnz if layer.name in dense else limits[layer.name][1] for layer in self.layers) < total:
            limits = {layer.name: (limits[layer.name][0], layer.nnz) for layer in self.layers}
        scores = {layer.name: lamp_scores(self.drop_scores(layer)) for layer in self.layers}
        return global_counts(scores, total, dense, limits)

    def max_growth(self, layer: SparseLayer, q: int) -> int:
        """Return d(q) of the present weights: no layer's count rises in a round."""
        return self.growth_count(q, layer.nnz, layer.nnz)

    def _limits(self, layer: SparseLayer, fixed: int) -> tuple[int, int]:
        least = min(layer.nnz, max(1, math.floor(self.lowest * fixed)))
        return least, min(layer.nnz, math.ceil(self.highest * fixed))

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"lowest": self.lowest, "highest": self.highest}


def lamp_scores(magnitudes: Tensor) -> Tensor:
    """Return the LAMP score of each alive weight of a layer (Lee et al., ICLR 2021).

    score(u) = w_u² / Σ w_v² over u and all v of the layer that come after it in ascending order of |w|, equal
    ones in the order of their places. The largest weight of a layer scores 1, zeros score 0.

    Args:
        magnitudes: |w| [nnz].

    Returns:
        Scores [nnz] in [0, 1], float64.
    """
    ascending, order = magnitudes.double().square().sort(stable=True)
    not_smaller = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(ascending)
    scores[order] = torch.where(not_smaller > 0, ascending / not_smaller, 0.0)
    return scores
