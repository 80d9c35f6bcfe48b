"""The training loop, read top to bottom: epochs, steps, topology updates, validation, checkpoints, one test."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ndsnn import data
from ndsnn.config import TrainConfig
from ndsnn.errors import CheckpointError, NonFiniteError
from ndsnn.losses import LOSSES, predict
from ndsnn.sparse.handle import parameters_of
from ndsnn.sparse.methods import Dense, TopologyUpdate
from ndsnn.sparse.storage import load, save
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.build import Parts
from ndsnn.training.costs import relative_training_cost
from ndsnn.training.display import Display
from ndsnn.training.evaluate import Evaluation, evaluate
from ndsnn.training.preparation import choose_connections
from ndsnn.training.progress import Progress
from ndsnn.training.run_directory import METRICS, TOPOLOGY, RunDirectory
from ndsnn.training.signals import RunInterrupted, StopRequest, stop_signals
from ndsnn.training.summary import Tested, epoch_row, layer_table, summarise
from ndsnn.training.tracking import Tracker


class Trainer:
    """Trains one run in its directory.

    Args:
        config: The settings.
        parts: What `build` made of them.
        run: The directory, created.
        console: Where progress is shown.
        dense_rates: R_d per epoch of a dense run, for the relative training cost.
    """

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        run: RunDirectory,
        console: Console,
        dense_rates: list[float] | None = None,
    ) -> None:
        self.config, self.run, self.console, self.dense_rates = config, run, console, dense_rates
        self.images, self.net, self.engine = parts.data, parts.net, parts.engine
        self.optimizer, self.method = parts.optimizer, parts.method
        self.steps_per_epoch = parts.steps_per_epoch
        self.timeline = parts.timeline
        self.total_steps = parts.steps_per_epoch * self.timeline.epochs
        self.criterion: Callable[[Tensor, Tensor], Tensor] = LOSSES[config.loss]
        self.augmentation = self.images.augmentation(self.config.data.augment)
        self.meter = ActivityMeter(self.net)
        self.progress = Progress()
        self.layers: list[dict[str, Any]] = []
        self.weights = sum(layer.size for layer in self.method.layers)
        self.alive = sum(layer.nnz for layer in self.method.layers)
        self._stop = StopRequest()

    def train(self) -> dict[str, Any]:
        """Run to the end, from where the progress is.

        Returns:
            The summary, which is also written to summary.json.

        Raises:
            RunInterrupted: A signal stopped the run; its checkpoint is written.
            NonFiniteError: The loss or a gradient at an update step is not finite.
        """
        with (
            stop_signals() as self._stop,
            Tracker(self.run.path, self.config.tensorboard, self.progress.step) as tracker,
            Display(self.console, self.timeline.epochs, self.total_steps, self.progress.step) as display,
        ):
            self._prepare()
            while self._epochs_left(display):
                self._train_epoch(display)
                row = self._finish_epoch()
                display.epoch(row, self._time_left())
                tracker.epoch(row)
            return self._finish()

    def resume(self) -> str:
        """Continue from the newest good checkpoint; rows written after it are taken back.

        Returns:
            A sentence that says from where.

        Raises:
            CheckpointError: There is no good checkpoint, or it belongs to another run.
        """
        if not checkpoints.has_checkpoint(self.run.checkpoints):
            # A kill inside the very first save leaves at most temporary files.
            self.run.keep_rows(METRICS, "step", 0)
            self.run.keep_rows(TOPOLOGY, "step", -1)
            return "no checkpoint was written yet; starting again from the beginning"
        found = checkpoints.load_checkpoint(self.run.checkpoints)
        if found.state["data"] != self.images.fingerprint:
            raise CheckpointError(
                f"{found.path}: the run was begun with other images of {self.images.name}, or another split"
            )
        checkpoints.restore_training(found, self.net, self.optimizer, self.method)
        self.meter.load_state_dict(found.state["meter"])
        self.progress = Progress(**found.state["progress"])
        self.layers = found.state["layers"]
        self.alive = sum(layer.nnz for layer in self.method.layers)
        self.run.keep_rows(METRICS, "epoch", self.progress.epoch)
        self.run.keep_rows(TOPOLOGY, "step", self.progress.step)
        note = f"resuming from {found.path} at epoch {self.progress.epoch + 1}, step {self.progress.step}"
        if found.skipped:
            checkpoints.set_aside_broken(self.run.checkpoints, found)
            note = f"{'; '.join(found.skipped)}; falling back to the previous good checkpoint. {note}"
        return note

    def _prepare(self) -> None:
        """Let the method choose connections before the first step, and save: it is not asked again."""
        if update := choose_connections(self.method, self.images, self.config, self.criterion):
            self._record(update)
            self._save()

    def _epochs_left(self, display: Display) -> bool:
        """Say whether an epoch is to be trained; asked before each one."""
        return self.progress.epoch < self.timeline.epochs

    def _train_epoch(self, display: Display) -> None:
        progress, total = self.progress, self.steps_per_epoch
        self._set_learning_rate()
        begin = time.perf_counter() - progress.epoch_seconds
        for x, y in self._training_batches():
            loss, correct = self._step(x, y)
            progress.loss_sum += loss * len(y)
            progress.correct += correct
            progress.seen += len(y)
            progress.batch += 1
            progress.epoch_seconds = time.perf_counter() - begin
            display.batch(
                progress.epoch + 1,
                progress.step,
                len(y),
                progress.loss_sum / progress.seen,
                progress.correct / progress.seen,
                1 - self.alive / self.weights,
                self.meter.firing_rate,
            )
            every = self.config.checkpoint_every
            if self._stop():
                self._save_and_stop()
            elif every and progress.step % every == 0 and progress.batch < total:
                self._save()

    def _step(self, x: Tensor, y: Tensor) -> tuple[float, int]:
        """Do one optimizer step and, where it is due, one topology update."""
        with self.meter.counting():
            logits = self.net(x)
        loss = self.criterion(logits, y)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._non_finite(f"the loss is {value}")
        self.optimizer.zero_grad()
        loss.backward()
        self._require_finite_gradients()
        self.progress.alive_steps += self.alive
        if self.method.updates_next:
            self.meter.flush()
        self.optimizer.step()
        update = self.method.step()
        self.progress.step += 1
        if update is not None:
            self._record(update)
        return value, int((predict(logits.detach()) == y).sum())

    def _require_finite_gradients(self) -> None:
        """Look at the gradients before the optimizer does, at the dense ones too where connections grow."""
        gradients = [p.grad for p in parameters_of(self.optimizer) if p.grad is not None]
        if not math.isfinite(get_total_norm(gradients)):
            raise self._non_finite("the gradient is not finite")
        try:
            self.method.require_finite_gradients()
        except NonFiniteError as error:
            raise self._non_finite(str(error)) from error

    def _finish_epoch(self) -> dict[str, Any]:
        """Validate, write the epoch's row, keep the best network and save."""
        progress = self.progress
        meter = ActivityMeter(self.net)
        result = self._evaluate(self.images.validation, meter=meter)
        if not math.isfinite(result.loss):
            raise self._non_finite(f"the validation loss is {result.loss}", done=True)
        progress.last_val_accuracy = result.accuracy
        self.layers = layer_table(self.net, meter, result.images)
        progress.seconds += progress.epoch_seconds
        row = self._epoch_row(result)
        self.run.append(METRICS, [row])
        progress.epoch += 1
        if self._may_be_best and result.accuracy > progress.best_val_accuracy:
            progress.best_epoch, progress.best_val_accuracy = progress.epoch, result.accuracy
            notes = {"epoch": progress.epoch, "val_accuracy": result.accuracy, "layers": self.layers}
            save(self.net, self.run.best(progress.epoch), notes)
        progress.begin_epoch()
        self.meter.reset()
        self._save()
        self._forget_older_best()
        if self._stop():
            self._save_and_stop()
        return row

    @property
    def _may_be_best(self) -> bool:
        """Whether the present epoch may be chosen as the best."""
        return self.method.at_final_sparsity

    def _forget_older_best(self) -> None:
        """Delete best networks that neither of the two checkpoints names."""
        epochs = sorted(int(p.stem.partition("-")[2]) for p in self.run.checkpoints.glob("best-*.safetensors"))
        for epoch in [e for e in epochs if e <= self.progress.best_epoch][:-2]:
            self.run.best(epoch).unlink()

    def _epoch_row(self, result: Evaluation) -> dict[str, Any]:
        """Return what metrics.jsonl says of the epoch that is ending."""
        progress = self.progress
        density = progress.alive_steps / (self.weights * self.steps_per_epoch)
        cost = 1.0 if isinstance(self.method, Dense) else None
        if self.dense_rates is not None:
            dense = self.dense_rates[self.timeline.place(progress.epoch).epoch]
            cost = relative_training_cost(self.meter.firing_rate, 1 - density, dense)
        sparsities = {"sparsity": 1 - self.alive / self.weights, "mean_sparsity": 1 - density}
        lr = self.optimizer.param_groups[0]["lr"]
        return epoch_row(progress, result, sparsities, self.meter, cost, lr)

    def _finish(self) -> dict[str, Any]:
        """Test, write the summary and return it."""
        summary = self._summary(self._test(), self.config, self.progress, self.run.read_rows(METRICS))
        self.run.write_summary(summary)
        return summary

    def _test(self) -> Tested:
        """Touch the test set, for the only time: the last network and the one best by validation."""
        images, progress = self.images.test(), self.progress
        meter = ActivityMeter(self.net)
        last = self._evaluate(images, meter=meter)
        best: Evaluation | None = last
        if not progress.best_epoch:
            best = None
        elif progress.best_epoch != progress.epoch:
            best = self._evaluate(images, load(self.run.best(progress.best_epoch), copy.deepcopy(self.net)))
        return Tested(meter, last, best)

    def _summary(
        self, tested: Tested, config: TrainConfig, progress: Progress, rows: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the summary of this run, or of a part of it with rows and progress of its own."""
        return summarise(config, self.engine, progress, self.method, self.net, tested, rows, self.images)

    def _evaluate(
        self, images: data.SampleSet, net: nn.Module | None = None, meter: ActivityMeter | None = None
    ) -> Evaluation:
        batches = data.evaluation_batches(
            images, self.config.batch_size, mean=self.images.mean, std=self.images.std
        )
        result = evaluate(self.net if net is None else net, batches, self.criterion, meter, self._stop)
        if result is None:
            self._save_and_stop()
        return result

    def _training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return data.batches(
            self.images.train,
            self.config.batch_size,
            seed=self.config.seed,
            epoch=self.timeline.place(self.progress.epoch).epoch,
            augmentation=self.augmentation,
            start_batch=self.progress.batch,
        )

    def _set_learning_rate(self) -> None:
        """Cosine from lr at the first epoch to 0 after the last, or constant."""
        rate, place = self.config.lr, self.timeline.place(self.progress.epoch)
        if self.config.lr_schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * place.epoch / place.length))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _record(self, update: TopologyUpdate) -> None:
        self.alive = sum(layer.nnz for layer in update.layers)
        self.run.append(
            TOPOLOGY, [{"step": update.step, "round": update.round} | layer._asdict() for layer in update.layers]
        )

    def _save(self) -> Path:
        """Write a checkpoint, unless the weights are spoilt: those of the last good one are worth more."""
        if not all(bool(torch.isfinite(p).all()) for p in self.net.parameters()):
            raise self._non_finite("a weight is not finite", done=True)
        tensors, state = checkpoints.pack_training(self.net, self.optimizer, self.method)
        state |= {
            "step": self.progress.step,
            "progress": asdict(self.progress),
            "meter": self.meter.state_dict(),
            "data": self.images.fingerprint,
            "layers": self.layers,
        }
        return checkpoints.save_checkpoint(self.run.checkpoints, tensors, state)

    def _save_and_stop(self) -> NoReturn:
        path = self._save()
        number = self._stop.signal_number or signal.SIGTERM
        raise RunInterrupted(
            f"stopped by {signal.Signals(number).name} at step {self.progress.step}; saved {path}; "
            f"go on with: ndsnn train --output {self.run.path} --resume",
            number,
        )

    def _non_finite(self, what: str, done: bool = False) -> NonFiniteError:
        """Return the error that stops the run in the step that comes next, or after one that is `done`."""
        try:
            found = checkpoints.load_checkpoint(self.run.checkpoints)
            last = f"{found.path} of step {found.state['step']}"
        except CheckpointError:
            last = "none was written yet"
        where = f"after step {self.progress.step}" if done else f"at step {self.progress.step + 1}"
        kept = "" if done else "weights and masks were left as they are; "
        return NonFiniteError(
            f"{what} {where} (epoch {self.progress.epoch + 1}); {kept}last good checkpoint: {last}; "
            f"try a lower lr than {self.config.lr}"
        )

    def _time_left(self) -> float:
        progress = self.progress
        per_step = progress.seconds / progress.step if progress.step else 0.0
        return per_step * (self.total_steps - progress.step)
