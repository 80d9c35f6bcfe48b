"""The code of the pages about other frameworks runs as it stands, and so do the examples."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["spikingjelly.md", "snntorch.md"])
def test_page(page, capsys):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 2
    torch.manual_seed(0)
    shared = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec"), shared)
    assert ("has not been reset" in capsys.readouterr().out) == (page == "spikingjelly.md")


@pytest.mark.parametrize("name", ["from_spikingjelly", "from_snntorch"])
def test_example(name, capsys):
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    accuracy, plain = module.main(epochs=2)
    assert accuracy > 0.5
    assert not any("ndsnn" in type(layer).__module__ for layer in plain.modules())
    assert capsys.readouterr().out.count("accuracy") == 2
