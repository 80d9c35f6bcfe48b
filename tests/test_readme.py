"""The code that the README shows runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_block(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})
    before, after = map(float, capsys.readouterr().out.split())
    assert before == after == pytest.approx(0.95, abs=1e-4)


def test_length():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200
