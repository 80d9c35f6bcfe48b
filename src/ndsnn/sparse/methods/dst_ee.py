"""DST-EE: RigL with a bonus for places seldom tried (Huang et al., DAC 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.errors import CheckpointError, ConfigError
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.rigl import RigL


class DSTEE(RigL):
    """Grow by |∂L/∂w| + c·ln t / (n + ε): exploitation plus exploration.

    t is the step of the round, n the number of topologies so far in which the place was alive.

    Args:
        net: As for `SparseTraining`, like all others.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        exploration: c; 0 gives RigL.
        epsilon: ε > 0.
        **settings: Settings of `SparseTraining`.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        exploration: float = 1e-3,
        epsilon: float = 1.0,
        **settings: Any,
    ) -> None:
        if not (0 <= exploration < math.inf and 0 < epsilon < math.inf):
            raise ConfigError(f"exploration is {exploration!r} (must be ≥ 0), epsilon {epsilon!r} (must be > 0)")
        super().__init__(net, optimizer, final_sparsity, total_steps, **settings)
        self.exploration, self.epsilon = exploration, epsilon
        self.times_active = {layer.name: layer.mask.flatten().to(torch.int32) for layer in self.layers}

    def grow_scores(self, layer: SparseLayer, positions: Tensor, gradient: Tensor | None) -> Tensor:
        """Return |∂L/∂w| + c·ln t / (n + ε)."""
        tried = self.times_active[layer.name][positions]
        bonus = self.exploration * math.log(self.steps_done) / (tried + self.epsilon)
        return super().grow_scores(layer, positions, gradient) + bonus

    def after_round(self, q: int) -> None:
        """Count the new topology."""
        for layer in self.layers:
            self.times_active[layer.name][layer.active_positions()] += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `SparseTraining` and how often each place was alive."""
        counters = {name: count.clone() for name, count in self.times_active.items()}
        return super().state_dict() | {"times_active": counters}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check the state of `SparseTraining` and the counters."""
        super().check_state(state)
        saved = state["times_active"]
        if any(name not in saved or saved[name].shape != n.shape for name, n in self.times_active.items()):
            raise CheckpointError("the saved times_active belong to a network with other layers")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` (see `SparseTraining`)."""
        super().load_state_dict(state)
        for name, count in self.times_active.items():
            count.copy_(state["times_active"][name])

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"exploration": self.exploration, "epsilon": self.epsilon}
