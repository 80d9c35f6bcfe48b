"""The scripts that train in other people's loops run, learn and end sparse."""

import importlib.util
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers
@pytest.mark.parametrize("name", ["plain_hook", "lightning_loop", "accelerate_loop"])
def test_example(name, tmp_path, monkeypatch):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        accuracy, sparsity = module.main(epochs=2)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    assert accuracy > 0.2
    assert sparsity == pytest.approx(0.9, abs=1e-3)
