"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Where a run is. All of it goes into a checkpoint.

    Args:
        epoch: Epochs that are done, validation included.
        batch: Batches done in the present epoch.
        step: Optimizer steps done.
        loss_sum: Σ loss · images in this epoch.
        correct: Images classified correctly in this epoch, in training mode.
        seen: Images seen in this epoch.
        alive_steps: Σ over the steps of this epoch of the alive weights.
        epoch_seconds: Wall time of this epoch so far.
        seconds: Wall time of all training so far.
        best_epoch: Epoch of the best validation accuracy at θf, 0 while there is none.
        best_val_accuracy: That accuracy.
        last_val_accuracy: Validation accuracy after the last epoch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    alive_steps: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_val_accuracy: float = -1.0
    last_val_accuracy: float = 0.0

    def begin_epoch(self) -> None:
        """Set what is counted per epoch back to 0."""
        self.batch = self.correct = self.seen = self.alive_steps = 0
        self.loss_sum = self.epoch_seconds = 0.0
