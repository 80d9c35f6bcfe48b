"""Checkpoints: whole or not at all, and never a wrong one."""

import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import elsewhere, quiet, require_same_run

from ndsnn.errors import CheckpointError
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training.run import train


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test can catch it by accident."""


def pair(step):
    return {"w": torch.full((5,), float(step))}, {"step": step, "note": "x"}


def read(directory):
    found = checkpoints.load_checkpoint(directory)
    assert float(found.tensors["w"][0]) == found.state["step"]
    return found


def test_last_and_previous(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, *pair(step))
    assert read(tmp_path).state["step"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last.json",
        "last.safetensors",
        "previous.json",
        "previous.safetensors",
    ]


@pytest.mark.parametrize("older", [0, 1, 2])
@pytest.mark.parametrize("survived", range(12))
def test_a_kill_between_any_two_file_operations(tmp_path, monkeypatch, survived, older):
    """Old or new, whole, whatever operation is the last that was done; before the first one, nothing."""
    for step in range(1, older + 1):
        checkpoints.save_checkpoint(tmp_path, *pair(step))
    done = 0

    def counted(operation):
        def call(*arguments, **keywords):
            nonlocal done
            if done == survived:
                raise Killed
            done += 1
            return operation(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "open"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            checkpoints.save_checkpoint(tmp_path, *pair(3))
        except Killed:
            pass
        else:
            assert survived >= done
    if older or checkpoints.has_checkpoint(tmp_path):
        found = read(tmp_path)
        assert found.state["step"] in (older, 3)
        checkpoints.settle(tmp_path, found)
        require_settled(tmp_path, found.state["step"], older)
    checkpoints.save_checkpoint(tmp_path, *pair(4))
    assert read(tmp_path).state["step"] == 4


def require_settled(directory, step, older):
    """What was found is called `last`, what was before it `previous`, and nothing else is there."""
    again = read(directory)
    assert again.state["step"] == step
    assert again.path.name == "last.safetensors"
    assert not again.unsettled
    assert not list(directory.glob("*.tmp"))
    if step == 3 and older:
        aside = directory / "aside"
        aside.mkdir()
        for suffix in (".json", ".safetensors"):
            shutil.copy(directory / f"previous{suffix}", aside)
        assert read(aside).state["step"] == older


def test_what_was_half_written_goes_away(tmp_path):
    checkpoints.save_checkpoint(tmp_path, *pair(1))
    (tmp_path / "last.safetensors.tmp").write_bytes(b"torn")
    found = read(tmp_path)
    assert not found.unsettled
    checkpoints.settle(tmp_path, found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.json", "last.safetensors"]


def test_a_broken_previous_is_nothing_to_fall_back_from(tmp_path):
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path, *pair(step))
    (tmp_path / "previous.json").write_text("{")
    assert read(tmp_path).skipped == ()
    (tmp_path / "last.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"last\.json is .*; previous\.json is .*begin the run again"):
        read(tmp_path)


def test_a_checkpoint_that_cannot_be_used_is_passed_over(tmp_path):
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path, *pair(step))
    found = checkpoints.load_checkpoint(tmp_path, lambda state: "no" if state["step"] == 2 else None)
    assert found.state["step"] == 1
    assert found.skipped == ("no",)
    checkpoints.settle(tmp_path, found)
    checkpoints.save_checkpoint(tmp_path, *pair(3))
    names = sorted(p.stem for p in tmp_path.glob("*.json"))
    assert names == ["broken", "last", "previous"]


def test_a_directory_that_is_gone(tmp_path):
    with pytest.raises(CheckpointError, match="the directory is gone, and the checkpoints in it with it"):
        checkpoints.save_checkpoint(tmp_path / "gone", *pair(1))
    assert not (tmp_path / "gone").exists()


def test_a_kill_inside_the_first_write_is_no_checkpoint(tmp_path):
    (tmp_path / "last.safetensors.tmp").write_bytes(b"torn")
    assert not checkpoints.has_checkpoint(tmp_path)
    (tmp_path / "last.json.tmp").write_bytes(b"{")
    assert not checkpoints.has_checkpoint(tmp_path)


def test_truncation_of_every_file_at_every_length(tmp_path):
    checkpoints.save_checkpoint(tmp_path, *pair(1))
    checkpoints.save_checkpoint(tmp_path, *pair(2))
    for name in ("last.json", "last.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for length in range(len(whole)):
            (tmp_path / name).write_bytes(whole[:length])
            found = read(tmp_path)
            assert found.state["step"] == 1
            assert found.skipped
        (tmp_path / name).write_bytes(whole)


def test_every_flipped_bit_is_noticed(tmp_path):
    checkpoints.save_checkpoint(tmp_path, *pair(1))
    checkpoints.save_checkpoint(tmp_path, *pair(2))
    for name in ("last.json", "last.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for position in range(len(whole)):
            changed = bytearray(whole)
            changed[position] ^= 1 << position % 8
            (tmp_path / name).write_bytes(changed)
            # White space of the JSON may change without changing its content.
            step = read(tmp_path).state["step"]
            assert step == 1 or (name == "last.json" and chr(whole[position]).isspace())
        (tmp_path / name).write_bytes(whole)


def test_nothing_usable(tmp_path):
    with pytest.raises(CheckpointError, match="there is none"):
        checkpoints.load_checkpoint(tmp_path)
    checkpoints.save_checkpoint(tmp_path, *pair(1))
    (tmp_path / "last.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"last\.json is truncated or altered"):
        checkpoints.load_checkpoint(tmp_path)


def test_no_pickle_is_written_or_read(tmp_path, tiny, run_until, monkeypatch):
    import pickle

    def refuse(*_):
        raise AssertionError("pickle was used")

    run_until(tiny, 5)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    run_until(replace(tiny, resume=True))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoints.save_checkpoint(tmp_path, *pair(1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.save_checkpoint(tmp_path, *pair(2))
    assert read(tmp_path).state["step"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.json", "last.safetensors"]


def test_a_really_full_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    try:
        checkpoints.save_checkpoint(place, *pair(1))
        big = {"w": torch.zeros(100_000)}
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.save_checkpoint(place, big, {"step": 2})
        assert read(place).state["step"] == 1
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_an_altered_checkpoint_falls_back_and_says_so(tiny, run_until, capsys):
    run_until(tiny)
    stopped = elsewhere(tiny, "stopped", checkpoint_every=2)
    run_until(stopped, 13)
    path = Path(stopped.output) / "checkpoints" / "last.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 8
    path.write_bytes(data)
    console = quiet()
    train(replace(stopped, resume=True), console)
    printed = console.file.getvalue()
    assert "falling back to the previous good checkpoint" in printed
    assert "previous.safetensors" in printed
    require_same_run(Path(tiny.output), Path(stopped.output))


def test_a_checkpoint_of_another_architecture(tiny, run_until):
    run_until(tiny, 5)
    other = elsewhere(tiny, "other", model=replace(tiny.model, layers=(4, "M", 6, "M")))
    run_until(other, 5)
    for name in ("checkpoints/last.json", "checkpoints/last.safetensors", "topology.jsonl"):
        shutil.copy(Path(other.output) / name, Path(tiny.output) / name)
    with pytest.raises(CheckpointError, match="another architecture"):
        train(replace(tiny, resume=True), quiet())


def test_the_checkpoint_holds_alive_weights_only(tiny, run_until):
    config = replace(tiny, model=replace(tiny.model, layers=(32, "M", 64, "M")))
    run_until(config)
    found = checkpoints.load_checkpoint(Path(config.output) / "checkpoints")
    alive = found.state["network"]["layers"]["features.5.weight"]["alive"]
    per_layer = {key: t for key, t in found.tensors.items() if "features.5.weight" in key}
    assert per_layer["network/features.5.weight.values"].numel() == alive
    assert sum(t.numel() == 64 * 32 * 9 for t in found.tensors.values()) == 0
