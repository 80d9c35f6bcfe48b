"""`ndsnn export` as a user meets it."""

import hashlib
import json
import shutil
import sys

import nir
import onnx
import pytest
import torch
from safetensors.torch import load_file

import ndsnn
from ndsnn.cli import main

TINY = [
    "--data.image_size", "8", "--model.layers", "[4,M,8,M]", "--model.time_steps", "2", "--epochs", "2",
    "--batch_size", "256", "--threads", "1", "--engine", "reference", "--method.stop_fraction", "0.4",
    "--method.update_every", "3",
]  # fmt: skip
SUFFIXES = {"nir": ".nir", "onnx": ".onnx", "safetensors": ".safetensors", "dense": "-dense.safetensors"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs."""
    run = tmp_path_factory.mktemp("trained") / "tiny"
    assert main(["train", *TINY, "--output", str(run)]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of it as "tiny" in an empty working directory."""
    shutil.copytree(trained, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny"


def exported(capsys, *arguments):
    capsys.readouterr()
    assert main(["export", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("ndsnn: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def contents(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", SUFFIXES)
@pytest.mark.parametrize("which", ["best", "last"])
def test_every_format_of_a_run(run, capsys, form, which):
    before = contents(run)
    lossy = ["--allow-lossy"] if form == "nir" else []
    found = exported(capsys, run, "--format", form, "--which", which, *lossy)
    path = run.parent / f"tiny{SUFFIXES[form]}"
    assert (found["format"], found["file"]) == (form, path.name)
    assert found["bytes"] == path.stat().st_size
    summary = json.loads((run / "summary.json").read_text())
    assert found["epoch"] == (summary["best_epoch"] if which == "best" else 2)
    assert contents(run) == before
    assert not list(run.parent.glob("*.tmp"))


def test_what_the_formats_say_is_the_same_network(run, capsys):
    for form in SUFFIXES:
        exported(capsys, run, "--format", form, *(["--allow-lossy"] if form == "nir" else []))
    net = ndsnn.load("tiny.safetensors")
    assert ndsnn.sparsity(net) == pytest.approx(0.95, abs=1e-3)
    state = load_file("tiny-dense.safetensors")
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    graph, model = nir.read("tiny.nir"), onnx.load("tiny.onnx")
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert (graph.nodes["features.5"].weight == weights["features.5.weight"]).all()
    mean = json.loads(next(p.value for p in model.metadata_props if p.key == "input_mean"))
    assert graph.metadata["input_mean"].tolist() == mean
    assert 0 < mean[0] < 1


def test_a_file_exports_too(run, capsys):
    exported(capsys, run, "--format", "safetensors", "-o", "net.safetensors")
    whole = exported(capsys, run, "--format", "onnx", "-o", "run.onnx")
    alone = exported(capsys, "net.safetensors", "--format", "onnx", "-o", "file.onnx", "--image-size", "8", "8")
    assert (alone["epoch"], alone["weights"]) == (None, whole["weights"])
    best = next((run / "checkpoints").glob("best-*.safetensors"))
    assert exported(capsys, best, "--format", "onnx", "--image-size", 8, "-o", "best.onnx")["input"] == [1, 8, 8]
    assert "--image-size" in fails(capsys, "net.safetensors", "--format", "onnx")
    assert "is a file" in fails(capsys, "net.safetensors", "--format", "dense", "--which", "best")


def test_check_reports_the_agreement(run, capsys):
    found = exported(capsys, run, "--format", "nir", "--allow-lossy", "--check")
    by_name = {entry["simulator"]: entry for entry in found["agreement"]}
    assert found["checked_on"] == "validation"
    for name in ("snntorch", "spikingjelly"):
        assert set(by_name[name]["spikes"].values()) == {1.0}
        assert by_name[name]["predictions"] == 1.0
    assert "average pool" in by_name.get("norse", {"failed": "average pool"})["failed"]
    found = exported(capsys, run, "--format", "onnx", "--check", "--data-root", "nowhere")
    assert found["agreement"][0]["largest_difference"] < 1e-5
    assert main(["export", str(run), "--format", "onnx", "--check", "--overwrite"]) == 0
    assert "100.00% of the predictions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "onxx"], "did you mean 'onnx'"),
        ([], "--format"),
        (["--format", "nir"], "no max-pool"),
        (["--format", "onnx", "--allow-lossy"], "--allow-lossy is no option of format onnx"),
        (["--format", "dense", "--check"], "--check is no option of format dense"),
        (["--format", "safetensors", "--image-size", "8"], "--image-size is no option"),
        (["--format", "nir", "--quantize", "int8"], "--quantize is no option of format nir"),
        (["--format", "onnx", "--data-root", "x"], "images of --check"),
        (["--format", "onnx", "--opset", "16"], "opset must lie between"),
        (["--format", "nir", "--allow-lossy", "--dt", "0"], "dt must be"),
        (["--format", "onnx", "--image-size", "1", "2", "3"], "--image-size takes"),
        (["--format", "onnx", "--image-size", "0"], "--image-size takes"),
        (["--format", "onnx", "-o", "nowhere/net.onnx"], "no directory nowhere"),
        (["--format", "onnx", "-o", "tiny"], "is a directory"),
        (["--format", "onnx", "--which", "worst"], "invalid choice"),
    ],
)
def test_bad_input(run, capsys, arguments, words):
    before = contents(run.parent)
    assert words in fails(capsys, run, *arguments)
    assert contents(run.parent) == before


def test_nothing_is_overwritten_unasked(run, capsys):
    (run.parent / "net.onnx").write_text("mine")
    assert "--overwrite" in fails(capsys, run, "--format", "onnx", "-o", "net.onnx")
    assert (run.parent / "net.onnx").read_text() == "mine"
    exported(capsys, run, "--format", "onnx", "-o", "net.onnx", "--overwrite")
    onnx.checker.check_model("net.onnx")


@pytest.mark.parametrize("what", ["config.yaml", "checkpoints"])
def test_a_broken_run(run, capsys, what):
    if what == "config.yaml":
        (run / what).write_text("model: [1, 2")
    else:
        for path in (run / what).glob("*.json"):
            path.write_bytes(path.read_bytes()[:-40])
    fails(capsys, run, "--format", "dense")
    fails(capsys, run.parent / "nowhere", "--format", "dense")


def test_no_best_network_yet(trained, tmp_path, capsys):
    """A run of one epoch that never reaches its final sparsity."""
    run = tmp_path / "short"
    settings = [*TINY, "--epochs", "1", "--method.stop_fraction", "1.0"]
    if main(["train", *settings, "--output", str(run)]) != 0:
        pytest.fail("the run did not train")
    if json.loads((run / "summary.json").read_text())["best_epoch"] is None:
        assert "--which last" in fails(capsys, run, "--format", "dense")
    exported(capsys, run, "--format", "dense", "--which", "last", "-o", tmp_path / "x.safetensors")


@pytest.mark.parametrize(("form", "package"), [("nir", "nir"), ("onnx", "onnx")])
def test_a_package_that_is_not_there(run, capsys, monkeypatch, form, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert f"ndsnn[{form}]" in fails(capsys, run, "--format", form, *(["--allow-lossy"] if form == "nir" else []))
    assert not list(run.parent.glob(f"*.{form}*"))


@pytest.mark.parametrize("form", [*SUFFIXES, "c"])
def test_no_space_left(run, capsys, small_disk, form):
    """On a file system that is really full, nothing is left of what was begun."""
    disk = small_disk(64)
    disk.fill()
    target = disk.path / f"out{SUFFIXES.get(form, '')}"
    lossy = ["--allow-lossy"] if form == "nir" else []
    error = fails(capsys, run, "--format", form, "-o", target, *lossy)
    assert "No space left on device" in error
    assert str(disk.path) in error
    assert [path.name for path in disk.path.iterdir()] == ["filler"]
