"""What of a run outlives its process: its checkpoints, how it goes on from them, and how it stops."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from rich.console import Console

from ndsnn.config import TrainConfig
from ndsnn.errors import CheckpointError, NonFiniteError
from ndsnn.ranks import Ranks
from ndsnn.sparse.methods import TopologyUpdate
from ndsnn.sparse.storage import read_sparse_file
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.build import Parts
from ndsnn.training.device import MixedPrecision, resolve_device
from ndsnn.training.progress import Progress
from ndsnn.training.provenance import changes, describe_changes, provenance
from ndsnn.training.run_directory import TOPOLOGY, RunDirectory
from ndsnn.training.saved_state import state_problem
from ndsnn.training.signals import RunInterrupted, StopRequest


class Resumable:
    """A run in its directory, of one process or of several ranks.

    All ranks call the same methods in the same order; rank 0 alone reads and writes the directory.

    Args:
        config: The settings.
        parts: What `build` made of them.
        run: The directory.
        console: Where progress is shown.
        ranks: The processes that train it together.
    """

    def __init__(
        self, config: TrainConfig, parts: Parts, run: RunDirectory, console: Console, ranks: Ranks
    ) -> None:
        self.config, self.run, self.console, self.ranks = config, run, console, ranks
        self.images, self.net, self.engine = parts.data, parts.net, parts.engine
        self.optimizer, self.method = parts.optimizer, parts.method
        self.steps_per_epoch, self.timeline = parts.steps_per_epoch, parts.timeline
        self.precision = MixedPrecision(config.amp, resolve_device(config.device), self.optimizer, self.method)
        self.meter = ActivityMeter(self.net)
        self.progress = Progress()
        self.layers: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self._provenance = provenance(parts.engine, config, ranks.size)
        self.weights = sum(layer.size for layer in self.method.layers)
        self.alive = sum(layer.nnz for layer in self.method.layers)
        self._stop = StopRequest()
        self._agreed_signal = 0

    def resume(self) -> str:
        """Continue from the newest good checkpoint; rows written after it are taken back.

        Returns:
            A sentence that says from where.

        Raises:
            CheckpointError: There is no good checkpoint, or it belongs to another run.
        """
        note = self.ranks.on_main(self._load)
        place = {"progress": asdict(self.progress), "layers": self.layers, "scale": self.precision.state_dict()}
        place = self.ranks.share(place)
        self.progress, self.layers = Progress(**place["progress"]), place["layers"]
        self.precision.load_state_dict(place["scale"])
        checkpoints.share_training(self.net, self.optimizer, self.method, self.ranks)
        self.alive = sum(layer.nnz for layer in self.method.layers)
        return note

    def _load(self) -> str:
        """Do what `resume` does, on the rank that reads."""
        if not checkpoints.has_checkpoint(self.run.checkpoints):
            # A kill inside the very first save leaves at most temporary files.
            self.run.take_back_rows(None)
            return "no checkpoint was written yet; starting again from the beginning"
        found = checkpoints.load_checkpoint(self.run.checkpoints, self._missing_part)
        if found.state["data"] != self.images.fingerprint:
            raise CheckpointError(
                f"{found.path}: the run was begun with other images of {self.images.name}, or another split"
            )
        checkpoints.restore_training(found, self.net, self.optimizer, self.method)
        self._restore_meter(found)
        self.progress = Progress(**found.state["progress"])
        self.layers = found.state["layers"]
        self.run.take_back_rows(found.state)
        checkpoints.settle(self.run.checkpoints, found)
        note = f"resuming from {found.path} at epoch {self.progress.epoch + 1}, step {self.progress.step}"
        if found.skipped:
            note = f"{'; '.join(found.skipped)}; falling back to the previous good checkpoint. {note}"
        return note + self._note_changes(found.state)

    def _restore_meter(self, found: checkpoints.Checkpoint) -> None:
        try:
            self.meter.load_state_dict(found.state["meter"])
            self.precision.load_state_dict(found.state.get("scale", {}))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{found.path} does not fit this run: {error!r}") from error

    def _missing_part(self, state: Mapping[str, Any]) -> str | None:
        """Say which file that a checkpoint counts on is not as it was; None if all are."""
        if problem := state_problem(state) or self.run.rows_problem(state):
            return problem
        best = state["progress"]["best_epoch"]
        try:
            if best:
                read_sparse_file(self.run.best(best))
        except CheckpointError as error:
            return str(error)
        return None

    def _note_changes(self, state: Mapping[str, Any]) -> str:
        """Keep in mind what computes the run now and did not before; return it as a line for the user."""
        self.changes = list(state.get("changes", []))
        changed = changes(state.get("made_by"), self._provenance)
        if not changed:
            return ""
        self.changes.append({"step": self.progress.step, "changed": changed})
        return f"\nndsnn: warning: {describe_changes(self.progress.step, changed)}"

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.ranks.on_main(lambda: self.run.append(name, rows))

    def _record(self, update: TopologyUpdate) -> None:
        self.alive = sum(layer.nnz for layer in update.layers)
        entry = {"step": update.step, "round": update.round}
        self._append(TOPOLOGY, [entry | layer._asdict() for layer in update.layers])

    def _whole_meter(self) -> ActivityMeter:
        """Return the counts of all ranks so far; those of this rank go on by themselves."""
        if self.ranks.alone:
            return self.meter
        whole = ActivityMeter(self.net)
        whole.load_state_dict(self.meter.state_dict())
        whole.sum_over(self.ranks)
        return whole

    def _save(self) -> str:
        """Write a checkpoint, unless the weights are spoilt: those of the last good one are worth more.

        Returns:
            Its path.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.net.parameters()):
            raise self._non_finite("a weight is not finite", done=True)
        meter = self._whole_meter().state_dict()
        return self.ranks.on_main(lambda: self._write_checkpoint(meter))

    def _write_checkpoint(self, meter: dict[str, Any]) -> str:
        tensors, state = checkpoints.pack_training(self.net, self.optimizer, self.method)
        state |= {
            "step": self.progress.step,
            "progress": asdict(self.progress),
            "meter": meter,
            "data": self.images.fingerprint,
            "layers": self.layers,
            "scale": self.precision.state_dict(),
            "rows": self.run.rows_written(),
            "made_by": self._provenance,
            "changes": self.changes,
        }
        return str(checkpoints.save_checkpoint(self.run.checkpoints, tensors, state))

    @property
    def _stop_due(self) -> bool:
        """Whether a signal has come, and all ranks know it."""
        return self._stop() if self.ranks.alone else bool(self._agreed_signal)

    def _stopped(self) -> bool:
        """Say whether a signal came to any rank; all ranks ask at the same places."""
        if not self.ranks.alone:
            self._agree_to_stop([one[0] for one in self.ranks.gather([self._own_signal])])
        return self._stop_due

    @property
    def _own_signal(self) -> float:
        """The signal that came to this rank, 0 for none."""
        return float(self._stop.signal_number or 0)

    def _agree_to_stop(self, signals: list[float]) -> None:
        """Take note of the signals of all ranks; one that comes here later is told at the next occasion."""
        self._agreed_signal = int(max(signals))

    def _save_and_stop(self) -> NoReturn:
        raise self._interrupted(f"at step {self.progress.step}; saved {self._save()}")

    def _leave_preparation(self) -> None:
        """Stop at a signal while connections are chosen; resumed, the run chooses them again, and the same."""
        if self._stopped():
            raise self._interrupted("before the first step; there is nothing to save yet")

    def _interrupted(self, where: str) -> RunInterrupted:
        number = self._agreed_signal or self._stop.signal_number or signal.SIGTERM
        return RunInterrupted(
            f"stopped by {signal.Signals(number).name} {where}; go on with: ndsnn train --output {self.run.path} "
            f"--resume",
            number,
        )

    def _non_finite(self, what: str, done: bool = False) -> NonFiniteError:
        """Return the error that stops the run in the step that comes next, or after one that is `done`."""
        where = f"after step {self.progress.step}" if done else f"at step {self.progress.step + 1}"
        kept = "" if done else "weights and masks were left as they are; "
        return NonFiniteError(
            f"{what} {where} (epoch {self.progress.epoch + 1}); {kept}last good checkpoint: "
            f"{self.ranks.on_main(self._last_good)}; try a lower lr than {self.config.lr}"
        )

    def _last_good(self) -> str:
        try:
            found = checkpoints.load_checkpoint(self.run.checkpoints)
        except CheckpointError:
            return "none was written yet"
        return f"{found.path} of step {found.state['step']}"
