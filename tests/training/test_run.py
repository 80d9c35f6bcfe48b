"""A whole run: its files, its figures, its rules."""

import json
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_runs import elsewhere, quiet
from torch import nn

import ndsnn
from ndsnn.config import MethodConfig, from_plain
from ndsnn.config_parser import read_config
from ndsnn.data import registry
from ndsnn.engine import library
from ndsnn.errors import ConfigError, NonFiniteError
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training import loop
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.build import build
from ndsnn.training.inspect import evaluate_run, inspect_path
from ndsnn.training.run import train

METRICS = {
    "epoch", "step", "train_loss", "train_accuracy", "val_accuracy", "sparsity", "firing_rate",
    "synaptic_operations", "relative_cost", "seconds", "peak_memory_mb",
}  # fmt: skip


def read_rows(path, name):
    return [json.loads(line) for line in (Path(path) / name).read_text().splitlines()]


def test_files_of_a_run(tiny_either):
    summary = train(tiny_either, quiet())
    path = Path(tiny_either.output)
    assert json.loads((path / "summary.json").read_text()) == summary
    assert from_plain(summary["config"]) == tiny_either
    assert read_config(path / "config.yaml") == tiny_either
    assert not list(path.parent.glob(".*")), "nothing is left of the making of the directory"
    rows = read_rows(path, "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [11, 22]
    assert set(rows[0]) >= METRICS
    updates = read_rows(path, "topology.jsonl")
    assert [u["step"] for u in updates] == [s for s in (4, 8, 12, 16) for _ in range(3)]
    assert set(updates[0]) >= {"layer", "dropped", "grown", "nnz"}
    for name in ("last.safetensors", "last.json", "previous.safetensors", "previous.json"):
        assert (path / "checkpoints" / name).is_file()
    assert summary["final_sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert sum(row["alive"] for row in summary["layers"]) == updates[-1]["nnz"] + sum(
        u["nnz"] for u in updates[-3:-1]
    )
    assert summary["machine"]["threads"] == 1
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert summary["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert sum(row["share_of_operations"] for row in summary["layers"]) == pytest.approx(1)
    assert summary["engine"] == tiny_either.engine
    assert summary["engine_reason"] == "it was asked for"
    isa = summary["instruction_set"]
    assert (isa in library.load().available_isas()) if tiny_either.engine == "native" else (isa is None)
    assert summary["machine"]["instruction_set"] == isa


def test_evaluate_and_inspect_agree_with_the_summary(tiny_either):
    summary = train(tiny_either, quiet())
    path = Path(tiny_either.output)
    last, best = (evaluate_run(path, which, "test") for which in ("last", "best"))
    assert last["engine"] == best["engine"] == tiny_either.engine
    assert last["accuracy"] == summary["test_accuracy"]
    assert best["accuracy"] == summary["best_test_accuracy"]
    assert best["epoch"] == summary["best_epoch"]
    assert evaluate_run(path, "last", "validation")["accuracy"] == summary["val_accuracy"]
    assert last["synaptic_operations_per_image"] == summary["costs"]["synaptic_operations_per_image"]
    assert inspect_path(path)["layers"] == summary["layers"]
    of_file = inspect_path(path / "checkpoints" / f"best-{summary['best_epoch']}.safetensors")["layers"]
    assert [row["alive"] for row in of_file] == [row["alive"] for row in summary["layers"]]
    assert all(0 < row["firing_rate"] < 1 for row in of_file if row["firing_rate"] is not None)
    (path / "summary.json").unlink()
    under_way = inspect_path(path)["layers"]
    assert sum(row["share_of_operations"] for row in under_way) == pytest.approx(1)
    net = ndsnn.load(path / "checkpoints" / f"best-{summary['best_epoch']}.safetensors")
    assert ndsnn.sparsity(net) == pytest.approx(summary["final_sparsity"])


def test_the_run_learns(tiny_either):
    config = replace(tiny_either, epochs=20, lr=0.2, model=replace(tiny_either.model, layers=(16, "M", 32, "M")))
    summary = train(config, quiet())
    # Seeds 0 to 2 end between 0.83 and 0.89 on both engines.
    assert summary["test_accuracy"] > 0.75, "ten classes: chance is 0.1"


def test_the_test_set_is_touched_once_and_last(tiny, monkeypatch):
    calls = []
    original = registry._load_test

    def counted(*arguments):
        calls.append((Path(tiny.output) / "metrics.jsonl").read_text().count("\n"))
        return original(*arguments)

    monkeypatch.setattr(registry, "_load_test", counted)
    train(tiny, quiet())
    assert calls == [tiny.epochs]


def test_the_best_epoch_is_chosen_only_at_the_final_sparsity(tiny, monkeypatch):
    """Validation accuracy falls from epoch to epoch, yet the first, not yet sparse enough, is not the best."""
    accuracies = chain([0.9, 0.8, 0.7, 0.6], repeat(0.5))  # the test comes last
    original = loop.evaluate

    def falling(*arguments, **keywords):
        return original(*arguments, **keywords)._replace(accuracy=next(accuracies))

    monkeypatch.setattr(loop, "evaluate", falling)
    summary = train(replace(tiny, epochs=4), quiet())
    # Rounds at 4, 8, …, 32 of 44 steps: θf is reached in the third epoch.
    assert summary["best_epoch"] == 3
    assert summary["best_val_accuracy"] == 0.7


def test_same_seed_same_run_other_seed_other_run(tiny):
    first = train(tiny, quiet())
    again = train(elsewhere(tiny, "again"), quiet())
    other = train(elsewhere(tiny, "other", seed=1), quiet())
    losses = [read_rows(s["config"]["output"], "metrics.jsonl")[-1]["train_loss"] for s in (first, again, other)]
    assert losses[0] == losses[1] != losses[2]


def test_relative_cost_against_a_dense_run(tiny):
    dense = elsewhere(tiny, "dense", method=MethodConfig("dense"))
    assert train(dense, quiet())["costs"]["relative_training_cost"] == 1
    summary = train(replace(tiny, dense_run=dense.output), quiet())
    pairs = zip(read_rows(tiny.output, "metrics.jsonl"), read_rows(dense.output, "metrics.jsonl"), strict=True)
    costs = [s["firing_rate"] * (1 - s["mean_sparsity"]) / d["firing_rate"] for s, d in pairs]
    assert summary["costs"]["relative_training_cost"] == pytest.approx(sum(costs) / 2)


def test_a_dense_run_of_another_recipe_is_refused(tiny):
    dense = elsewhere(tiny, "dense", method=MethodConfig("dense"))
    train(dense, quiet())
    for key, change in {"lr": 0.01, "optimizer": "adam", "epochs": 3, "loss": "mean_logits"}.items():
        with pytest.raises(ConfigError, match=f"dense_run .* has {key} ="):
            train(replace(tiny, dense_run=dense.output, **{key: change}), quiet())


def test_spoilt_weights_are_never_saved(tiny_either, monkeypatch):
    """A finite gradient may overflow a weight in the last step before a checkpoint."""
    original = loop.Trainer._step

    def stepping(trainer, *batch):
        result = original(trainer, *batch)
        if trainer.progress.step == 22:
            layer = trainer.method.layers[0]
            with torch.no_grad():
                layer.weight.copy_(layer.per_weight(torch.full((layer.nnz,), float("inf"))))
        return result

    monkeypatch.setattr(loop.Trainer, "_step", stepping)
    with pytest.raises(NonFiniteError, match=r"last\.safetensors of step 11"):
        train(tiny_either, quiet())
    state = checkpoints.load_checkpoint(Path(tiny_either.output) / "checkpoints").state
    assert state["step"] == 11


def test_a_run_that_never_gets_sparse_enough_has_no_best_network(tiny, monkeypatch):
    monkeypatch.setattr("ndsnn.NDSNN.at_final_sparsity", False)
    summary = train(tiny, quiet())
    assert summary["best_epoch"] is None
    assert 0 <= summary["test_accuracy"] <= 1


def test_averages_are_analog_though_the_first_sample_is_empty():
    linear = nn.Linear(2, 3)
    meter = ActivityMeter(linear)
    with meter.counting():
        linear(torch.tensor([[0.0, 0.0], [0.25, 0.0]]))
    assert meter.total_operations(spiking=False) == 3
    assert meter.total_operations(spiking=True) == 0


def spoil_gradient(layer, alive):
    """Make the gradient of all alive weights infinite, or that of all places where there is none."""
    if isinstance(layer.module, CompressedModule):
        if alive:
            layer.weight.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
            return
        original, dead = layer.module.watcher, ~layer.mask

        def watcher():
            sink = original()
            return lambda first, gradient: sink(
                first, gradient.masked_fill(dead[first : first + len(gradient)], float("inf"))
            )

        layer.module.watcher = watcher
        return
    places = layer.mask if alive else ~layer.mask
    layer.weight.register_hook(lambda gradient: gradient.masked_fill(places, float("inf")))


@pytest.mark.parametrize("where", ["loss", "gradient", "inactive gradient"])
def test_a_non_finite_value_stops_before_weights_and_masks_change(tiny_either, monkeypatch, where):
    trainers = []
    original = loop.Trainer._step

    def stepping(trainer, *batch):
        trainers.append(trainer)
        if trainer.progress.step == 15:  # the next step is an update step
            trainer.before = {k: v.clone() for k, v in trainer.net.named_parameters()}
            trainer.masks_before = [m.clone() for m in trainer.method.masks()]
            if where == "loss":
                criterion = trainer.criterion
                trainer.criterion = lambda logits, y: criterion(logits, y) * float("nan")
            else:
                spoil_gradient(trainer.method.layers[1], alive=where == "gradient")
        return original(trainer, *batch)

    monkeypatch.setattr(loop.Trainer, "_step", stepping)
    with pytest.raises(NonFiniteError, match=r"step 16 .*last good checkpoint: .*last\.safetensors"):
        train(tiny_either, quiet())
    trainer = trainers[-1]
    for key, value in trainer.net.named_parameters():
        assert torch.equal(value, trainer.before[key])
    for mask, before in zip(trainer.method.masks(), trainer.masks_before, strict=True):
        assert torch.equal(mask, before)


def test_resolved_defaults(tiny):
    for name, initial, final in [
        ("ndsnn", 0.7, 0.95),
        ("rigl", 0.95, 0.95),
        ("gmp", 0.0, 0.95),
        ("dense", 0.0, 0.0),
    ]:
        config = replace(tiny, epochs=20, method=MethodConfig(name))
        parts = build(config)
        assert parts.method.current_sparsity() == pytest.approx(initial, abs=2e-3)
        assert parts.method.final_sparsity == final


def test_tensorboard_events_when_asked_for(tiny):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(replace(tiny, tensorboard=True), quiet())
    events = EventAccumulator(str(Path(tiny.output) / "tensorboard"))
    events.Reload()
    written = [e.value for e in events.Scalars("val_accuracy")]
    assert written == pytest.approx([row["val_accuracy"] for row in read_rows(tiny.output, "metrics.jsonl")])


def test_best_network_file_has_no_pickle_and_only_alive_values(tiny_either):
    summary = train(tiny_either, quiet())
    with safe_open(
        str(Path(tiny_either.output) / "checkpoints" / f"best-{summary['best_epoch']}.safetensors"), "pt"
    ) as file:
        header = json.loads(file.metadata()["ndsnn"])
        for key, entry in header["layers"].items():
            assert file.get_tensor(f"{key}.values").numel() == entry["alive"]
