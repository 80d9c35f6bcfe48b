"""No room, no permission, no directory: the run ends with a clear error, and goes on from its checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import quiet, require_same_run

from ndsnn.cli import main
from ndsnn.config_parser import config_to_yaml
from ndsnn.errors import RunError
from ndsnn.json_lines import RowLog
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training import loop
from ndsnn.training.run import train
from ndsnn.training.run_directory import RunDirectory
from ndsnn.training.tracking import Tracker


@pytest.fixture
def command(tiny, tmp_path):
    """Return a function that runs `ndsnn train` in a directory, with its exit code and what it says is wrong."""

    def run(output, capsys, *options, **changes):
        settings = tmp_path / "settings.yaml"
        settings.write_text(
            config_to_yaml(replace(tiny, output=str(output), epochs=1, checkpoint_every=3, **changes))
        )
        capsys.readouterr()
        code = main(["train", "--config", str(settings), *options])
        return code, capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of the run without a fault, made by the first test that asks for it."""
    return tmp_path_factory.mktemp("whole") / "run"


def before(patch, owner, name, action, calls=1, wanted=lambda *arguments: True):
    """Let `action` happen right before the `calls`-th wanted call of `owner.name`."""
    original, count = getattr(owner, name), 0

    def call(*arguments, **keywords):
        nonlocal count
        if wanted(*arguments):
            count += 1
            if count == calls:
                action()
        return original(*arguments, **keywords)

    patch.setattr(owner, name, call)


WRITES = {
    "config.yaml": (RunDirectory, "create", 1, lambda *_: True),
    "topology.jsonl": (RunDirectory, "append", 1, lambda _, name, *__: name == "topology.jsonl"),
    "metrics.jsonl": (RunDirectory, "append", 1, lambda _, name, *__: name == "metrics.jsonl"),
    "best-1.safetensors": (loop, "save", 1, lambda *_: True),
    "last.safetensors": (checkpoints, "save_checkpoint", 3, lambda *_: True),
    "tensorboard": (Tracker, "epoch", 1, lambda *_: True),
    "summary.json": (RunDirectory, "write_summary", 1, lambda *_: True),
}


def left_over(path):
    return [each.name for each in path.rglob("*") if each.name.endswith(".tmp") or ".new-" in each.name]


@pytest.mark.parametrize("file", WRITES)
def test_no_space_left(command, capsys, monkeypatch, small_disk, whole, file):
    """The disk is full when a file is to be written: exit code 2; when there is room again, the run goes on."""
    if file == "tensorboard":
        pytest.importorskip("tensorboard")
    if not whole.exists():
        assert command(whole, capsys) == (0, "")
    disk = small_disk(2048)
    output = disk.path / "run"
    owner, name, calls, wanted = WRITES[file]
    options = ("--tensorboard", "true") if file == "tensorboard" else ()
    with monkeypatch.context() as patch:
        before(patch, owner, name, disk.fill, calls, wanted)
        code, error = command(output, capsys, *options)
    last = error.splitlines()[-1]
    assert code == 2
    assert last.startswith("ndsnn: error: cannot ")
    assert "No space left on device" in last
    assert str(output) in last
    assert not left_over(disk.path)
    if file == "config.yaml":
        assert not output.exists()
        return
    good = checkpoints.load_checkpoint(output / "checkpoints")
    assert not good.skipped
    assert RunDirectory(output).rows_problem(good.state) is None
    disk.free()
    assert command(output, capsys, "--resume") == (0, "")
    require_same_run(whole, output)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_cannot_be_written(command, capsys, monkeypatch, tmp_path):
    """The disk of the log is full, not that of the run; what Python writes when it ends makes no second error."""
    with open("/dev/full", "w", buffering=1) as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        code, error = command(tmp_path / "run", capsys)
        full.write("the end of a buffer\n")
    assert code == 2
    assert error.startswith("ndsnn: error: [Errno 28] No space left on device")


def test_too_small_a_disk_is_refused_before_anything_is_written(command, capsys, small_disk):
    disk = small_disk(64)
    code, error = command(disk.path / "run", capsys)
    assert code == 2
    assert "no disk space for the run" in error
    assert not any(disk.path.iterdir())


def test_a_row_that_does_not_fit_leaves_nothing_of_itself(small_disk):
    disk = small_disk(32)
    path = disk.path / "rows"
    path.touch()
    log, written = RowLog(path), b""

    def write():
        nonlocal written
        for number in range(10_000):
            log.append([{"number": number, "text": "x" * 100}])
            written = path.read_bytes()

    with pytest.raises(OSError, match="No space left"):
        write()
    assert written.count(b"\n") > 100
    assert path.read_bytes() == written
    assert log.written["bytes"] == len(written)
    assert log.begins_with(log.written)


def test_a_directory_that_becomes_read_only(command, capsys, monkeypatch, read_only, whole):
    if not whole.exists():
        assert command(whole, capsys) == (0, "")
    output = whole.with_name("read-only")
    with monkeypatch.context() as patch:
        before(patch, checkpoints, "save_checkpoint", lambda: read_only(output), calls=2)
        code, error = command(output, capsys)
    assert code == 2
    assert "cannot write a checkpoint" in error
    assert any(reason in error for reason in ("Read-only file system", "Permission denied"))
    assert checkpoints.load_checkpoint(output / "checkpoints").state["step"] == 3
    code, error = command(output, capsys, "--resume")
    assert code == 2
    assert "cannot write" in error
    assert "Traceback" not in error


def test_a_place_that_is_read_only(command, capsys, tmp_path, read_only):
    place = tmp_path / "place"
    place.mkdir()
    read_only(place)
    code, error = command(place / "run", capsys)
    assert code == 2
    assert f"cannot create the run directory {place / 'run'}" in error
    assert not any(place.iterdir())


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (".", "the directory is gone, and the checkpoints in it"),
        ("checkpoints", "the directory is gone, and the checkpoints in it"),
        ("topology.jsonl", "topology.jsonl: No such file"),
        ("metrics.jsonl", "metrics.jsonl: No such file"),
    ],
)
def test_a_directory_that_vanishes(command, capsys, monkeypatch, tmp_path, gone, words):
    """Nothing is made again in the place of what is gone: it would be a part of a run that looks whole."""
    output = tmp_path / "run"
    lost = output / gone

    def remove():
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()

    with monkeypatch.context() as patch:
        before(patch, loop.Trainer, "_step", remove, calls=6)
        code, error = command(output, capsys)
    assert code == 2
    assert words in error
    assert not lost.exists()


def test_rows_of_somebody_else_are_noticed(tiny, monkeypatch):
    def write():
        with open(Path(tiny.output) / "topology.jsonl", "a") as file:
            file.write('{"step": 1}\n')

    before(monkeypatch, loop.Trainer, "_step", write, calls=6)
    with pytest.raises(RunError, match=r"topology\.jsonl has \d+ bytes where this run has written"):
        train(tiny, quiet())
