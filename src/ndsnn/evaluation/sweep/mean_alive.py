"""How many weights of each layer are alive on average over a run (Eq. 4), from the settings alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ndsnn.config import TrainConfig
from ndsnn.sparse.methods import ADMM, SNIP, ConstantSparsity, Dense, SparseTraining
from ndsnn.sparse.schedules import fit_schedule
from ndsnn.sparse.sparsify import Distribution
from ndsnn.training.build import plan_epochs, resolve_method, resolve_sparsities
from ndsnn.training.lottery.plan import LotteryPlan

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Alive:
    """Alive weights of a run.

    Args:
        mean: Per layer, averaged over all steps.
        epochs: Of the whole run.
        kept: Weights alive at the end, added up over the runs of which it consists.
        runs: Of how many runs it consists.
    """

    mean: dict[str, float]
    epochs: int
    kept: float
    runs: int = 1


def mean_alive(config: TrainConfig, shapes: Shapes, steps_per_epoch: int) -> Alive:
    """Return how many weights are alive over a run.

    Raises:
        NdsnnError: The sparsities or the schedule do not go with the network or the length of the run.
    """
    method = resolve_method(config.method.name)
    initial, final = resolve_sparsities(config.method, method)
    timeline = plan_epochs(config)
    if isinstance(timeline, LotteryPlan):
        return _over_rounds(timeline, shapes)
    spread = Distribution(config.method.distribution, config.method.dense_layers)
    ends = spread.counts(shapes, final)
    if issubclass(method, SNIP):
        # Which layer has how many is not known before the images are seen.
        density = sum(ends.values()) / sum(math.prod(shape) for shape in shapes.values())
        mean = {name: math.prod(shape) * density for name, shape in shapes.items()}
        return Alive(mean, config.epochs, sum(ends.values()))
    if issubclass(method, Dense | ConstantSparsity):
        return Alive({name: float(count) for name, count in ends.items()}, config.epochs, sum(ends.values()))
    begins = spread.counts(shapes, initial)
    share = ramp_share(config, method, steps_per_epoch * config.epochs)
    mean = {name: end + (begins[name] - end) * share for name, end in ends.items()}
    return Alive(mean, config.epochs, sum(ends.values()))


def _over_rounds(plan: LotteryPlan, shapes: Shapes) -> Alive:
    """Return the mean over all epochs of all rounds, each layer at the density of the whole network."""
    epochs = [plan.end(number) - plan.begin(number) for number in range(plan.rounds + 1)]
    density = sum((1 - s) * count for s, count in zip(plan.sparsities, epochs, strict=True)) / plan.epochs
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    kept = sum(sizes.values()) * sum(1 - sparsity for sparsity in plan.sparsities)
    return Alive({name: size * density for name, size in sizes.items()}, plan.epochs, kept, plan.rounds + 1)


def ramp_share(config: TrainConfig, method: type[SparseTraining], total_steps: int) -> float:
    """Return the mean over all steps of (1 − q/n)³, q the round that was last: what is left of θi − θf.

    ADMM keeps all of it until its last round.
    """
    settings: dict[str, Any] = {"start": config.method.start, "stop_fraction": config.method.stop_fraction}
    given = {name: value for name, value in settings.items() if value is not None}
    schedule = fit_schedule(total_steps, interval=config.method.update_every, **given)
    if issubclass(method, ADMM):
        return schedule.steps[-1] / total_steps
    first = schedule.start + schedule.interval
    ramp = sum((1 - q / schedule.rounds) ** 3 for q in range(1, schedule.rounds)) * schedule.interval
    return (first + ramp) / total_steps
