"""Helpers for runs in tests: silence, comparison, copies."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from ndsnn.config import TrainConfig
from ndsnn.engine import native

TIMES = ("seconds", "images_per_second", "peak_memory_mb")

needs_native = pytest.mark.skipif(
    not native.available(), reason=f"no native engine: {native.unavailable_reason()}"
)


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def rows(path: Path, name: str) -> list[dict]:
    """Rows of a run's file without what depends on the clock and the machine."""
    lines = (path / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def require_same_run(first: Path, second: Path) -> None:
    """Check that two runs ended bit-equal: weights, masks, optimizer, method, rows, accuracies."""
    a, b = (load_file(path / "checkpoints" / "last.safetensors") for path in (first, second))
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert a[key].numpy().tobytes() == b[key].numpy().tobytes(), key
    for name in ("metrics.jsonl", "topology.jsonl"):
        if (first / name).exists() or (second / name).exists():
            assert rows(first, name) == rows(second, name)
    sa, sb = (json.loads((path / "summary.json").read_text()) for path in (first, second))
    for key in ("test_accuracy", "val_accuracy", "best_epoch", "best_test_accuracy", "layers", "final_sparsity"):
        assert sa[key] == sb[key], key


def elsewhere(config: TrainConfig, name: str, **changes) -> TrainConfig:
    """The same run in a directory of another name."""
    return replace(config, output=str(Path(config.output).with_name(name)), **changes)


def on_engine(config: TrainConfig, engine: str) -> TrainConfig:
    """The same run on an engine; skips the test where that is not there."""
    if engine == "native" and not native.available():
        pytest.skip(f"no native engine: {native.unavailable_reason()}")
    return replace(config, engine=engine)
