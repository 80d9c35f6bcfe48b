"""SIGTERM and SIGUSR1 wherever a run may be: it saves, ends with 128 + n, and goes on to the same bits."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import quiet, require_same_run, rows

import ndsnn
from ndsnn.config import MethodConfig
from ndsnn.training import evaluate, loop
from ndsnn.training.checkpoint import has_checkpoint, load_checkpoint
from ndsnn.training.run import train
from ndsnn.training.signals import RunInterrupted, interrupting, stop_signals

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]
SNIP = MethodConfig("snip", None, 0.8)
snip = sys.modules[ndsnn.methods["snip"].__module__]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number):
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.signal_number == number
    assert signal.getsignal(number) == before


def test_sigterm_after_sigusr1_is_noted_too_and_a_second_one_has_its_usual_effect():
    """A batch system announces the end by SIGUSR1, more than once perhaps, and then sends SIGTERM."""
    usual = []
    before = signal.signal(signal.SIGTERM, lambda *_: usual.append("SIGTERM"))
    try:
        with stop_signals() as stop:
            for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
                signal.raise_signal(number)
            assert not usual
            assert stop.signal_number == signal.SIGUSR1
            signal.raise_signal(signal.SIGTERM)
            assert usual == ["SIGTERM"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_call_that_is_interrupted():
    calls = []
    with stop_signals() as stop:
        call = interrupting(lambda *arguments: calls.append(arguments), stop, "doing this; do it again")
        call("a", 1, None)
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(RunInterrupted, match="stopped by SIGUSR1 doing this; do it again") as stopped:
            call("b", 2, None)
    assert calls == [("a", 1, None)]
    assert stopped.value.signal_number == signal.SIGUSR1


def signal_at(patch, owner, name, number, calls):
    """Let a signal arrive during the `calls`-th call of `owner.name`."""
    original, count = getattr(owner, name), 0

    def call(*arguments, **keywords):
        nonlocal count
        count += 1
        if count == calls:
            signal.raise_signal(number)
        return original(*arguments, **keywords)

    patch.setattr(owner, name, call)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return a function that gives the directory of a run that nothing stops, trained for the first test only."""
    done = {}

    def run(config):
        key = repr(config.method)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("whole") / "run"
            train(replace(config, output=str(done[key])), quiet())
        return done[key]

    return run


# The call of `predict` at which the signal comes. One epoch has 11 steps and validates 2 batches, the test has 3.
PLACES = {
    "training": (loop, 5, "at step 5"),
    "validation": (evaluate, 1, "at step 11"),
    "the last validation": (evaluate, 3, "at step 22"),
    "the test of the last network": (evaluate, 6, "at step 22"),
    "the test of the best network": (evaluate, 9, "at step 22"),
}


@pytest.mark.parametrize(
    ("place", "number"),
    [*((place, signal.SIGUSR1) for place in PLACES), *((place, signal.SIGTERM) for place in list(PLACES)[1:4:2])],
)
def test_a_run_is_stopped_anywhere(tiny, run_until, reference, monkeypatch, place, number):
    config = tiny
    if place == "the test of the best network":
        # Weights hardly move, so that no later epoch is better than the first: the best network is not the last.
        config = replace(tiny, method=MethodConfig("static", None, 0.8), lr=1e-9, weight_decay=0.0)
    whole = reference(config)
    owner, calls, where = PLACES[place]
    with monkeypatch.context() as patch:
        signal_at(patch, owner, "predict", number, calls)
        with pytest.raises(RunInterrupted, match=f"stopped by {number.name} {where}") as told:
            train(config, quiet())
    assert told.value.signal_number == number
    assert not (Path(config.output) / "summary.json").exists()
    run_until(replace(config, resume=True))
    require_same_run(whole, Path(config.output))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_connections_are_chosen(tiny, run_until, reference, monkeypatch, number):
    """Nothing is chosen yet, so nothing is saved; the run begins again and chooses the same."""
    # 200 images: two batches.
    config = replace(tiny, method=replace(SNIP, settings={"samples_per_class": 20}), epochs=1)
    whole = reference(config)
    with monkeypatch.context() as patch:
        signal_at(patch, snip, "reset_neurons", number, 1)
        with pytest.raises(RunInterrupted, match=f"stopped by {number.name} before the first step"):
            train(config, quiet())
    path = Path(config.output)
    assert not has_checkpoint(path / "checkpoints")
    assert not rows(path, "topology.jsonl")
    run_until(replace(config, resume=True))
    require_same_run(whole, path)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_when_connections_are_chosen_saves_them(tiny, run_until, reference, monkeypatch, number):
    config = replace(tiny, method=SNIP, epochs=1)
    whole = reference(config)
    with monkeypatch.context() as patch:
        signal_at(patch, snip, "global_prune_masks", number, 1)
        with pytest.raises(RunInterrupted, match=f"stopped by {number.name} at step 0; saved"):
            train(config, quiet())
    path = Path(config.output)
    assert load_checkpoint(path / "checkpoints").state["step"] == 0
    assert len(rows(path, "topology.jsonl")) == 3
    with monkeypatch.context() as patch:
        patch.setattr(snip.SNIP, "prepare", None)
        run_until(replace(config, resume=True))
    require_same_run(whole, path)
