"""`ndsnn export RUN --format c` as a user meets it, and its example and documentation."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from c_programs import WARNINGS

import ndsnn
from ndsnn.cli import main
from ndsnn.training.inspect import evaluate_run

ROOT = Path(__file__).parents[2]
TINY = [
    "--data.image_size", "8", "--model.layers", "[4,M,8,M]", "--model.time_steps", "2", "--epochs", "2",
    "--batch_size", "256", "--threads", "1", "--engine", "reference", "--method.stop_fraction", "0.4",
    "--method.update_every", "3",
]  # fmt: skip

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two epochs."""
    path = tmp_path_factory.mktemp("trained") / "tiny"
    assert main(["train", *TINY, "--output", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(capsys, *arguments):
    capsys.readouterr()
    assert main(["export", *map(str, arguments), "--format", "c", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    capsys.readouterr()
    assert main(["export", *map(str, arguments), "--format", "c"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_files_and_sizes(run, here, capsys):
    found = exported(capsys, run)
    assert found["files"] == ["tiny.h", "tiny.c"]
    assert sorted(path.name for path in here.iterdir()) == ["tiny.c", "tiny.h"]
    assert found["bytes"] == sum((here / name).stat().st_size for name in found["files"])
    header = (here / "tiny.h").read_text()
    assert f"#define TINY_CONST_BYTES {found['flash_bytes']} " in header
    assert f"#define TINY_CONTEXT_BYTES {found['ram_bytes']} " in header
    assert "test" not in found
    sizes = found["sizes"]
    assert sizes["weights"] == 4 * found["weights"]
    # Neurons: 4 × 8 × 8 and 8 × 4 × 4; the image reaches the first.
    assert (sizes["potentials"], sizes["drives"]) == (4 * (256 + 128), 4 * 256)


def test_accuracy_of_int8(run, capsys):
    found = exported(capsys, run, "--quantize", "int8", "-o", "q")
    expected = evaluate_run(run, "best", "test")
    test = found["test"]
    assert test["images"] == expected["images"]
    assert test["accuracy_fp32"] == pytest.approx(expected["accuracy"], abs=1e-9)
    assert test["accuracy_loss"] == pytest.approx(test["accuracy_fp32"] - test["accuracy_int8"])
    assert test["same_predictions"] > 0.9
    assert main(["export", str(run), "--format", "c", "--quantize", "int8", "-o", "q", "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert f"accuracy on {test['images']:,} test images: {test['accuracy_int8']:.2%} with int8" in printed
    assert f"flash: {found['flash_bytes']:,} bytes" in printed
    assert f"RAM:   {found['ram_bytes']:,} bytes" in printed


def test_what_cannot_be(run, here, capsys):
    assert "did you mean 'int8'?" in fails(capsys, run, "--quantize", "int9")
    assert "cannot be the prefix of C names" in fails(capsys, run, "-o", "a-b")
    assert "--opset is no option of format c" in fails(capsys, run, "--opset", "17")
    assert "which only --quantize looks at" in fails(capsys, run, "--data-root", ".")
    assert not list(here.iterdir())
    (here / "net.h").write_text("mine")
    assert "net.h exists already" in fails(capsys, run, "-o", "net")
    assert [path.name for path in here.iterdir()] == ["net.h"]


def test_a_file_of_ndsnn_save(here, capsys):
    net = ndsnn.models.vgg([4, "M"], time_steps=2)
    ndsnn.sparsify(net, 0.5)
    ndsnn.save(net, here / "saved.safetensors")
    assert "give --image-size" in fails(capsys, "saved.safetensors", "-o", "net")
    exported(capsys, "saved.safetensors", "-o", "net", "--image-size", "8")
    assert "net_run_pixels" not in (here / "net.h").read_text()
    error = fails(capsys, "saved.safetensors", "-o", "q", "--image-size", "8", "--quantize", "int8")
    assert "does not know the range of the network's input" in error


@needs_gcc
@pytest.mark.parametrize("quantize", [[], ["--quantize", "int8"]])
def test_example(run, quantize, capsys):
    path = ROOT / "examples" / "c_inference" / "compare.py"
    spec = importlib.util.spec_from_file_location("compare", path)
    compare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    compare.main([str(run), "--compiler", "gcc", *quantize])
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[-1].split("%")[0]) > (90 if quantize else 99.9)
    assert len(path.read_text().splitlines()) <= 60


@needs_gcc
def test_documented_code_compiles(run, here, capsys):
    exported(capsys, run, "-o", "net")
    (block,) = re.findall(r"```c\n(.*?)```", (ROOT / "docs" / "c-export.md").read_text(), re.DOTALL)
    (here / "use.c").write_text(block)
    subprocess.run(["gcc", *WARNINGS, "-c", "use.c"], check=True)
