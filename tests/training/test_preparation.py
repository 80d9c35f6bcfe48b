"""What a run does before its first step for a method that chooses connections by images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import elsewhere, quiet, rows
from torch import nn

import ndsnn
from ndsnn import data
from ndsnn.config import MethodConfig
from ndsnn.config_parser import read_config
from ndsnn.errors import ConfigError, SparsityError
from ndsnn.losses import LOSSES
from ndsnn.training.build import build
from ndsnn.training.run import train

SNIP = MethodConfig("snip", None, 0.9, settings={"samples_per_class": 3})


def test_a_snip_run(tiny_either):
    """It trains what `ndsnn.snip` chooses by class-balanced images, and says so in all its files."""
    config = replace(tiny_either, method=SNIP)
    parts = build(config)
    images = parts.data
    chosen = list(data.balanced_batches(images.train, 128, per_class=3, seed=0, mean=images.mean, std=images.std))
    assert [y.tolist() for _, y in chosen] == [[*range(10)] * 3]
    expected = ndsnn.snip(parts.net, chosen, LOSSES["mean_step"], 0.9)
    masks = {layer.name: layer.mask for layer in ndsnn.sparse.sparse_layers(expected)}

    summary = train(config, quiet())
    path = Path(config.output)
    net = ndsnn.load(path / "checkpoints" / f"best-{summary['best_epoch']}.safetensors")
    assert {layer.name: layer.nnz for layer in ndsnn.sparse.sparse_layers(net)} == {
        name: int(mask.sum()) for name, mask in masks.items()
    }
    for layer in ndsnn.sparse.sparse_layers(net):
        assert torch.equal(layer.mask, masks[layer.name])
    updates = rows(path, "topology.jsonl")
    assert [(row["step"], row["round"], row["grown"]) for row in updates] == [(0, 0, 0)] * 3
    assert [row["dropped"] + row["nnz"] for row in updates] == [layer.size for layer in parts.method.layers]
    kept = sum(row["nnz"] for row in updates)
    weights = sum(mask.numel() for mask in masks.values())
    assert kept == round(weights * 0.1)
    for row in rows(path, "metrics.jsonl"):
        assert row["sparsity"] == row["mean_sparsity"] == pytest.approx(1 - kept / weights)
    assert summary["initial_sparsity"] == summary["final_sparsity"] == pytest.approx(1 - kept / weights)
    assert [row["alive"] for row in summary["layers"]] == [row["nnz"] for row in updates]
    assert read_config(path / "config.yaml").method.initial_sparsity == 0.0


def test_the_choice_depends_on_the_seed(tiny):
    counts = []
    for number, seed in enumerate((0, 0, 1)):
        run = elsewhere(tiny, f"run{number}", method=SNIP, seed=seed, epochs=1)
        train(run, quiet())
        counts.append([row["nnz"] for row in rows(Path(run.output), "topology.jsonl")])
    assert counts[0] == counts[1] != counts[2]


def test_snip_among_the_connections_of_a_sparse_start(tiny):
    config = replace(tiny, method=replace(SNIP, initial_sparsity=0.5), epochs=1)
    train(config, quiet())
    updates = rows(Path(config.output), "topology.jsonl")
    drawn = [layer.nnz for layer in build(config).method.layers]
    assert [row["dropped"] + row["nnz"] for row in updates] == drawn
    assert sum(drawn) < sum(layer.size for layer in build(config).method.layers)


def test_other_methods_are_not_asked(tiny, monkeypatch):
    monkeypatch.setattr(ndsnn.data, "balanced_batches", None)
    train(replace(tiny, epochs=1), quiet())
    checkpoint = json.loads((Path(tiny.output) / "checkpoints" / "last.json").read_text())
    assert checkpoint["state"]["step"] == 11
    assert not (Path(tiny.output) / "checkpoints" / "previous.json").exists()


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        (replace(SNIP, initial_sparsity=0.95), SparsityError, "0.95 is above method.final_sparsity 0.9"),
        (replace(SNIP, update_every=4), ConfigError, "unknown setting of method snip 'update_every'"),
        (replace(SNIP, settings={"samples_per_class": 0}), ConfigError, "samples_per_class is 0"),
        (MethodConfig("online", settings={"shrink": 2.0}), ConfigError, "shrink is 2.0"),
        (MethodConfig("online", settings={"shrink": "much"}), ConfigError, "wrong type"),
        (MethodConfig("stdp", death_ratio=0.5), ConfigError, "unknown setting of method stdp 'death_ratio'"),
        (MethodConfig("stdp", settings={"samples": 0}), ConfigError, "samples is 0"),
    ],
)
def test_settings_that_do_not_go_with_the_method(tiny, method, error, words):
    with pytest.raises(error) as raised:
        train(replace(tiny, method=method), quiet())
    assert words in str(raised.value)
    assert not Path(tiny.output).exists()


@pytest.mark.parametrize("name", ["online", "stdp"])
def test_a_pruning_run_starts_dense_and_ends_at_its_sparsity(tiny_either, name):
    config = replace(tiny_either, method=MethodConfig(name, None, 0.9, update_every=4))
    summary = train(config, quiet())
    updates = rows(Path(config.output), "topology.jsonl")
    assert {row["step"] for row in updates} == {4, 8, 12, 16}
    assert sum(row["grown"] for row in updates) == 0
    assert summary["initial_sparsity"] == 0
    assert summary["final_sparsity"] == pytest.approx(0.9, abs=2e-3)


def test_a_network_of_other_neurons_is_refused_by_stdp():
    net = ndsnn.sparsify(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), 0.0)
    with pytest.raises(ConfigError, match="no ndsnn"):
        ndsnn.STDPPruning(net, torch.optim.SGD(net.parameters(), 0.1), 0.5, 10)
