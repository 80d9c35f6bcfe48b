"""The training loop of lottery-ticket runs: after each round test, write its directory, prune, rewind."""

from __future__ import annotations

from typing import Any

from ndsnn.sparse.methods import LTH
from ndsnn.sparse.storage import pack_network
from ndsnn.training.display import Display
from ndsnn.training.evaluate import Evaluation
from ndsnn.training.loop import Trainer
from ndsnn.training.lottery.plan import LotteryPlan
from ndsnn.training.lottery.rounds import list_rounds, record_round, write_round
from ndsnn.training.run_directory import METRICS, TOPOLOGY
from ndsnn.training.summary import Tested


class LotteryTrainer(Trainer):
    """Trains all rounds of a lottery-ticket run in its directory (see `Trainer`).

    Epochs and steps count through all rounds. What has to survive a stop between two rounds is in the checkpoint
    of the last epoch: the end of a round is done again from there, and gives the same.
    """

    method: LTH
    timeline: LotteryPlan

    def resume(self) -> str:
        """Continue from the newest good checkpoint (see `Trainer.resume`); a pruning after it is taken back."""
        note = super().resume()
        self.ranks.on_main(lambda: self.run.keep_rows(TOPOLOGY, "round", self.method.round))
        return note

    def _epochs_left(self, display: Display) -> bool:
        """Begin the next round where one is over; say whether an epoch is to be trained."""
        number = self.method.round
        if self.progress.epoch == self.timeline.end(number) and number < self.timeline.rounds:
            entry = self._end_round()
            self._begin_round()
            display.line(
                f"round {number} done: sparsity {entry['final_sparsity']:.3%}, test {entry['test_accuracy']:.2%}; "
                f"pruned to {self.method.current_sparsity():.3%}, rewound to epoch {self.timeline.rewind_epoch}"
            )
        return super()._epochs_left(display)

    def _end_round(self, tested: Tested | None = None) -> dict[str, Any]:
        """Test the round that is over, write its directory and return its summary."""
        tested = self._test() if tested is None else tested
        meter = self._whole_meter().state_dict()
        return self.ranks.on_main(lambda: self._write_round(tested, meter))

    def _write_round(self, tested: Tested, meter: dict[str, Any]) -> dict[str, Any]:
        record = record_round(self.run, self.config, self.timeline, self.progress, self.method.round)
        summary = self._summary(tested, record.config, record.progress, record.metrics)
        summary |= {"round": record.number, "lottery": self.timeline.summary()}
        network, header = pack_network(self.net)
        state = {
            "network": header,
            "data": self.images.fingerprint,
            "layers": self.layers,
            "meter": meter,
        }
        best = self.run.best(self.progress.best_epoch) if self.progress.best_epoch else None
        tensors = {f"network/{key}": value for key, value in network.items()}
        write_round(self.run, record, summary, best, tensors, state)
        return summary

    def _begin_round(self) -> None:
        """Prune, rewind and save; the best epoch is chosen anew."""
        update = self.method.next_round()
        self._record(update._replace(step=self.progress.step))
        self.progress.best_epoch, self.progress.best_val_accuracy = 0, -1.0
        self.layers = []
        self._save()

    def _finish(self) -> dict[str, Any]:
        """Test the last round, write its directory, then the summary of all rounds."""
        tested = self._test()
        self._end_round(tested)
        return self.ranks.on_main(lambda: self._write_summary(tested))

    def _write_summary(self, tested: Tested) -> dict[str, Any]:
        """Write the summary of the run and return it."""
        extra = {
            "lottery": self.timeline.summary(),
            "rounds": list_rounds(self.run, self.timeline.rounds + 1),
        }
        summary = self._summary(tested, self.config, self.progress, self.run.read_rows(METRICS)) | extra
        return self.run.write_summary(summary)

    @property
    def _may_be_best(self) -> bool:
        """The topology of a round is fixed, so each of its epochs may be its best."""
        return True

    def _epoch_row(self, result: Evaluation) -> dict[str, Any]:
        """Return the row of `Trainer`, with the round and the epoch of the recipe (from 1 on)."""
        place = self.timeline.place(self.progress.epoch)
        return super()._epoch_row(result) | {"round": place.round, "round_epoch": place.epoch + 1}
