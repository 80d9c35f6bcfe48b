"""The Python that docs/export.md shows runs as it stands, and its tables say what the code does."""

import re
from pathlib import Path

import pytest

from ndsnn.interop.export.command import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
def test_python_block(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(block, "export.md", "exec"), scope)
    assert tuple(scope["logits"].shape) == (4, 2, 10)
    assert len(scope["model"].graph.node) > 0


def test_every_format_is_described():
    assert "--format " + "|".join(FORMATS) in PAGE
    assert all(f"| `{name}` |" in PAGE for name in FORMATS)
