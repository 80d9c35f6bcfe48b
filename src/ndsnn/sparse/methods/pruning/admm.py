"""ADMM: train towards a sparse weight by a penalty, then prune hard and retrain (Deng et al. 2021)."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from ndsnn.errors import ConfigError
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.attachment import before_update, gradient_scale
from ndsnn.sparse.methods.pruning.gmp import GMP
from ndsnn.sparse.selection import largest

_penalties = WeakIdKeyDictionary()
"""The hook of the newest method on each optimizer."""


class ADMM(GMP):
    """Minimise L(W) + ρ/2·‖W − Z + U‖² with Z sparse, then keep Z's connections and retrain.

    Every `update_every` steps, in each layer with its count k at θf:

        Z ← the k entries of W + U of largest magnitude, 0 elsewhere
        U ← U + W − Z

    Between, ρ·(W − Z + U) is added to the gradient before each optimizer step, but for layers that stay dense. At
    the start Z is the projection of W, and U is 0. The last round prunes to the k largest |W + U|; the rest of the
    run trains what is left.

    A network without masks starts dense.

    Args:
        net: As for `SparseTraining`, like all others.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        rho: ρ ≥ 0, the weight of the penalty.
        **settings: Settings of `GMP`: `update_every`, the steps between two updates of Z and U, `start`, and
            `stop_fraction`, the part of the run after which the hard pruning comes.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        rho: float = 1e-2,
        **settings: Any,
    ) -> None:
        if isinstance(rho, bool) or not 0 <= rho < math.inf:
            raise ConfigError(f"rho is {rho!r}; it must be a number of at least 0")
        super().__init__(net, optimizer, final_sparsity, total_steps, **settings)
        self.rho = float(rho)
        self.records["u"] = {layer.name: torch.zeros_like(layer.active_values()) for layer in self.layers}
        self.records["z"] = {layer.name: self._projection(layer) for layer in self.layers}
        _take_over(self.optimizer, self)

    def target_counts(self, q: int) -> dict[str, int]:
        """Return the initial counts before the last round, the final ones in it."""
        return dict(self.final_counts if q >= self._rounds_planned() else self.initial_counts)

    def drop_scores(self, layer: SparseLayer) -> Tensor:
        """Return |W + U|, or |W| once there is no U any more."""
        return self._sum(layer).abs()

    def require_finite_gradients(self) -> None:
        """Check, before a step that updates Z and U, that no weight is spoilt (see `SparseTraining`)."""
        super().require_finite_gradients()
        if self.updates_next:
            for layer in self.layers:
                self._finite(layer, self.drop_scores(layer))

    def after_round(self, q: int) -> None:
        """Update Z and U; after the last round there is neither."""
        if q == self._rounds_planned():
            self.records.clear()
            return
        for layer in self.layers:
            z = self._projection(layer)
            self.records["u"][layer.name] = self._sum(layer) - z
            self.records["z"][layer.name] = z

    @torch.no_grad()
    def add_penalty(self) -> None:
        """Add ρ·(W − Z + U) to the gradients of layers that are to be pruned, before an optimizer step."""
        if "u" not in self.records or not self.rho:
            return
        rho = self.rho * gradient_scale(self.optimizer)
        for layer in self.layers:
            gradient = layer.weight.grad
            if gradient is not None and self.final_counts[layer.name] < layer.nnz:
                away = self._sum(layer) - self.records["z"][layer.name]
                gradient.add_(layer.per_weight(rho * away).to(gradient))

    def _sum(self, layer: SparseLayer) -> Tensor:
        """Return W + U [nnz]."""
        values = layer.active_values()
        return values + self.records["u"][layer.name] if "u" in self.records else values

    def _projection(self, layer: SparseLayer) -> Tensor:
        """Return W + U with all but the final count of its largest magnitudes 0 [nnz]."""
        total = self._sum(layer)
        z = torch.zeros_like(total)
        kept = largest(total.abs(), min(self.final_counts[layer.name], len(total)))
        z[kept] = total[kept]
        return z

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"rho": self.rho}


def _take_over(optimizer: torch.optim.Optimizer, method: ADMM) -> None:
    """Let `method` be the one whose penalty is added before each step of `optimizer`."""
    before: RemovableHandle | None = _penalties.pop(optimizer, None)
    if before is not None:
        before.remove()
    owner = weakref.ref(method)

    def add() -> None:
        alive = owner()
        if alive is not None:
            alive.add_penalty()

    _penalties[optimizer] = before_update(optimizer, add)
