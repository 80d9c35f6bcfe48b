"""How many rounds a lottery-ticket run has, and how many epochs each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ndsnn.errors import ConfigError
from ndsnn.sparse.distributions import round_half_up
from ndsnn.sparse.methods.pruning.lth import PRUNE_FRACTION, equal_fraction, round_sparsities
from ndsnn.training.timeline import Place

SETTINGS = frozenset({"prune_fraction", "rounds", "rewind_epoch", "budgeted"})
"""What a run may say of it, as method.settings."""

REWIND = Fraction(20, 300)
"""Part of the first round after which everything is remembered (Kim et al. 2022: 20 of 300 epochs)."""


@dataclass(frozen=True)
class LotteryPlan:
    """The rounds of a run, 0 being the dense one.

    Args:
        sparsities: θ of each round.
        lengths: Epochs over which the learning rate of each round falls.
        rewind_epoch: k; round 0 begins at epoch 0 of its length, the others at k.
        prune_fraction: Part of the survivors that each pruning takes; the last one may take less.
        budgeted: Whether all rounds together have as many epochs as the run was given.
    """

    sparsities: tuple[float, ...]
    lengths: tuple[int, ...]
    rewind_epoch: int
    prune_fraction: float
    budgeted: bool

    @property
    def rounds(self) -> int:
        """Number of prunings, one less than there are trainings."""
        return len(self.sparsities) - 1

    @property
    def epochs(self) -> int:
        """Epochs of all rounds together."""
        return self.end(self.rounds)

    def begin(self, number: int) -> int:
        """Return the epochs of the run that are done when a round begins."""
        return self.end(number - 1) if number else 0

    def end(self, number: int) -> int:
        """Return the epochs of the run that are done when a round ends."""
        return sum(self.lengths[: number + 1]) - number * self.rewind_epoch

    def place(self, epoch: int) -> Place:
        """Return the place of the epoch that comes after `epoch` others."""
        number = next(number for number in range(self.rounds + 1) if epoch < self.end(number))
        first = self.rewind_epoch if number else 0
        return Place(number, first + epoch - self.begin(number), self.lengths[number])

    def describe(self) -> str:
        """Return a line that says what is to come."""
        epochs = [self.end(number) - self.begin(number) for number in range(self.rounds + 1)]
        later = f"{epochs[1]} each" if len(set(epochs[1:])) == 1 else f"{epochs[1]} each, {epochs[-1]} in the last"
        return (
            f"{self.rounds} prunings of {self.prune_fraction:.2%} of the survivors, rewinding to the end of epoch "
            f"{self.rewind_epoch}; {epochs[0]} epochs, then {later}: {self.epochs} in all"
        )

    def method_settings(self, steps_per_epoch: int) -> dict[str, Any]:
        """Return the settings of `ndsnn.LTH` that make the same rounds."""
        equal = self.prune_fraction == equal_fraction(self.sparsities[-1], self.rounds)
        how = {"rounds": self.rounds} if equal else {"prune_fraction": self.prune_fraction}
        return how | {"rewind_step": self.rewind_epoch * steps_per_epoch}

    def summary(self) -> dict[str, Any]:
        """Return what stands in summary.json."""
        return {
            "prunings": self.rounds,
            "prune_fraction": self.prune_fraction,
            "rewind_epoch": self.rewind_epoch,
            "budgeted": self.budgeted,
        }


def plan_lottery(epochs: int, final_sparsity: float, settings: Mapping[str, Any]) -> LotteryPlan:
    """Plan a run (protocol of Kim et al., ECCV 2022).

    The full protocol trains round 0 for `epochs` E and each later one for the E − k that are left of it. Budgeted,
    all rounds together have E: each has r = ⌊(E − k)/(n + 1)⌋ beyond epoch k, the last one what is left over too.
    Where that is less than one, n is lowered to E − k − 1, so a round prunes a larger part.

    Args:
        epochs: E.
        final_sparsity: θf.
        settings: Of `SETTINGS`, those given.

    Raises:
        ConfigError: A setting is out of range, or the budget holds no round.
        SparsityError: θf is out of range.
    """
    fraction, wanted = settings.get("prune_fraction"), settings.get("rounds")
    sparsities = round_sparsities(final_sparsity, fraction, wanted)
    budgeted = settings.get("budgeted", False)
    if not isinstance(budgeted, bool):
        raise ConfigError(f"method.settings.budgeted is {budgeted!r}; it must be true or false")
    prunings = len(sparsities) - 1
    rewind = _rewind_epoch(settings, epochs, prunings if budgeted else 0)
    if budgeted and epochs - rewind < prunings + 1:
        if wanted is not None:
            raise ConfigError(
                f"{wanted} rounds and a dense one of at least one epoch each beyond epoch {rewind} need "
                f"{rewind + wanted + 1} epochs, more than the budget of {epochs}; raise epochs, or lower "
                f"method.settings.rounds or rewind_epoch"
            )
        prunings = epochs - rewind - 1
        sparsities = round_sparsities(final_sparsity, rounds=prunings)
        wanted = prunings
    if wanted is not None:
        fraction = equal_fraction(final_sparsity, wanted)
    lengths = [epochs] * (prunings + 1)
    if budgeted:
        share, left = divmod(epochs - rewind, prunings + 1)
        lengths = [rewind + share] * prunings + [rewind + share + left]
    return LotteryPlan(
        sparsities, tuple(lengths), rewind, PRUNE_FRACTION if fraction is None else float(fraction), budgeted
    )


def _rewind_epoch(settings: Mapping[str, Any], epochs: int, budgeted_prunings: int) -> int:
    """Return k: as asked for, else 20/300 of a round, and at least 1 where a round is longer than that.

    Raises:
        ConfigError: It is out of range.
    """
    most = epochs - 2 if budgeted_prunings else epochs - 1
    if most < 0:
        raise ConfigError(
            f"a budget of {epochs} epoch(s) holds no dense round and a pruned one; give at least 2 epochs"
        )
    given = settings.get("rewind_epoch")
    if given is None:
        return min(max(1, round_half_up(REWIND * epochs / (budgeted_prunings + 1))), most)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= most:
        raise ConfigError(
            f"method.settings.rewind_epoch is {given!r}; it must be a whole number from 0 to {most}, so that each "
            f"round of a run of {epochs} epochs has one beyond it"
        )
    return given
