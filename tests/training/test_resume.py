"""A stopped run that is resumed ends bit-equal to one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import elsewhere, needs_native, on_engine, quiet, require_same_run, rows

from ndsnn.config import MethodConfig
from ndsnn.config_parser import config_to_yaml
from ndsnn.errors import CheckpointError, ConfigError, RunError
from ndsnn.sparse.methods import SNIP
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training.build import build
from ndsnn.training.loop import Trainer
from ndsnn.training.run import train

METHODS = {
    "ndsnn": MethodConfig("ndsnn", 0.5, 0.8, update_every=4),
    "set": MethodConfig("set", None, 0.8, update_every=4),
    "rigl": MethodConfig("rigl", None, 0.8, update_every=4),
    "static": MethodConfig("static", None, 0.8),
    "snip": MethodConfig("snip", None, 0.8),
    "gmp": MethodConfig("gmp", None, 0.8, update_every=4),
    "online": MethodConfig("online", None, 0.8, update_every=4, settings={"threshold": 0.01}),
    "stdp": MethodConfig("stdp", None, 0.8, update_every=4),
    "granet": MethodConfig("granet", None, 0.8, update_every=4),
    "dst-ee": MethodConfig("dst-ee", None, 0.8, update_every=4, settings={"exploration": 0.1}),
    "dense": MethodConfig("dense"),
}


# Update steps are 4, 8, 12, 16; an epoch has 11 steps: before, at and after an update, and at an epoch's end.
@pytest.mark.parametrize("name", METHODS)
def test_resume_is_bit_equal(tiny_either, run_until, name):
    config = replace(tiny_either, method=METHODS[name])
    run_until(config)
    stopped = elsewhere(config, "stopped")
    for step in (3, 4, 5, 11, 15):
        message = run_until(replace(stopped, resume=step > 3), step)
        assert f"at step {step}" in message
        assert "--resume" in message
    run_until(replace(stopped, resume=True))
    require_same_run(Path(config.output), Path(stopped.output))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_resume_is_bit_equal_with_adam(tiny_either, run_until, optimizer):
    config = replace(tiny_either, optimizer=optimizer, lr=1e-3)
    run_until(config)
    stopped = elsewhere(config, "stopped")
    run_until(stopped, 7)
    run_until(replace(stopped, resume=True))
    require_same_run(Path(config.output), Path(stopped.output))


def test_many_stops(tiny_either, run_until):
    run_until(tiny_either)
    stopped = elsewhere(tiny_either, "stopped", checkpoint_every=2)
    run_until(stopped, 1)
    for step in (2, 6, 10, 11, 12, 21, 22):
        run_until(replace(stopped, resume=True), step)
    run_until(replace(stopped, resume=True))
    require_same_run(Path(tiny_either.output), Path(stopped.output))


@pytest.mark.parametrize(("first", "second"), [("native", "reference"), ("reference", "native")])
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("ndsnn", "sgd"),
        ("gmp", "adam"),
        ("dst-ee", "sgd"),
        ("dense", "adamw"),
        ("snip", "adam"),
        ("online", "sgd"),
        ("stdp", "sgd"),
    ],
)
def test_a_checkpoint_means_the_same_to_both_engines(tiny, run_until, first, second, name, optimizer):
    """What one engine saved is loaded by the other and saved again: all bits are as before."""
    config = replace(tiny, method=METHODS[name], optimizer=optimizer, lr=1e-2)
    run_until(on_engine(config, first), 13)
    found = checkpoints.load_checkpoint(Path(config.output) / "checkpoints")
    parts = build(on_engine(config, second))
    checkpoints.restore_training(found, parts.net, parts.optimizer, parts.method)
    tensors, state = checkpoints.pack_training(parts.net, parts.optimizer, parts.method)
    assert tensors.keys() == found.tensors.keys()
    for key, tensor in tensors.items():
        assert tensor.dtype == found.tensors[key].dtype, key
        assert tensor.numpy().tobytes() == found.tensors[key].numpy().tobytes(), key
    assert {key: found.state[key] for key in state} == json.loads(json.dumps(state))


@pytest.mark.parametrize(("first", "second"), [("native", "reference"), ("reference", "native")])
def test_a_run_goes_on_with_the_other_engine(tiny, run_until, first, second):
    run_until(on_engine(tiny, first))
    stopped = on_engine(elsewhere(tiny, "stopped"), first)
    run_until(stopped, 13)
    summary = run_until(replace(on_engine(stopped, second), resume=True))
    assert summary["engine"] == second
    whole, changed = Path(tiny.output), Path(stopped.output)
    # One epoch by the first engine, then 2 steps: bit for bit; after these the engines round differently.
    assert rows(whole, "metrics.jsonl")[0] == rows(changed, "metrics.jsonl")[0]
    ends = [rows(path, "metrics.jsonl")[1] for path in (whole, changed)]
    assert ends[0]["train_loss"] == pytest.approx(ends[1]["train_loss"], rel=0.02)
    assert ends[0]["firing_rate"] == pytest.approx(ends[1]["firing_rate"], rel=0.05)
    updates = [
        [(row["step"], row["layer"], row["nnz"]) for row in rows(path, "topology.jsonl")]
        for path in (whole, changed)
    ]
    assert updates[0] == updates[1]


@needs_native
@pytest.mark.parametrize("change", [{"memory": "recompute"}, {"threads": 2}])
def test_memory_and_threads_change_no_bit_of_a_native_run(tiny, run_until, change):
    config = on_engine(replace(tiny, memory="store", epochs=1), "native")
    run_until(config)
    other = elsewhere(config, "other", **change)
    run_until(other)
    require_same_run(Path(config.output), Path(other.output))


def test_rows_after_the_checkpoint_are_taken_back(tiny, run_until):
    run_until(tiny)
    stopped = elsewhere(tiny, "stopped")
    run_until(stopped, 13)
    path = Path(stopped.output)
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "step": 22, "train_loss": 0}\n{"epoch": 3, "st')
    with open(path / "topology.jsonl", "a") as file:
        file.write('{"step": 16, "layer": "x"}\n')
    run_until(replace(stopped, resume=True))
    require_same_run(Path(tiny.output), path)


def test_resume_before_the_first_checkpoint_starts_again(tiny, run_until):
    run_until(tiny)
    stopped = elsewhere(tiny, "stopped")
    run_until(stopped, 5)
    for file in (Path(stopped.output) / "checkpoints").iterdir():
        file.unlink()
    run_until(replace(stopped, resume=True))
    require_same_run(Path(tiny.output), Path(stopped.output))


def test_snip_does_not_choose_again(tiny_either, run_until, monkeypatch):
    """Killed after the choice and before the first step, the run goes on from what was chosen."""
    config = replace(tiny_either, method=METHODS["snip"])
    run_until(config)
    stopped = elsewhere(config, "stopped")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, quiet())
    chosen = rows(Path(stopped.output), "topology.jsonl")
    assert {(row["step"], row["round"]) for row in chosen} == {(0, 0)}
    with monkeypatch.context() as patch:
        patch.setattr(SNIP, "prepare", killed)
        run_until(replace(stopped, resume=True))
    assert rows(Path(stopped.output), "topology.jsonl") == chosen
    require_same_run(Path(config.output), Path(stopped.output))


def test_snip_killed_before_its_checkpoint_chooses_the_same_again(tiny, run_until, monkeypatch):
    config = replace(tiny, method=METHODS["snip"])
    run_until(config)
    stopped = elsewhere(config, "stopped")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, quiet())
    assert len(rows(Path(stopped.output), "topology.jsonl")) == 3
    run_until(replace(stopped, resume=True))
    require_same_run(Path(config.output), Path(stopped.output))


def test_other_settings_cannot_be_resumed(tiny, run_until):
    run_until(tiny, 5)
    with pytest.raises(ConfigError, match="lr"):
        train(replace(tiny, resume=True, lr=0.01), quiet())
    with pytest.raises(ConfigError, match=r"method\.final_sparsity"):
        train(replace(tiny, resume=True, method=replace(tiny.method, final_sparsity=0.9)), quiet())


def test_changed_data_cannot_be_resumed(tiny, run_until, monkeypatch):
    run_until(tiny, 5)
    from ndsnn.data import images

    monkeypatch.setattr(images, "fingerprint", lambda *_: "0" * 64)
    monkeypatch.setattr("ndsnn.data.registry.fingerprint", lambda *_: "0" * 64)
    with pytest.raises(CheckpointError, match="other images"):
        train(replace(tiny, resume=True), quiet())


def test_a_finished_run_cannot_be_resumed(tiny, run_until):
    run_until(tiny)
    with pytest.raises(RunError, match="is finished"):
        train(replace(tiny, resume=True), quiet())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_to_a_real_process(tiny, run_until, tmp_path, number):
    """They save and end with 128 + n, and the run goes on to the same end (SIGKILL: test_kill_runs.py)."""
    config = replace(tiny, epochs=6, engine="auto")
    run_until(config)
    stopped = elsewhere(config, "stopped", checkpoint_every=3)
    settings = tmp_path / "settings.yaml"
    settings.write_text(config_to_yaml(stopped))
    command = [sys.executable, "-m", "ndsnn", "train", "--config", str(settings)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = Path(stopped.output) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error.startswith(f"ndsnn: stopped by {number.name} at step")
    assert error.count("\n") == 1
    subprocess.run([*command, "--resume"], check=True, capture_output=True, timeout=120)
    require_same_run(Path(config.output), Path(stopped.output))
