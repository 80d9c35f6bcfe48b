"""Runs small enough for tests: digits at 8×8, two conv layers, T = 2."""

import signal

import pytest
from tiny_runs import on_engine, quiet

from ndsnn.config import DataConfig, MethodConfig, ModelConfig, TrainConfig
from ndsnn.training import loop
from ndsnn.training.run import train
from ndsnn.training.signals import RunInterrupted


@pytest.fixture(autouse=True)
def no_backend_variable(monkeypatch):
    """Let the settings alone decide which engine computes."""
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)


@pytest.fixture
def tiny(tmp_path):
    """A configuration that trains in about a second: 2 epochs of 11 steps, an update every 4; plain PyTorch."""
    return TrainConfig(
        data=DataConfig("digits", image_size=8),
        model=ModelConfig("vgg", time_steps=2, layers=(4, "M", 8, "M")),
        method=MethodConfig("ndsnn", 0.5, 0.8, update_every=4),
        epochs=2,
        batch_size=128,
        engine="reference",
        threads=1,
        output=str(tmp_path / "run"),
    )


@pytest.fixture(params=["reference", "native"])
def tiny_either(tiny, request):
    """The same on each engine."""
    return on_engine(tiny, request.param)


@pytest.fixture
def run_until(monkeypatch):
    """Return a function that trains until a real SIGTERM arrives after a given step, or to the end."""

    def run(config: TrainConfig, step: int | None = None):
        if step is None:
            return train(config, quiet())
        original = loop.Trainer._step

        def stepping(trainer, *batch):
            result = original(trainer, *batch)
            if trainer.progress.step == step:
                signal.raise_signal(signal.SIGTERM)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "_step", stepping)
            with pytest.raises(RunInterrupted) as stopped:
                train(config, quiet())
        assert stopped.value.signal_number == signal.SIGTERM
        return str(stopped.value)

    return run
