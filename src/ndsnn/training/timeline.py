"""Which epoch of the recipe a run is in: learning rate, order of images and dense firing rate go by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """Where an epoch of a run stands in the recipe.

    Args:
        round: The training it belongs to, counted from 0; a run has one, but for lottery tickets.
        epoch: Epochs of the recipe before it.
        length: Epochs over which its learning rate falls.
    """

    round: int
    epoch: int
    length: int


class Timeline(Protocol):
    """The epochs of a run."""

    @property
    def epochs(self) -> int:
        """Number of them, over all rounds."""

    def place(self, epoch: int) -> Place:
        """Return the place of the epoch that comes after `epoch` others."""


@dataclass(frozen=True)
class OneRound:
    """The ordinary run: one training from the first epoch to the last.

    Args:
        epochs: Number of epochs.
    """

    epochs: int

    def place(self, epoch: int) -> Place:
        """Return the epoch itself."""
        return Place(0, epoch, self.epochs)
