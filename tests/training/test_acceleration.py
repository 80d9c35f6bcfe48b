"""Which engine computes a run, and what is said of it."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import needs_native
from torch import nn

import ndsnn
from ndsnn.engine import native
from ndsnn.errors import ConfigError, MissingDependencyError
from ndsnn.training.acceleration import Engine, put_on_engine
from ndsnn.training.build import build
from ndsnn.training.checkpoint import pack_training


@pytest.fixture
def no_native(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "unavailable_reason", lambda: "there is no compiler here")


def net(*extra: nn.Module) -> nn.Module:
    made = ndsnn.models.vgg([4, "M"], num_classes=3, time_steps=2, in_channels=1)
    made.features.extend(extra)
    return ndsnn.sparsify(made, 0.5)


@needs_native
@pytest.mark.parametrize(("engine", "reason"), [("auto", "it is available"), ("native", "it was asked for")])
@pytest.mark.parametrize("memory", ["auto", "store", "recompute"])
def test_native(engine, reason, memory):
    plain = net()
    accelerated, chosen = put_on_engine(plain, engine, memory)
    assert isinstance(accelerated, ndsnn.Accelerated)
    assert accelerated.backend_name == "native"
    assert f"memory={memory!r}" in accelerated.extra_repr()
    assert chosen == Engine("native", reason, native.instruction_set())
    assert ndsnn.layer_report(accelerated) == ndsnn.layer_report(plain)


@needs_native
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_both_engines_begin_with_the_same_weights_and_connections(tiny, optimizer):
    found = []
    for engine in ("reference", "native"):
        parts = build(replace(tiny, engine=engine, optimizer=optimizer))
        assert parts.engine.name == engine
        found.append(pack_training(parts.net, parts.optimizer, parts.method))
    (tensors, state), (other_tensors, other_state) = found
    assert state == other_state
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensor, other_tensors[key]) for key, tensor in tensors.items())


def test_reference():
    plain = net()
    assert put_on_engine(plain, "reference", "store") == (plain, Engine("reference", "it was asked for"))


def test_auto_says_why_it_is_not_native(no_native):
    plain = net()
    computed, chosen = put_on_engine(plain, "auto", "auto")
    assert computed is plain
    assert chosen.name == "reference"
    assert "there is no compiler here" in chosen.reason


def test_auto_follows_the_environment(monkeypatch):
    monkeypatch.setenv("NDSNN_BACKEND", "reference")
    assert put_on_engine(net(), "auto", "auto")[1] == Engine("reference", "NDSNN_BACKEND=reference")
    with pytest.raises(ConfigError, match="NDSNN_BACKEND=reference"):
        put_on_engine(net(), "native", "auto")
    monkeypatch.setenv("NDSNN_BACKEND", "fastest")
    with pytest.raises(ConfigError, match="unknown backend 'fastest'"):
        put_on_engine(net(), "auto", "auto")


def test_the_environment_asks_for_what_is_not_there(monkeypatch, no_native):
    monkeypatch.setenv("NDSNN_BACKEND", "native")
    with pytest.raises(MissingDependencyError, match="no compiler"):
        put_on_engine(net(), "auto", "auto")


@needs_native
def test_a_layer_that_does_not_lower():
    plain = net(nn.Dropout(0.5))
    computed, chosen = put_on_engine(plain, "auto", "auto")
    assert computed is plain
    assert chosen.name == "reference"
    assert "'features.5'" in chosen.reason
    with pytest.raises(ConfigError, match=r"engine native cannot compute this run: .*'features\.5'"):
        put_on_engine(plain, "native", "auto")


def test_native_that_is_not_there(no_native):
    with pytest.raises(ConfigError, match=r"cannot compute this run: .*no compiler here"):
        put_on_engine(net(), "native", "auto")


def test_recompute_needs_the_native_engine(no_native):
    with pytest.raises(ConfigError, match=r"recompute needs the native engine.*no compiler here"):
        put_on_engine(net(), "auto", "recompute")
    with pytest.raises(ConfigError, match=r"precision mixed needs the native engine.*no compiler here"):
        put_on_engine(net(), "auto", "auto", "mixed")


def test_descriptions():
    threads = torch.get_num_threads()
    assert Engine("native", "it is available", "avx2").describe("auto", "fp32") == (
        f"native (avx2, {threads} threads), memory auto, because it is available"
    )
    assert Engine("native", "it is available", "avx2").describe("store", "mixed") == (
        f"native (avx2, {threads} threads), memory store, precision mixed, because it is available"
    )
    assert Engine("reference", "x").describe("auto", "fp32") == (
        f"reference (plain PyTorch on masked weights, {threads} threads), because x"
    )
