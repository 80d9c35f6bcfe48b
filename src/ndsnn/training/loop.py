"""The training loop, read top to bottom: epochs, steps, topology updates, validation, checkpoints, one test."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ndsnn import data
from ndsnn.config import TrainConfig
from ndsnn.errors import NonFiniteError
from ndsnn.losses import LOSSES, predict
from ndsnn.models.norm_statistics import spread_norms
from ndsnn.ranks import ALONE, Ranks
from ndsnn.sparse.agreement import require_same_topology
from ndsnn.sparse.handle import parameters_of
from ndsnn.sparse.methods import Dense, TopologyUpdate
from ndsnn.sparse.storage import load, save
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.build import Parts
from ndsnn.training.checkpoint import share_network, share_training
from ndsnn.training.costs import relative_training_cost
from ndsnn.training.device import Placed
from ndsnn.training.display import Display
from ndsnn.training.distributed import GradientAverage
from ndsnn.training.evaluate import Evaluation, evaluate
from ndsnn.training.preparation import choose_connections
from ndsnn.training.progress import Progress
from ndsnn.training.resumable import Resumable
from ndsnn.training.run_directory import METRICS, RunDirectory
from ndsnn.training.signals import stop_signals
from ndsnn.training.summary import Tested, epoch_row, layer_table, summarise
from ndsnn.training.tracking import Tracker


class Trainer(Resumable):
    """Trains one run in its directory.

    Args:
        config: The settings.
        parts: What `build` made of them.
        run: The directory, created.
        console: Where progress is shown.
        dense_rates: R_d per epoch of a dense run, for the relative training cost.
        ranks: The processes that train it together; each has the same arguments, but only rank 0 touches `run`.
    """

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        run: RunDirectory,
        console: Console,
        dense_rates: list[float] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(config, parts, run, console, ranks)
        self.dense_rates = dense_rates
        self.total_steps = parts.steps_per_epoch * self.timeline.epochs
        self.criterion: Callable[[Tensor, Tensor], Tensor] = LOSSES[config.loss]
        self.augmentation = self.images.augmentation(self.config.data.augment)
        spread_norms(self.net, ranks if config.sync_norms else ALONE)
        self._average_gradients = GradientAverage(self.net, self.optimizer, self.method, ranks)
        self._placed = Placed(config)

    def train(self) -> dict[str, Any]:
        """Run to the end, from where the progress is.

        Returns:
            The summary, which is also written to summary.json.

        Raises:
            RunInterrupted: A signal stopped the run; its checkpoint is written.
            NonFiniteError: The loss or a gradient at an update step is not finite.
            RankError: Another rank is gone, or the ranks have drifted apart.
        """
        with (
            stop_signals() as self._stop,
            Tracker(self.run.path, self.config.tensorboard and self.ranks.main, self.progress.step) as tracker,
            Display(self.console, self.timeline.epochs, self.total_steps, self.progress.step) as display,
        ):
            share_training(self.net, self.optimizer, self.method, self.ranks)
            require_same_topology(self.method.layers, "at the start")
            self._prepare()
            while self._epochs_left(display):
                self._train_epoch(display)
                row = self._finish_epoch()
                display.epoch(row, self._time_left())
                tracker.epoch(row)
            return self._finish()

    def _prepare(self) -> None:
        """Let the method choose connections before the first step, and save: it is not asked again."""
        if update := choose_connections(
            self.method, self.images, self.config, self.criterion, self._leave_preparation
        ):
            require_same_topology(self.method.layers, "after the choice of connections")
            self._record(update)
            self._save_and_stop() if self._stopped() else self._save()

    def _epochs_left(self, display: Display) -> bool:
        """Say whether an epoch is to be trained; asked before each one."""
        return self.progress.epoch < self.timeline.epochs

    def _train_epoch(self, display: Display) -> None:
        progress, total = self.progress, self.steps_per_epoch
        self._set_learning_rate()
        begin = time.perf_counter() - progress.epoch_seconds
        sizes = data.batch_sizes(len(self.images.train), self.config.batch_size)[progress.batch :]
        for (x, y), count in zip(self._training_batches(), sizes, strict=True):
            with self.ranks.batch_of(count):
                loss, correct = self._step(x, y, count)
            progress.loss_sum += loss * count
            progress.correct += correct
            progress.seen += count
            progress.batch += 1
            progress.epoch_seconds = time.perf_counter() - begin
            display.batch(
                progress.epoch + 1,
                progress.step,
                count,
                progress.loss_sum / progress.seen,
                progress.correct / progress.seen,
                1 - self.alive / self.weights,
                self.meter.firing_rate,
            )
            every = self.config.checkpoint_every
            if self._stop_due:
                self._save_and_stop()
            elif every and progress.step % every == 0 and progress.batch < total:
                self._save()

    def _step(self, x: Tensor, y: Tensor, count: int) -> tuple[float, int]:
        """Do one optimizer step and, where it is due, one topology update.

        Args:
            x: This rank's samples.
            y: Their labels.
            count: Samples of the whole batch.

        Returns:
            Mean loss of the whole batch, and how many of its samples were classified correctly.
        """
        # A rank's loss weighs as much as it has samples of the batch, so that the mean over ranks is the batch's.
        share = 1.0 if self.ranks.duplicated else self.ranks.size * len(y) / count
        x, y = self._placed(x, y)
        with self.precision.autocast():
            with self.meter.counting(self.ranks.counts):
                logits = self.net(x)
            loss = self.criterion(logits, y)
        value, correct = self._agree(float(loss.detach()), int((predict(logits.detach()) == y).sum()), share)
        self.optimizer.zero_grad()
        self.precision.backward(loss if share == 1 else loss * share)
        self._average_gradients()
        if not self.precision.scaled:
            self._require_finite_gradients()
        self.progress.alive_steps += self.alive
        if self.method.updates_next:
            self.meter.flush()
        update = self._update()
        self.progress.step += 1
        if update is not None:
            self._record(update)
        return value, correct

    def _update(self) -> TopologyUpdate | None:
        """Let the optimizer change the weights and the method the topology."""
        try:
            if self.precision.step():
                return self.method.step()
        except OverflowError as error:
            raise self._non_finite(str(error)) from error
        for layer in self.method.layers:
            layer.release_gradient()
        return None

    def _agree(self, loss: float, correct: int, share: float) -> tuple[float, int]:
        """Return loss and correct answers over all ranks, told of each other's signals; stop all if one has to."""
        if not self.ranks.alone:
            found = self.ranks.gather([loss, correct, share, self._own_signal])
            self._agree_to_stop([one[3] for one in found])
            for number, one in enumerate(found):
                if not math.isfinite(one[0]):
                    raise self._non_finite(f"the loss of rank {number} is {one[0]}")
            loss = sum(one[0] * one[2] for one in found) / len(found)
            correct = int(found[0][1] if self.ranks.duplicated else sum(one[1] for one in found))
        if not math.isfinite(loss):
            raise self._non_finite(f"the loss is {loss}")
        return loss, correct

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
        self._append(METRICS, [row])
        progress.epoch += 1
        if self._may_be_best and result.accuracy > progress.best_val_accuracy:
            progress.best_epoch, progress.best_val_accuracy = progress.epoch, result.accuracy
            notes = {"epoch": progress.epoch, "val_accuracy": result.accuracy, "layers": self.layers}
            self.ranks.on_main(partial(self._save_best, notes))
        progress.begin_epoch()
        self.meter.reset()
        self._save()
        self.ranks.on_main(self._forget_older_best)
        if self._stopped():
            self._save_and_stop()
        return row

    def _save_best(self, notes: dict[str, Any]) -> None:
        save(self.net, self.run.best(self.progress.epoch), notes)

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
        cost, meter = 1.0 if isinstance(self.method, Dense) else None, self._whole_meter()
        if self.dense_rates is not None:
            dense = self.dense_rates[self.timeline.place(progress.epoch).epoch]
            cost = relative_training_cost(meter.firing_rate, 1 - density, dense)
        sparsities = {"sparsity": 1 - self.alive / self.weights, "mean_sparsity": 1 - density}
        lr = self.optimizer.param_groups[0]["lr"]
        return epoch_row(progress, result, sparsities, meter, cost, lr)

    def _finish(self) -> dict[str, Any]:
        """Test, write the summary and return it."""
        tested = self._test()
        return self.ranks.on_main(lambda: self._write_summary(tested))

    def _write_summary(self, tested: Tested) -> dict[str, Any]:
        """Write the summary of the run and return it."""
        summary = self._summary(tested, self.config, self.progress, self.run.read_rows(METRICS))
        return self.run.write_summary(summary)

    def _test(self) -> Tested:
        """Touch the test set, for the only time: the last network and the one best by validation."""
        images, progress = self.images.test(), self.progress
        meter = ActivityMeter(self.net)
        last = self._evaluate(images, meter=meter)
        best: Evaluation | None = last
        if not progress.best_epoch:
            best = None
        elif progress.best_epoch != progress.epoch:
            best = self._evaluate(images, self._best_network())
        return Tested(meter, last, best)

    def _best_network(self) -> nn.Module:
        """Return a copy of the network with what was best by validation, which rank 0 reads."""
        net = copy.deepcopy(self.net)

        def read() -> None:
            load(self.run.best(self.progress.best_epoch), net)

        self.ranks.on_main(read)
        share_network(net, self.ranks)
        return net

    def _summary(
        self, tested: Tested, config: TrainConfig, progress: Progress, rows: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the summary of this run, or of a part of it with rows and progress of its own."""
        summary = summarise(
            config, self.engine, progress, self.method, self.net, tested, rows, self.images, self.ranks
        )
        return summary | {"changed_on_resume": self.changes}

    def _evaluate(
        self, images: data.SampleSet, net: nn.Module | None = None, meter: ActivityMeter | None = None
    ) -> Evaluation:
        batches = data.evaluation_batches(
            images,
            self.config.batch_size,
            mean=self.images.mean,
            std=self.images.std,
            part=None if self.ranks.alone else self.ranks.part,
        )
        placed = (self._placed(x, y) for x, y in batches)
        sizes = data.batch_sizes(len(images), self.config.batch_size)
        net = self.net if net is None else net
        with self.precision.autocast():
            result = evaluate(net, placed, self.criterion, meter, self._stopped, self.ranks, sizes)
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
            part=None if self.ranks.alone else self.ranks.part,
        )

    def _set_learning_rate(self) -> None:
        """Cosine from lr at the first epoch to 0 after the last, or constant."""
        rate, place = self.config.lr, self.timeline.place(self.progress.epoch)
        if self.config.lr_schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * place.epoch / place.length))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _time_left(self) -> float:
        progress = self.progress
        per_step = progress.seconds / progress.step if progress.step else 0.0
        return per_step * (self.total_steps - progress.step)
