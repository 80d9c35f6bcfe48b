"""A full disk, a disk that cannot be written, and a signal while a data set is prepared."""

import signal

import pytest
from event_files import make_nmnist

from ndsnn import data as nd
from ndsnn.cli import main
from ndsnn.data.events import cache
from ndsnn.errors import DataError

SMALL = {"per_class": 2, "test_per_class": 1, "classes": 3, "count": 60}


@pytest.fixture
def expected(tmp_path, monkeypatch):
    """The fingerprint of the data that nothing disturbs; two recordings are framed at a time."""
    monkeypatch.setattr(cache, "_CHUNK_BYTES", 2 * 10 * 2 * 34 * 34)
    monkeypatch.setattr(cache, "_SPARE_BYTES", 0)
    root = make_nmnist(tmp_path / "whole", **SMALL)
    nd.prepare("nmnist", root)
    return nd.load("nmnist", root).fingerprint


def test_no_space_left_while_recordings_are_framed(expected, small_disk, capsys):
    disk = small_disk(1024)
    make_nmnist(disk.path, **SMALL)

    def fill(what, done, total):
        if what == "decode" and done == 4:
            disk.fill()

    with pytest.raises(DataError, match=r"\.partial cannot be written: .*No space left.*make room and run"):
        nd.prepare("nmnist", disk.path, fill)
    with pytest.raises(DataError, match="have not been made into"):
        nd.load("nmnist", disk.path)
    assert main(["data", "prepare", "nmnist", "--root", str(disk.path)]) == 2
    assert "make room" in capsys.readouterr().err.splitlines()[-1]
    disk.free()
    seen = []
    nd.prepare("nmnist", disk.path, lambda what, done, total: seen.append((what, done)))
    assert nd.load("nmnist", disk.path).fingerprint == expected
    assert ("decode", 2) not in seen, "what was framed before is kept"


def test_frames_of_changed_recordings_that_cannot_be_replaced(tmp_path, read_only, capsys):
    root = make_nmnist(tmp_path / "root", **SMALL)
    nd.prepare("nmnist", root)
    path = root / "nmnist" / "Train" / "0" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-5])
    read_only(root / "nmnist-frames")
    assert main(["data", "prepare", "nmnist", "--root", str(root)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"ndsnn: error: nmnist cannot be prepared in {root}: ")
    assert any(reason in error for reason in ("Read-only file system", "Permission denied"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_recordings_are_framed(expected, tmp_path, monkeypatch, capsys, number):
    """The command ends at the next point from which it can go on, and does so when it is called again."""
    root = make_nmnist(tmp_path / "root", **SMALL)
    framed, original = [], cache.frame_events

    def frame(*arguments):
        framed.append(arguments)
        if len(framed) == 3:
            signal.raise_signal(number)
        return original(*arguments)

    monkeypatch.setattr(cache, "frame_events", frame)
    command = ["data", "prepare", "nmnist", "--root", str(root)]
    assert main(command) == 128 + number
    assert f"ndsnn: stopped by {number.name} preparing nmnist; what is done is kept" in capsys.readouterr().err
    assert len(framed) == 4, "the two recordings that were begun are finished"
    with pytest.raises(DataError, match="have not been made into"):
        nd.load("nmnist", root)
    assert main(command) == 0
    assert len(framed) == 9, "none is framed twice"
    assert nd.load("nmnist", root).fingerprint == expected
