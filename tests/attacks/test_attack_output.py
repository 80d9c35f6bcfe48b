"""Texts of files that would do something where they are shown: terminals, pages, LaTeX, C."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from attack_watch import harmless
from saved_summary import summary

import ndsnn
from ndsnn.cli import main
from ndsnn.parsing import printable

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\rover\b\b"
MARKUP = "[link=file:///etc/passwd]name[/link][/][bold"
SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(1)">'
LATEX = r"\input{/etc/passwd}\write18{touch witness}"


@pytest.fixture
def path(tmp_path):
    """A network file whose table of layers says what is hostile."""
    torch.manual_seed(0)
    net = ndsnn.models.vgg([2, "M"], num_classes=2, time_steps=1, in_channels=1)
    ndsnn.sparsify(net, 0.5)
    row = {"shape": [2, 2], "weights": 4, "alive": 1, "sparsity": 0.75}
    layers = [row | {"name": name} for name in (ESCAPES, MARKUP, "\ud800")]
    ndsnn.save(net, tmp_path / "net.safetensors", {"layers": layers})
    return tmp_path / "net.safetensors"


def test_names_of_layers_say_nothing_to_the_terminal(path, capsys):
    with harmless():
        assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert "\\x1b]0;title\\x07" in shown
    assert "[link=file:///etc/passwd]name" in shown


def test_names_of_files_say_nothing_to_the_terminal(path, capsys):
    hostile = path.with_name(f"a{ESCAPES}[red].safetensors")
    hostile.write_bytes(path.read_bytes()[:100])
    assert main(["inspect", str(hostile)]) == 2
    shown = capsys.readouterr().err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    shutil.copy(path, hostile)
    assert main(["inspect", str(hostile)]) == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", capsys.readouterr().out)


def test_printable_leaves_what_is_for_reading():
    assert printable("sparsity 0.7 → 0.95, 4×4, ä, 日本") == "sparsity 0.7 → 0.95, 4×4, ä, 日本"
    assert printable("\x1b[0m\n\u202e\u2028") == "\\x1b[0m\\n\\u202e\\u2028"


class Tags(HTMLParser):
    """Which elements and attributes a page has, and what its scripts say."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.handlers, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self.inside = False


def test_settings_of_a_run_are_text_in_a_report(tmp_path):
    """A run whose method, data set and processor are named like code of a page and of LaTeX."""
    pytest.importorskip("matplotlib.pyplot")  # which makes folders of its own where it is first imported
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    made = summary()
    made["config"]["method"]["name"] = f"x:{SCRIPT}{LATEX}"
    made["config"]["data"]["name"] = f"{LATEX}{SCRIPT}"
    made["machine"]["processor"] = f"{SCRIPT}{LATEX}{ESCAPES}"
    (folder / "summary.json").write_text(json.dumps(made))
    rows = [{"epoch": epoch, "loss": 1.0, "val_accuracy": 0.5, "sparsity": 0.5} for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("{}\n")
    out = tmp_path / "out"
    with harmless(out, tmp_path):
        code = main(["report", str(tmp_path / "runs"), "-o", str(out)])
    assert code in (0, 2)
    if code == 0:
        for page in out.rglob("*.html"):
            tags = Tags(page.read_text(encoding="utf-8"))
            assert tags.handlers == []
            assert not any("alert(1)" in script for script in tags.scripts)
        for table in out.rglob("*.tex"):
            assert "\\input" not in table.read_text(encoding="utf-8")
            assert "\\write18" not in table.read_text(encoding="utf-8")
        for drawing in out.rglob("*.svg"):
            assert "<script" not in drawing.read_text(encoding="utf-8")
    assert not (tmp_path / "witness").exists()
