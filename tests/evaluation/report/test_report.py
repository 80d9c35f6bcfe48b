"""A whole report: its files, its bytes, its figures, its page, and the command."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_runs import FASHION, lottery_rounds, with_method, write_run, write_study
from rich.console import Console

from ndsnn.cli import main
from ndsnn.config import DataConfig, MethodConfig, ModelConfig, TrainConfig
from ndsnn.errors import MissingDependencyError, RunError
from ndsnn.evaluation.report import curves, drawing, names, page
from ndsnn.evaluation.report.figure_model import Figure
from ndsnn.evaluation.report.records import read_runs
from ndsnn.evaluation.report.report import ORDER, build_report, write_report
from ndsnn.evaluation.report.study import build_study
from ndsnn.evaluation.report.table_model import LeftOut
from ndsnn.training.run import train

DENSE = MethodConfig("dense", 0.0, 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study for every table and figure, and the directory of its report."""
    root = tmp_path_factory.mktemp("whole")
    study = write_study(root / "study", seeds=1)
    made = build_report([study], "A & B <title>")
    write_report(made, root / "out")
    return made, root / "out"


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def small(root: Path) -> Path:
    for seed in range(2):
        write_run(root / f"d{seed}", replace(FASHION, method=DENSE, seed=seed), 0.93)
        write_run(root / f"n{seed}", with_method(FASHION, "ndsnn", 0.95, 0.7, seed=seed), 0.91 + 0.01 * seed)
        write_run(root / f"s{seed}", with_method(FASHION, "set", 0.95, seed=seed), 0.90)
    return root


def figure_of(root: Path, make) -> Figure:
    figure = make(build_study(*read_runs([root])))
    assert isinstance(figure, Figure)
    return figure


class Page(HTMLParser):
    """Ids, links, headings and what is left open."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        for key in ("href", "src", "xlink:href"):
            if key in values:
                self.links.append(values[key])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_table_and_figure_is_there(whole):
    made, out = whole
    assert [part.name for part in made.parts] == list(ORDER)
    assert not made.left_out
    manifest = json.loads((out / "report.json").read_text())
    assert {*manifest["files"], "report.json"} == set(content(out))
    for table in made.tables:
        assert {f"tables/{table.name}.{kind}" for kind in ("csv", "tex", "md")} <= set(content(out))
    for figure in made.figures:
        assert {f"figures/{figure.name}.{kind}" for kind in ("svg", "png", "csv")} <= set(content(out))
    assert {problem["run"] for problem in manifest["problems"]} == {"study/vgg/unfinished", "study/vgg/broken"}


def test_the_page_is_whole_and_alone(whole):
    made, out = whole
    text = (out / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)), "inlined figures share no ids"
    assert {link for link in page.links if not link.startswith("#")} == {"data:,"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert "A &amp; B &lt;title&gt;" in text
    assert "<script" not in text
    assert "study/vgg/broken" in text
    for part in made.parts:
        assert f'id="{part.name}"' in text
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used <= set(re.findall(r"--([\w-]+):", text)), "every colour is defined"
    light = text[text.index("<body>") :]
    assert not re.findall(r"(?:fill|stroke): ?#(?!ffffff)", light), "no figure has a colour of its own"


def test_the_markdown_names_problems_and_shows_every_figure(whole):
    made, out = whole
    text = (out / "report.md").read_text()
    for figure in made.figures:
        assert f"(figures/{figure.name}.svg)" in text
    assert "study/vgg/unfinished: not finished" in text
    assert "epochs 4" in text


def test_figures_are_not_empty(whole):
    made, out = whole
    for figure in made.figures:
        tree = ElementTree.fromstring((out / "figures" / f"{figure.name}.svg").read_bytes())
        texts = {"".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")}
        assert {series.label for series in figure.legend} <= texts, figure.name
        assert (out / "figures" / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{figure.name}.csv").read_text().count("\n") > len(figure.panels)


def test_the_same_runs_give_the_same_bytes_in_another_process(tmp_path):
    runs = small(tmp_path / "runs")
    write_report(build_report([runs]), tmp_path / "one")
    command = [sys.executable, "-m", "ndsnn", "report", str(runs), "-o", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "77"})
    first, second = content(tmp_path / "one"), content(tmp_path / "two")
    assert first == second
    assert not any(str(tmp_path).encode() in data for data in first.values()), "no path of this machine"
    assert not any(b"202" in re.findall(rb"<dc:date>.*", data) for data in first.values())


def test_coordinates_are_rounded_and_what_is_written_is_not():
    svg = '<g id="p0123456789"><text x="12.345678" y="7">0.12500 (0.375)</text><use href="#p0123456789"/></g>\n'
    assert drawing._tidy(svg) == '<g id="p0"><text x="12.35" y="7">0.12500 (0.375)</text><use href="#p0"/></g>\n'


def test_a_report_replaces_a_report_and_nothing_else(tmp_path):
    made = replace(build_report([small(tmp_path / "runs")]), figures=())
    out = tmp_path / "out"
    write_report(made, out)
    (out / "tables" / "training-cost.csv").write_text("old")
    write_report(made, out)
    assert (out / "tables" / "training-cost.csv").read_text() != "old"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"notes\.txt"):
        write_report(made, out)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="is no report"):
        write_report(made, tmp_path / "else")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["else", "out", "runs"], "nothing is left beside it"


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    made = replace(build_report([small(tmp_path / "runs")]), figures=())
    out = tmp_path / "out"
    write_report(made, out)
    before = content(out)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndsnn.evaluation.report.directory.write_atomically", full)
    with pytest.raises(RunError, match="No space left"):
        write_report(made, out)
    assert content(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]


def test_a_report_on_a_full_disk(tmp_path, small_disk):
    made = replace(build_report([small(tmp_path / "runs")]), figures=())
    disk = small_disk(512)
    out = disk.path / "out"
    write_report(made, out)
    before = content(out)
    disk.fill()
    with pytest.raises(RunError, match=f"cannot write the report {out}: No space left on device"):
        write_report(made, out)
    assert content(out) == before
    assert sorted(p.name for p in disk.path.iterdir()) == ["filler", "out"]


def test_curves_hold_the_mean_over_seeds(tmp_path):
    figure = figure_of(small(tmp_path), curves.sparsity_figure)
    (panel,) = figure.panels
    assert panel.x_label == "epoch"
    ndsnn = next(series for series in panel.series if series.method == "ndsnn")
    assert ndsnn.x == (0, 1, 2, 3, 4)
    assert ndsnn.y == pytest.approx((70, 76.25, 82.5, 88.75, 95))
    learning = figure_of(tmp_path, curves.learning_figure).panels[0]
    last = next(series for series in learning.series if series.method == "ndsnn")
    assert last.x == (1, 2, 3, 4)
    assert last.y[-1] == pytest.approx(91.5 * (1 - 2.718281828**-4), rel=1e-6)
    assert last.spread[-1] == pytest.approx(0.5**0.5 * (1 - 2.718281828**-4), rel=1e-6)


def test_methods_of_other_lengths_are_drawn_over_their_share(tmp_path):
    small(tmp_path)
    write_run(tmp_path / "l", with_method(FASHION, "lth", 0.578125), 0.9, rounds=lottery_rounds([0.9] * 4))
    write_run(tmp_path / "l2", with_method(FASHION, "set", 0.578125), 0.9)
    write_run(tmp_path / "l3", with_method(FASHION, "rigl", 0.578125), 0.9)
    write_run(tmp_path / "l4", with_method(FASHION, "static", 0.578125), 0.9)
    (panel,) = figure_of(tmp_path, curves.sparsity_figure).panels
    assert panel.x_label == "share of the method's own training, %"
    assert {series.x[-1] for series in panel.series} == {100}


def test_figure_4_is_about_two_steps_and_the_other_about_the_rest(tmp_path):
    small(tmp_path)
    study = build_study(*read_runs([tmp_path]))
    assert isinstance(curves.few_steps_figure(study), LeftOut)
    assert len(figure_of(tmp_path, curves.accuracy_figure).panels) == 1
    two = replace(FASHION, model=replace(FASHION.model, time_steps=2))
    write_run(tmp_path / "two", with_method(two, "set", 0.9), 0.8)
    write_run(tmp_path / "two9", with_method(two, "set", 0.95), 0.7)
    (panel,) = figure_of(tmp_path, curves.few_steps_figure).panels
    assert (panel.kind, panel.ticks, panel.series[0].y) == ("categories", ("90 %", "95 %"), (80.0, 70.0))


def test_the_layer_of_figure_3_is_the_largest_and_pruning_alone_has_none(tmp_path):
    write_run(tmp_path / "n", with_method(FASHION, "ndsnn", 0.95, 0.7), 0.9)
    write_run(tmp_path / "g", with_method(FASHION, "gmp", 0.95), 0.9)
    (panel,) = figure_of(tmp_path, curves.rewiring_figure).panels
    assert panel.title.endswith("classifier")
    born, died, alive = panel.series
    assert born.y[0] == 5120 // 24
    assert died.y[0] == -(5120 // 15)
    assert alive.y[0] == 2560


def test_every_method_can_be_told_apart_in_light_and_dark():
    everything = [*names.LOOKS.values(), *names.FREE_LOOKS]
    assert len({look.light for look in everything}) == len(everything)
    assert len({look.dark for look in everything}) == len(everything)
    assert len({(look.dash, look.marker) for look in names.LOOKS.values()}) == len(names.LOOKS)
    for look in everything:
        assert contrast(look.light, "#ffffff") >= 4.5, look
        assert contrast(look.dark, "#1a1d22") >= 4.5, look
        assert look.marker in page.MARKER_SHAPES


def test_the_main_methods_stay_apart_for_the_colour_blind():
    """Pairs of the study's methods, seen without red or green cones, differ clearly in colour or in lightness."""
    main = [names.LOOKS[name] for name in ("ndsnn", "dense", "lth", "set", "rigl", "granet", "dst-ee")]
    for shade in ("light", "dark"):
        for cones in (PROTAN, DEUTAN):
            seen = [simulate(getattr(look, shade), cones) for look in main]
            distances = [distance(a, b) for i, a in enumerate(seen) for b in seen[:i]]
            assert min(distances) > 10, (shade, min(distances))


PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def contrast(one: str, other: str) -> float:
    a, b = (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(x), strict=True)) for x in (one, other))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def simulate(colour: str, matrix) -> list[float]:
    rgb = linear(colour)
    return [min(1.0, max(0.0, sum(w * c for w, c in zip(row, rgb, strict=True)))) for row in matrix]


def distance(one: list[float], other: list[float]) -> float:
    """ΔE of CIE 1976."""
    return sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5


def lab(rgb: list[float]) -> tuple[float, float, float]:
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    xyz = [sum(w * c for w, c in zip(row, rgb, strict=True)) / n for row, n in zip(rows, white, strict=True)]
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_an_unknown_method_gets_a_look_of_its_own():
    found = names.looks(["mine:Better", "ndsnn", "mine:Other"])
    assert list(found) == ["ndsnn", "mine:Better", "mine:Other"]
    assert len({look.light for look in found.values()}) == 3
    assert drawing.css_name("mine:Better") == "m-mine-Better"


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"ndsnn\[report\]"):
        drawing.Artist({})


def test_the_command(tmp_path, capsys):
    small(tmp_path / "runs")
    out = tmp_path / "out"
    assert (
        main(["report", str(tmp_path / "runs"), "-o", str(out), "--title", "Mine", "--date", "1 May", "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["title"] == "Mine"
    assert result["directory"] == str(out)
    assert result["tables"]["table1-accuracy"][1]["mean"] == pytest.approx(90)
    assert "1 May" in (out / "index.html").read_text()
    (tmp_path / "runs" / "n1" / "summary.json").unlink()
    assert main(["report", str(tmp_path / "runs"), "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert (
        "5 finished runs of 3 methods in 1 recipe, 2 seeds (0, 1); 1 run directory with a problem" in printed.out
    )
    assert "left out: Table II" in printed.out
    assert "warning: runs/n1: not finished" in printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "-o", "out"], "is no directory"),
        (["runs", "-o", "out", "--reference", "rigl"], "unknown method 'rigl'"),
        (["runs", "-o", "runs"], "is no report"),
        (["runs/only", "-o", "out"], "no run is finished"),
        (["runs"], "-o/--output"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    small(tmp_path / "runs")
    (write_run(tmp_path / "runs" / "only", with_method(FASHION, "set", 0.5), 0.5) / "summary.json").unlink()
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_real_runs(tmp_path, capsys):
    shape = {"data": DataConfig("digits", image_size=8), "epochs": 2, "batch_size": 128, "engine": "reference"}
    base = TrainConfig(model=ModelConfig("vgg", time_steps=2, layers=(4, "M", 8, "M")), threads=1, **shape)
    dense = replace(base, method=DENSE, output=str(tmp_path / "runs" / "dense"))
    sparse = replace(
        base,
        method=MethodConfig("ndsnn", 0.5, 0.8, update_every=4),
        output=str(tmp_path / "runs" / "ndsnn"),
        dense_run=str(tmp_path / "runs" / "dense"),
    )
    summaries = [train(config, Console(file=StringIO())) for config in (dense, sparse)]
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert [row["mean"] for row in tables["table1-accuracy"]] == [
        pytest.approx(100 * summary["test_accuracy"]) for summary in summaries
    ]
    cost = next(row for row in tables["training-cost"] if row["method"] == "ndsnn")
    assert cost["relative_cost"] == pytest.approx(summaries[1]["costs"]["relative_training_cost"])
    assert cost["seconds_percent_of_dense"] == pytest.approx(
        100 * summaries[1]["seconds"] / summaries[0]["seconds"]
    )
    for name in ("figure3-drop-and-grow", "figure4-two-steps", "figure1-sparsity"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").is_file()
