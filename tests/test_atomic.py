"""Directories that are exchanged whole, and locks between processes."""

import os
import subprocess
import sys

import pytest

from ndsnn.atomic import exclusive_lock, replaced_directory, write_atomically


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_a_directory_is_replaced_whole(tmp_path):
    target = tmp_path / "report"
    target.mkdir()
    (target / "old").write_text("1")
    with replaced_directory(target) as new:
        (new / "new").write_text("2")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["report"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_fails_changes_nothing(tmp_path, error):
    target = tmp_path / "report"
    target.mkdir()
    (target / "old").write_text("1")

    def half():
        with replaced_directory(target) as new:
            (new / "new").write_text("2")
            raise error

    with pytest.raises(error):
        half()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["report"]


def test_the_old_directory_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "report"
    target.mkdir()
    (target / "old").write_text("1")
    real = os.replace

    def refuse(source, destination):
        if ".new-" in str(source):
            raise OSError("refused")
        real(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="refused"), replaced_directory(target):
        pass
    assert names(target) == ["old"]
    assert names(tmp_path) == ["report"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with replaced_directory(tmp_path / "link") as new:
        (new / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "there") == ["file"]


TAKE = """
import sys
from pathlib import Path
from ndsnn.atomic import exclusive_lock
try:
    with exclusive_lock(Path(sys.argv[1])):
        print("taken")
except BlockingIOError:
    print("held")
"""


def test_a_lock_keeps_other_processes_out(tmp_path):
    def other():
        done = subprocess.run([sys.executable, "-c", TAKE, str(tmp_path / "lock")], capture_output=True, text=True)
        return done.stdout.strip()

    with exclusive_lock(tmp_path / "lock"):
        assert other() == "held"
    assert other() == "taken"


def test_a_file_that_cannot_be_finished_is_not_left_behind(small_disk):
    disk = small_disk(16)
    path = disk.path / "file"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert names(disk.path) == ["file"]
