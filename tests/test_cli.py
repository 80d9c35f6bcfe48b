"""The command line as a user meets it: exit codes, one clear line, nothing written where nothing was done."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from torch import nn

import ndsnn
from ndsnn.cli import main
from ndsnn.engine import native
from ndsnn.errors import RunError
from ndsnn.training.build import build_model
from ndsnn.training.run_directory import RunDirectory

TINY = [
    "--data.image_size", "8", "--model.layers", "[4,M,8,M]", "--model.time_steps", "2", "--epochs", "2",
    "--batch_size", "128", "--threads", "1",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capsys, *arguments: str) -> str:
    """Run a command that must end with exit code 2 and one line on stderr; return the line."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("ndsnn: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method.final_sparsty", "0.9"], "did you mean 'method.final_sparsity'"),
        (["--method.initial_sparsity", "0.97"], "initial_sparsity 0.97 is above method.final_sparsity 0.95"),
        (["--method.name", "set", "--method.initial_sparsity", "0.5"], "keeps its sparsity"),
        (["--method.final_sparsity", "1.0"], "in [0, 1)"),
        (["--method.final_sparsity", "-0.1", "--method.initial_sparsity", "-0.2"], "in [0, 1)"),
        (["--method.name", "dense", "--method.final_sparsity", "0.5"], "dense keeps every weight"),
        (["--method.update_every", "9999"], "no topology update fits"),
        (["--method.start", "9999"], "no topology update fits"),
        (["--method.final_sparsity", "0.9999"], "leaves no weight in layer"),
        (["--method.dense_layers", "[nothing*]"], "'nothing*' matches no layer"),
        (["--method.dense_layers", "['*']"], "dense layers hold"),
        (["--method.distribution", "erkk"], "did you mean 'erk'"),
        (["--method.name", "ndsn"], "did you mean 'ndsnn'"),
        (["--method.name", "nowhere:Thing"], "cannot be imported"),
        (["--method.name", "json:dumps"], "no subclass"),
        (["--method.name", "static", "--method.update_every", "5"], "takes no settings"),
        (["--method.name", "gmp", "--method.death_ratio", "0.3"], "unknown setting of method gmp 'death_ratio'"),
        (["--method.settings.explore", "1"], "unknown setting of method ndsnn 'explore'"),
        (["--method.death_ratio", "1.5"], "death ratios"),
        (["--data.name", "digts"], "did you mean 'digits'"),
        (["--data.name", "folder"], "needs its folder named"),
        (["--data.name", "cifar10", "--data.root", "nowhere"], "ndsnn data prepare cifar10"),
        (["--data.validation_fraction", "0"], "validation_fraction"),
        (["--model.time_steps", "0"], "time_steps is 0"),
        (["--model.name", "vgg17"], "did you mean 'vgg16'"),
        (["--model.name", "vgg16", "--model.layers", "[8]"], "setting of model vgg"),
        (["--model.norm", "xx"], "norm"),
        (["--model.neuron.tau", "0.5"], "tau"),
        (["--model.neuron.surrogate", "atn"], "did you mean 'atan'"),
        (["--resume"], "no run to resume"),
        (["--dense_run", "nowhere"], "nowhere is no run directory"),
        (["--model.layers", "[]"], "at least one convolution"),
        (["--method.settings.death_ratio", "abc"], "wrong type"),
        (["--method.name", "dst-ee", "--method.settings.exploration", "abc"], "wrong type"),
        (["--method.name", "dst-ee", "--method.settings.exploration", "nan"], "wrong type"),
        (["--method.name", ".x:Y"], "cannot be imported"),
        (["--seed", "99999999999999999999999"], "seed is"),
        (["--threads", "99999999999"], "threads is"),
        (["--data.image_size", "3000000"], "image_size is"),
        (["--engine", "reference", "--memory", "recompute"], "recompute needs the native engine"),
    ],
)
def test_bad_input_to_train(here, capsys, arguments, words):
    line = fails(capsys, "train", *TINY, *arguments)
    assert words in line
    assert list(here.iterdir()) == [], "nothing may be written"


def test_no_disk_space(here, capsys, monkeypatch):
    usage = shutil.disk_usage(here)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "no disk space" in fails(capsys, "train", *TINY)
    assert list(here.iterdir()) == []


def test_an_existing_run_is_not_touched(here, capsys):
    assert main(["train", *TINY, "--output", "run"]) == 0
    capsys.readouterr()
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    assert "--resume or delete it with --overwrite" in fails(capsys, "train", *TINY, "--output", "run")
    assert "is finished" in fails(capsys, "train", *TINY, "--output", "run", "--resume")
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before
    assert main(["train", *TINY, "--output", "run", "--overwrite", "--seed", "1"]) == 0


def test_a_directory_that_is_no_run_is_never_deleted(here, capsys):
    (here / "precious").mkdir()
    (here / "precious" / "thesis.txt").write_text("x")
    assert "is no run directory" in fails(capsys, "train", *TINY, "--output", "precious", "--overwrite")
    assert (here / "precious" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize("config", ["", "epochs: 3\n"])
def test_a_foreign_config_yaml_makes_no_run(here, capsys, config):
    (here / "precious").mkdir()
    (here / "precious" / "config.yaml").write_text(config)
    assert "is no run directory" in fails(capsys, "train", *TINY, "--output", "precious", "--overwrite")
    assert (here / "precious" / "config.yaml").read_text() == config


def test_what_is_no_part_of_a_run_is_not_deleted_with_it(here, capsys):
    assert main(["train", *TINY, "--output", "run"]) == 0
    capsys.readouterr()
    Path("run/thesis.txt").write_text("x")
    assert "'thesis.txt', which is no part of a run" in fails(
        capsys, "train", *TINY, "--output", "run", "--overwrite"
    )
    assert Path("run/summary.json").is_file()
    assert Path("run/thesis.txt").read_text() == "x"


def test_two_processes_cannot_train_in_one_directory(here, capsys):
    assert main(["train", *TINY, "--output", "run"]) == 0
    Path("run/summary.json").unlink()
    capsys.readouterr()
    with RunDirectory("run").locked():
        assert "another process is training" in fails(capsys, "train", *TINY, "--output", "run", "--resume")


def test_a_run_that_appears_meanwhile_is_not_deleted(here):
    assert main(["train", *TINY, "--output", "run"]) == 0
    with pytest.raises(RunError, match="there is a run"):
        RunDirectory("run").create("epochs: 1\n")
    assert Path("run/summary.json").is_file()


def test_ctrl_c_before_the_run_begins(here, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ndsnn.training.run.build", interrupt)
    assert main(["train", *TINY]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_an_altered_last_checkpoint_is_named(here, capsys):
    assert main(["train", *TINY, "--output", "run"]) == 0
    last = Path("run/checkpoints/last.safetensors")
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert main(["evaluate", "run", "--which", "last", "--json"]) == 0
    printed = capsys.readouterr()
    assert "using the previous good checkpoint" in printed.err
    assert json.loads(printed.out)["epoch"] == 1


def test_the_test_set_stays_untouched_while_a_run_is_under_way(here, capsys):
    assert main(["train", *TINY, "--output", "run"]) == 0
    Path("run/summary.json").unlink()
    capsys.readouterr()
    assert main(["evaluate", "run", "--which", "last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "validation"


def test_inspect_a_foreign_network(here, capsys):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(16, 3))
    ndsnn.sparsify(net, 0.5)
    ndsnn.save(net, "net.safetensors")
    assert main(["inspect", "net.safetensors", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["layers"]
    assert [(row["name"], row["weights"]) for row in rows] == [("0", 36), ("1", 48)]


def test_train_evaluate_inspect(here, capsys):
    assert main(["train", *TINY, "--output", "run"]) == 0
    printed = capsys.readouterr().out
    for words in ("epoch 1/2", "epoch 2/2", "left 0:00", "test accuracy"):
        assert words in printed
    assert main(["evaluate", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    summary = json.loads(Path("run/summary.json").read_text())
    assert result["accuracy"] == summary["best_test_accuracy"]
    assert main(["evaluate", "run", "--neurobench", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    operations = measured["neurobench"]["SynapticOperations"]
    assert operations["Effective_ACs"] == pytest.approx(measured["synaptic_operations_per_image"])
    assert measured["neurobench"]["ClassificationAccuracy"] == measured["accuracy"]
    assert main(["evaluate", "run", "--neurobench"]) == 0
    assert "Effective_MACs: " in capsys.readouterr().out
    assert main(["evaluate", "run", "--which", "last", "--split", "validation"]) == 0
    assert f"{summary['val_accuracy']:.2%}" in capsys.readouterr().out
    for target in ("run", f"run/checkpoints/best-{summary['best_epoch']}.safetensors"):
        assert main(["inspect", target, "--json"]) == 0
        table = json.loads(capsys.readouterr().out)["layers"]
        assert [row["alive"] for row in table] == [row["alive"] for row in summary["layers"]]
        assert main(["inspect", target]) == 0
        assert "classifier" in capsys.readouterr().out


@pytest.fixture
def no_native(monkeypatch):
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "unavailable_reason", lambda: "there is no compiler here")


@pytest.fixture
def dropout(monkeypatch):
    """Networks get a layer that the engine does not know."""

    def build(*arguments):
        net = build_model(*arguments)
        net.features.append(nn.Dropout(0.5))
        return net

    monkeypatch.setattr("ndsnn.training.build.build_model", build)


def test_the_engine_and_its_reason_are_printed(here, capsys):
    assert main(["train", *TINY, "--engine", "reference"]) == 0
    line = "engine: reference (plain PyTorch on masked weights, 1 threads), because it was asked for\n"
    assert line in capsys.readouterr().out


@pytest.mark.skipif(not native.available(), reason=native.unavailable_reason())
def test_the_native_engine_is_taken_where_it_can_be(here, capsys, monkeypatch):
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)
    assert main(["train", *TINY, "--output", "run", "--memory", "recompute"]) == 0
    printed = capsys.readouterr().out
    line = f"engine: native ({native.instruction_set()}, 1 threads), memory recompute, because it is available\n"
    assert line in printed
    assert f"native engine ({native.instruction_set()})" in printed
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["engine"], summary["instruction_set"]) == ("native", native.instruction_set())
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "native"


def test_without_the_native_engine(here, capsys, no_native):
    assert "there is no compiler here" in fails(capsys, "train", *TINY, "--engine", "native")
    assert "recompute needs the native engine" in fails(capsys, "train", *TINY, "--memory", "recompute")
    assert list(here.iterdir()) == [], "nothing may be written"
    assert main(["train", *TINY, "--output", "run"]) == 0
    printed = capsys.readouterr().out
    assert "engine: reference (plain PyTorch on masked weights, 1 threads), because" in printed
    assert "there is no compiler here" in printed
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "reference"


def test_a_run_of_the_native_engine_is_evaluated_where_there_is_none(here, capsys, monkeypatch):
    assert main(["train", *TINY, "--output", "run", "--engine", "reference"]) == 0
    config = Path("run/config.yaml")
    without_checksum = config.read_text().partition("\n")[2]
    config.write_text(without_checksum.replace("engine: reference", "engine: native"))
    monkeypatch.setattr(native, "available", lambda: False)
    capsys.readouterr()
    assert main(["evaluate", "run", "--json"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert json.loads(capsys.readouterr().out)["accuracy"] == summary["best_test_accuracy"]


@pytest.mark.skipif(not native.available(), reason=native.unavailable_reason())
def test_a_network_that_the_engine_does_not_know(here, capsys, monkeypatch, dropout):
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)
    line = fails(capsys, "train", *TINY, "--engine", "native")
    assert "engine native cannot compute this run: layer 'features." in line
    assert list(here.iterdir()) == [], "nothing may be written"
    assert main(["train", *TINY, "--output", "run"]) == 0
    assert "engine: reference" in (printed := capsys.readouterr().out)
    assert "because layer 'features." in printed
    assert "Dropout" in json.loads(Path("run/summary.json").read_text())["engine_reason"]


def test_a_run_from_before_there_were_engines_can_be_inspected(here, capsys):
    assert main(["train", *TINY, "--output", "run", "--engine", "reference"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    newer = ("engine", "engine_reason", "instruction_set", "sha256", "files", "changed_on_resume")
    old = {k: v for k, v in summary.items() if k not in newer}
    Path("run/summary.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert main(["inspect", "run"]) == 0
    assert "reference engine, 1 threads" in capsys.readouterr().out


def test_train_json_prints_the_summary_alone_on_stdout(here, capsys):
    assert main(["train", *TINY, "--output", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("run/summary.json").read_text())


def test_bad_input_to_the_others(here, capsys):
    assert "no run directory and no file" in fails(capsys, "inspect", "nowhere")
    assert "no run directory" in fails(capsys, "evaluate", "nowhere")
    assert "invalid choice" in fails(capsys, "trian")
    assert "required" in fails(capsys)
    assert "unknown data set" in fails(capsys, "data", "prepare", "mnist-3d")
    (here / "broken.safetensors").write_bytes(b"\xff" * 100)
    assert "broken.safetensors is truncated or no safetensors file" in fails(
        capsys, "inspect", "broken.safetensors"
    )


def test_data_list(here, capsys):
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["digits"]["state"] == "ready"
    assert set(rows) >= {"digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "folder"}
    assert main(["data", "list"]) == 0
    assert "looked for in" in capsys.readouterr().out
    assert main(["data", "prepare", "digits"]) == 0


def test_a_method_of_ones_own(here, capsys, monkeypatch):
    (here / "mine.py").write_text(
        "import ndsnn\n\n\nclass Mine(ndsnn.RigL):\n"
        "    def drop_scores(self, layer):\n        return layer.active_values()\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert main(["train", *TINY, "--method.name", "mine:Mine", "--output", "run"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["method"] == "mine:Mine"
