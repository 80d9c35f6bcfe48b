"""LTH: lottery tickets by iterative magnitude pruning with late rewinding (Frankle et al. 2019 and 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.errors import CheckpointError, ConfigError, SparsityError
from ndsnn.sparse.distributions import alive_budget, check_sparsity
from ndsnn.sparse.methods.base import SparseTraining
from ndsnn.sparse.methods.global_pruning import global_prune_masks
from ndsnn.sparse.methods.pruning.rewind import RewindPoint
from ndsnn.sparse.methods.updates import LayerUpdate, TopologyUpdate
from ndsnn.sparse.schedules import UpdateSchedule

PRUNE_FRACTION = 0.25
"""Part of the survivors that a round prunes, where nothing else is said (Kim et al., ECCV 2022)."""

LAST_ROUND = 0.01
"""A last round of a smaller part of the survivors than this is none: the round before goes to θf itself."""


class LTH(SparseTraining):
    """Train dense; then, round by round, prune the smallest |w| of all layers, rewind all else, train again.

    `next_round` is called when a round has been trained as long as it is to be. It prunes by the trained weights,
    over all layers at once (those in `dense_layers` stay; each keeps one weight), and brings weights, norms with
    their statistics, optimizer state and random generator back to what they were after `rewind_step` steps of the
    first round. The learning rate and the order of images are the loop's to rewind: `steps_done` says where to.

    Args:
        net: As for `SparseTraining`; it must be dense.
        optimizer: See there.
        final_sparsity: See there; the last round prunes to exactly that.
        total_steps: Optimizer steps of the first round; the others begin at `rewind_step`.
        prune_fraction: Part of the survivors that a round prunes; None takes 0.25, or what `rounds` asks for.
        rounds: Number of prunings, of equal parts; None takes as many as `prune_fraction` needs.
        rewind_step: Step of the first round to whose end everything is rewound; 0 is the initial state.

    Raises:
        SparsityError: The network is not dense, or θf is 0 or out of range.
        ConfigError: A setting is out of range, or both `prune_fraction` and `rounds` are given.
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
        prune_fraction: float | None = None,
        rounds: int | None = None,
        rewind_step: int = 0,
    ) -> None:
        self.sparsities = round_sparsities(final_sparsity, prune_fraction, rounds)
        if not 0 <= rewind_step < total_steps:
            raise ConfigError(
                f"rewind_step is {rewind_step}; it must be in [0, {total_steps}), within the first round"
            )
        super().__init__(net, optimizer, final_sparsity, total_steps, death_ratio=0.0, min_death_ratio=0.0)
        if any(layer.nnz != layer.size for layer in self.layers):
            raise SparsityError(
                f"LTH starts dense, but the network has sparsity {self.current_sparsity():.4g}; "
                f"leave initial_sparsity out, or call ndsnn.to_dense(net)"
            )
        self.rewind_step = rewind_step
        self.round = 0
        self.rewind_point = None if rewind_step else RewindPoint.take(net, optimizer, self.layers)

    def plan_schedule(self, *, interval: int | None, start: int, stop_fraction: float) -> UpdateSchedule | None:
        """Return None: within a round the topology stays as it is."""
        return None

    @property
    def finished(self) -> bool:
        """Whether the last pruning is done, so that the network has its final sparsity."""
        return self.round == len(self.sparsities) - 1

    def step(self) -> TopologyUpdate | None:
        """Count one optimizer step; at the rewind step of the first round, remember everything."""
        super().step()
        if self.round == 0 and self.steps_done == self.rewind_step:
            self.rewind_point = RewindPoint.take(self.net, self.optimizer, self.layers)
        return None

    def next_round(self) -> TopologyUpdate:
        """Prune by the present weights, rewind, and begin the next round at `rewind_step`.

        Returns:
            How many weights of each layer died.

        Raises:
            SparsityError: There is no further round, or the rewind step was not reached.
            NonFiniteError: A weight is not finite; nothing was changed.
        """
        if self.finished:
            raise SparsityError(f"all {self.round} prunings are done; the network has its final sparsity")
        if self.rewind_point is None:
            raise SparsityError(f"the rewind step {self.rewind_step} is not reached; call step() until then")
        masks = self._next_masks()
        before = {layer.name: layer.nnz for layer in self.layers}
        self.rewind_point.restore(self.net, self.optimizer, self.layers, masks)
        self.round += 1
        self.steps_done = self.rewind_step
        rows = [LayerUpdate(layer.name, before[layer.name] - layer.nnz, 0, layer.nnz) for layer in self.layers]
        return TopologyUpdate(self.steps_done, self.round, tuple(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact resume needs, the rewind point included."""
        point = self.rewind_point
        return super().state_dict() | {
            "round": self.round,
            "rewind_point": None if point is None else point.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` (see `SparseTraining`)."""
        super().load_state_dict(state)
        self.round = int(state["round"])
        point = state["rewind_point"]
        self.rewind_point = None if point is None else RewindPoint.from_state(point)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that `load_state_dict` can take all of `state` (see `SparseTraining`)."""
        super().check_state(state)
        if not 0 <= int(state["round"]) < len(self.sparsities):
            raise CheckpointError(f"the saved round {state['round']} is none of this run's {len(self.sparsities)}")
        if state["rewind_point"] is not None:
            RewindPoint.from_state(state["rewind_point"]).check(self.net, self.optimizer, self.layers)

    def _next_masks(self) -> dict[str, Tensor]:
        """Return the masks of the next round by layer: the largest |w| of all layers stay."""
        alive = alive_budget(sum(layer.size for layer in self.layers), self.sparsities[self.round + 1])
        return global_prune_masks(
            {layer.name: self.drop_scores(layer) for layer in self.layers},
            {layer.name: layer.mask for layer in self.layers},
            alive,
            self.distribution.dense_names(layer.name for layer in self.layers),
        )

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"sparsities": list(self.sparsities), "rewind_step": self.rewind_step}


def round_sparsities(
    final_sparsity: float, prune_fraction: float | None = None, rounds: int | None = None
) -> tuple[float, ...]:
    """Return the sparsity of each round: 0, p, 1 − (1 − p)², …, and θf exactly in the last.

    A last round that would prune less than 1 % of the survivors is left out; the one before goes to θf. So 25 %
    and θf = 0.99 make 16 prunings, the last from 0.9866 to 0.99.

    Args:
        final_sparsity: θf.
        prune_fraction: p, the part of the survivors that a round prunes; None takes 0.25.
        rounds: Number of prunings, n; then p = 1 − (1 − θf)^(1/n).

    Raises:
        SparsityError: θf is 0 or out of range.
        ConfigError: p or n is out of range, or both are given.
    """
    if not check_sparsity(final_sparsity, "final_sparsity"):
        raise SparsityError("LTH prunes, so its final_sparsity must be above 0; for 0 take method dense")
    if prune_fraction is not None and rounds is not None:
        raise ConfigError("prune_fraction and rounds say the same in two ways; give one of them")
    if rounds is None:
        fraction = PRUNE_FRACTION if prune_fraction is None else prune_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ConfigError(f"prune_fraction is {fraction!r}; it must be a number between 0 and 1, such as 0.25")
        # The largest n with (1 − p)ⁿ just above 1 − θf is the last one.
        bound = math.log((1 - final_sparsity) / (1 - LAST_ROUND)) / math.log1p(-fraction)
        count = max(1, math.ceil(bound))
    else:
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ConfigError(f"rounds is {rounds!r}; it must be a whole number of at least 1")
        count, fraction = rounds, equal_fraction(final_sparsity, rounds)
    return (*(1 - (1 - fraction) ** number for number in range(count)), float(final_sparsity))


def equal_fraction(final_sparsity: float, rounds: int) -> float:
    """Return the part of the survivors that each of `rounds` prunings takes on the way to θf."""
    return -math.expm1(math.log(1 - final_sparsity) / rounds)
