"""The drop-and-grow round (Eq. 6–9) that every sparse-training method shares, with its hooks.

A round q at step t0 + qΔT does, for each layer with N places and N_pre alive weights:

    N_post-round = target_count(layer, q)                      Eq. 4 in integers
    D = d(q)·N_pre   connections of smallest drop score die    Eq. 5, 6, 7
    G = N_post-round − (N_pre − D)   of largest growth score are born with value 0      Eq. 8, 9

The scheduled count always wins: where G would be negative nothing is born and more die, and where fewer places
are free than G asks for, the exchange shrinks to what is free, so no alive weight is thrown away for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ndsnn.errors import CheckpointError, ConfigError, NonFiniteError, SparsityError
from ndsnn.sparse.agreement import require_same_topology
from ndsnn.sparse.bits import unpack_mask
from ndsnn.sparse.distributions import check_sparsity, round_half_up
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.attachment import Attachable, innermost
from ndsnn.sparse.methods.records import WeightRecords
from ndsnn.sparse.methods.updates import LayerUpdate, TopologyUpdate
from ndsnn.sparse.schedules import UpdateSchedule, cosine_ratio, cubic_count, fit_schedule
from ndsnn.sparse.selection import smallest
from ndsnn.sparse.sparsify import Distribution, recorded_distribution, require_sparse_layers, sparsify
from ndsnn.sparse.topology import sparse_layers


class SparseTraining(Attachable):
    """Base of all methods: call `step()` after each `optimizer.step()`, or `attach` it to the optimizer.

    A method of one's own overrides `drop_scores` or `grow_scores`, seldom a count such as `target_counts`.

    Args:
        net: A network on which `ndsnn.sparsify` was called.
        optimizer: Any torch optimizer of its parameters; state of changed weights is set to 0.
        final_sparsity: θf, the overall fraction of zeros at the end.
        total_steps: Optimizer steps of the whole run.
        update_every: ΔT in steps; None takes 500, less in short runs.
        start: t0, the step at which the schedule begins.
        stop_fraction: Fraction of the run after which the topology stays as it is.
        death_ratio: d0 of Eq. 5, the fraction of alive weights that dies in a round.
        min_death_ratio: d_min of Eq. 5.
        regrow_dropped: Whether a weight that died may be born again in the same round.
        seed: Seed of random growth.

    Raises:
        NotSparsifiedError: The network is dense.
        SparsityError: θf is out of range or does not go with the network's sparsity.
        ScheduleError: No round fits into the run.
        ConfigError: A ratio is out of range.
    """

    needs_gradient: ClassVar[bool] = True
    """Whether `grow_scores` reads the dense gradient of the update step."""

    loss_scale: float = 1.0
    """What the loss of the step under way was multiplied by, as a gradient scaler does; scores go without it."""

    starts_dense: ClassVar[bool] = False
    """Whether a network without masks is taken as one in which every connection is alive."""

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
        death_ratio: float = 0.5,
        min_death_ratio: float = 0.05,
        regrow_dropped: bool = False,
        seed: int = 0,
    ) -> None:
        check_sparsity(final_sparsity, "final_sparsity")
        if not 0 <= min_death_ratio <= death_ratio <= 1:
            raise ConfigError(
                f"death ratios must be 0 ≤ min_death_ratio ≤ death_ratio ≤ 1, "
                f"not {min_death_ratio!r} and {death_ratio!r}"
            )
        self.net, self.optimizer = net, innermost(optimizer)
        self.final_sparsity, self.total_steps = final_sparsity, total_steps
        self.initial_death_ratio, self.min_death_ratio = death_ratio, min_death_ratio
        self.regrow_dropped, self.seed = regrow_dropped, seed
        if self.starts_dense and not sparse_layers(net):
            sparsify(net, 0.0)
        self.layers: list[SparseLayer] = require_sparse_layers(net)
        self.distribution: Distribution = recorded_distribution(net) or Distribution()
        self.initial_counts = {layer.name: layer.nnz for layer in self.layers}
        self.final_counts = self.plan_final_counts()
        self.schedule = self.plan_schedule(interval=update_every, start=start, stop_fraction=stop_fraction)
        self.steps_done = 0
        self.records = WeightRecords()
        for layer in self.layers:
            limit, score = partial(self._growth_limit, layer), partial(self._early_scores, layer)
            layer.watch_gradient(self._grows_next, limit, score)

    def plan_final_counts(self) -> dict[str, int]:
        """Return the alive weights per layer at θf. By default: the network's own distribution at θf.

        Raises:
            SparsityError: The network is sparser than θf.
        """
        counts = self.distribution.counts({layer.name: layer.shape for layer in self.layers}, self.final_sparsity)
        if sum(counts.values()) > sum(self.initial_counts.values()):
            raise SparsityError(
                f"the network has sparsity {self.current_sparsity():.4g}, more than final_sparsity "
                f"{self.final_sparsity}; start denser or raise final_sparsity"
            )
        return counts

    def plan_schedule(self, *, interval: int | None, start: int, stop_fraction: float) -> UpdateSchedule | None:
        """Return the update rounds of the run, or None where the topology never changes."""
        return fit_schedule(self.total_steps, interval=interval, start=start, stop_fraction=stop_fraction)

    def target_counts(self, q: int) -> dict[str, int]:
        """Return the alive weights per layer after round q. By default: the cubic ramp of Eq. 4."""
        rounds = self._rounds_planned()
        return {
            name: cubic_count(self.initial_counts[name], final, q, rounds)
            for name, final in self.final_counts.items()
        }

    def death_ratio(self, q: int) -> float:
        """Return d(q), the fraction of alive weights that dies in round q. By default: the cosine of Eq. 5."""
        return cosine_ratio(self.initial_death_ratio, self.min_death_ratio, q, self._rounds_planned())

    def growth_count(self, q: int, alive: int, target: int) -> int:
        """Return G, the connections born in round q of a layer with `alive` weights before it (Eq. 6 and 8)."""
        return round_half_up(Fraction(self.death_ratio(q) * alive)) - (alive - target)

    def max_growth(self, layer: SparseLayer, q: int) -> int:
        """Return the most connections that round q can bear in `layer`, told before the optimizer's step.

        Compressed layers keep as many candidates in the backward pass of the update step. By default: enough for
        any target up to the present count, and for `target_counts` as they are before the step.
        """
        alive = layer.nnz
        target = max(alive, self.target_counts(q)[layer.name])
        return max(self.growth_count(q, alive, target), target - alive)

    def drop_scores(self, layer: SparseLayer) -> Tensor:
        """Return one score [nnz] for each alive weight; the smallest die. By default: |w| (Eq. 7)."""
        return layer.active_values().abs()

    def grow_scores(self, layer: SparseLayer, positions: Tensor, gradient: Tensor | None) -> Tensor:
        """Return one score [m] for each inactive place; the largest are born. By default: |∂L/∂w| (Eq. 9).

        It may be called with a part of a layer at a time, so a score may depend on its own place only; and in the
        backward pass of an update step, where `steps_done` and `current_round` are those of the round already.

        Args:
            layer: The layer that grows.
            positions: Flat positions [m] of the places.
            gradient: ∂L/∂w [m] at those places, or None unless `needs_gradient`.
        """
        assert gradient is not None
        return gradient.abs()

    @property
    def images_per_class(self) -> int:
        """Training images of each class that `prepare` is to be called with before the first step; 0 for none."""
        return 0

    def prepare(
        self, batches: Iterable[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]
    ) -> TopologyUpdate | None:
        """Choose connections by a few labelled images, before the first step. By default nothing happens."""
        return None

    def before_round(self, q: int) -> None:
        """Called before round q decides, for methods that measure something first; it may refuse the round."""

    def after_round(self, q: int) -> None:
        """Called when round q is done, for methods that keep a record of the topology."""

    def step(self) -> TopologyUpdate | None:
        """Count one optimizer step; at an update step, rewire. Afterwards no inactive weight is non-zero.

        Returns:
            What changed, or None between rounds.

        Raises:
            NonFiniteError: The gradient of an update step is not finite; nothing was changed.
            ConfigError: The method is attached, so the optimizer makes this call.
        """
        self._require_step_due()
        self.require_finite_gradients()
        with self._next_step():
            q = self.current_round
            update = None if q is None else self._rewire(q)
        self.steps_done += 1
        for layer in self.layers:
            layer.release_gradient()
            layer.enforce(self.optimizer)
        return update

    def require_finite_gradients(self) -> None:
        """Check the gradients that the next step needs; `step` does so itself.

        A loop that calls it before `optimizer.step()` keeps the weights, too, as they were.

        Raises:
            NonFiniteError: One of them is not finite.
            SparsityError: One of them is missing.
        """
        if self._grows_next():
            for layer in self.layers:
                layer.require_finite_gradient()

    def masks(self) -> list[Tensor]:
        """Return the boolean masks in layer order (of masked layers the live ones, of compressed ones copies)."""
        return [layer.mask for layer in self.layers]

    @property
    def at_final_sparsity(self) -> bool:
        """Whether exactly as many weights are alive as at θf, so that an epoch may be chosen as the best."""
        return sum(layer.nnz for layer in self.layers) == sum(self.final_counts.values())

    def current_sparsity(self) -> float:
        """Return the overall fraction of zeros at this moment."""
        size = sum(layer.size for layer in self.layers)
        return 1 - sum(layer.nnz for layer in self.layers) / size

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact resume needs: step, settings, counts and bit-packed masks."""
        return {
            "method": type(self).__name__,
            "settings": self._settings(),
            "layers": {layer.name: list(layer.shape) for layer in self.layers},
            "steps_done": self.steps_done,
            "initial_counts": dict(self.initial_counts),
            "masks": {layer.name: layer.packed_mask() for layer in self.layers},
            "records": self.records.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; all of it is checked before anything is changed.

        Raises:
            CheckpointError: The state belongs to another method, network or schedule.
        """
        self.check_state(state)
        masks = {layer: unpack_mask(state["masks"][layer.name], layer.shape) for layer in self.layers}
        for layer, mask in masks.items():
            layer.set_mask(mask, self.optimizer)
        self.steps_done = int(state["steps_done"])
        self.initial_counts = {name: int(count) for name, count in state["initial_counts"].items()}
        self.records.load_state_dict(state.get("records", {}))

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that `load_state_dict` can take all of `state`; a method with a record of its own checks it here.

        Raises:
            CheckpointError: A part is missing or belongs to another method, network or schedule.
        """
        mine = self.state_dict()
        for key in ("method", "settings", "layers"):
            if key in state and state[key] != mine[key]:
                raise CheckpointError(f"the saved {key} is {state[key]}, this run's is {mine[key]}")
        optional = set() if mine["records"] else {"records"}
        if missing := sorted(set(mine) - set(state) - optional):
            raise CheckpointError(f"the saved state has no {missing[0]!r}")
        for key in ("masks", "initial_counts"):
            if set(state[key]) != set(mine[key]):
                raise CheckpointError(f"the saved {key} belong to a network with other layers")
        self.records.check_state(state.get("records", {}), self.layers, state["masks"])

    def _rewire(self, q: int) -> TopologyUpdate:
        """Decide for all layers, then change all, so that a refusal leaves everything as it was."""
        self.before_round(q)
        targets = self.target_counts(q)
        changes = [self._choose(layer, q, targets[layer.name]) for layer in self.layers]
        rows = []
        for layer, (dropped, grown) in zip(self.layers, changes, strict=True):
            self.records.move(layer, dropped, grown)
            layer.rewire(dropped, grown, self.optimizer)
            rows.append(LayerUpdate(layer.name, len(dropped), len(grown), targets[layer.name]))
        self.after_round(q)
        require_same_topology(self.layers, f"after round {q}")
        return TopologyUpdate(self.steps_done, q, tuple(rows))

    def _choose(self, layer: SparseLayer, q: int, target: int) -> tuple[Tensor, Tensor]:
        """Return the positions that die and those that are born."""
        alive = layer.nnz
        nothing = torch.empty(0, dtype=torch.int64, device=layer.weight.device)
        if alive == target == layer.size:
            return nothing, nothing
        growth = max(0, self.growth_count(q, alive, target), target - alive)
        if not self.regrow_dropped:
            growth = min(growth, layer.size - alive)
        dying = smallest(self._finite(layer, self.drop_scores(layer)), alive + growth - target)
        dropped = layer.active_positions()[dying]
        if not growth:
            return dropped, nothing
        return dropped, layer.select_growth(growth, partial(self._scores, layer), dropped, self.regrow_dropped)

    def _scores(self, layer: SparseLayer, positions: Tensor, gradient: Tensor | None) -> Tensor:
        if gradient is not None and self.loss_scale != 1:
            gradient = gradient / self.loss_scale
        return self._finite(layer, self.grow_scores(layer, positions, gradient))

    def _early_scores(self, layer: SparseLayer, positions: Tensor, gradient: Tensor | None) -> Tensor:
        """Score in the backward pass, before `step` counts the step."""
        with self._next_step():
            return self._scores(layer, positions, gradient)

    def _growth_limit(self, layer: SparseLayer) -> int:
        with self._next_step():
            assert self.current_round is not None
            return self.max_growth(layer, self.current_round)

    @staticmethod
    def _finite(layer: SparseLayer, scores: Tensor) -> Tensor:
        if not bool(torch.isfinite(scores).all()):
            raise NonFiniteError(
                f"a weight, gradient or score of layer {layer.name!r} is not finite; no connection was changed"
            )
        return scores

    def _grows_next(self) -> bool:
        return self.needs_gradient and self.updates_next

    def _settings(self) -> dict[str, Any]:
        schedule = self.schedule
        return {
            "final_sparsity": self.final_sparsity,
            "distribution": [self.distribution.name, list(self.distribution.dense_layers)],
            "total_steps": self.total_steps,
            "schedule": None if schedule is None else [schedule.start, schedule.interval, schedule.rounds],
            "death_ratio": self.initial_death_ratio,
            "min_death_ratio": self.min_death_ratio,
            "regrow_dropped": self.regrow_dropped,
            "seed": self.seed,
        }
