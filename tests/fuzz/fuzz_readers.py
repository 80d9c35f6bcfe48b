"""What reads files from elsewhere, as functions of bytes: each returns, or raises an error of ndsnn's own.

The first bytes of an input choose nothing: it is the content of the file as it stands, so that a corpus holds real
files. Where a checksum would end every attempt at once, it is made right again, as whoever alters a file would.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from rich.console import Console

import ndsnn
from ndsnn.config_parser import read_config
from ndsnn.data import arrays
from ndsnn.data.decode import decode
from ndsnn.data.events.archives import unpack_tar, unpack_zip_member
from ndsnn.data.events.formats import read_aedat2_dvs128, read_aedat3, read_aer40
from ndsnn.data.events.gesture import read_trials
from ndsnn.data.events.recording import Sensor, checked
from ndsnn.data.files import gunzip_bounded, read_tar_members
from ndsnn.data.idx import parse_idx
from ndsnn.data.pickles import load_arrays
from ndsnn.data.trees import ZipTree
from ndsnn.errors import NdsnnError
from ndsnn.evaluation.report.records import read_runs
from ndsnn.evaluation.sweep.grid import read_grid
from ndsnn.json_lines import read_rows
from ndsnn.training.checkpoint import load_checkpoint
from ndsnn.training.inspect import inspect_path
from ndsnn.training.run_directory import RunDirectory
from ndsnn.training.saved_state import state_problem, summary_problem
from ndsnn.training.tables import print_summary

LIMIT = 1 << 20
_MEMBERS = re.compile(r"Top/([A-Za-z0-9][A-Za-z0-9_-]*\.(?:aedat|csv|txt))")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is such a place, gone afterwards."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        yield Path(name)


def allowed(read: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Let a reader raise what ndsnn raises on purpose, and nothing else."""

    def target(data: bytes) -> None:
        with contextlib.suppress(NdsnnError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(data)

    return target


def as_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Give a reader of paths the bytes as a file of this name."""

    def target(data: bytes) -> object:
        with scratch() as folder:
            path = folder / name
            path.write_bytes(data)
            return read(path)

    return target


def network_file(path: Path) -> None:
    """Both ways in: with the network that the file describes, and as a table of its layers."""
    with contextlib.suppress(NdsnnError):
        inspect_path(path)
    net = ndsnn.load(path)
    assert isinstance(net, torch.nn.Module)


def manifest(data: bytes) -> None:
    """The state of a checkpoint, signed anew; what is taken for good must be what everything behind goes by."""
    with scratch() as folder:
        tensors = safetensors.torch.save({"w": torch.zeros(1)})
        (folder / "last.safetensors").write_bytes(tensors)
        text = data
        with contextlib.suppress(ValueError, RecursionError, TypeError):
            text = _signed(json.loads(data), tensors)
        (folder / "last.json").write_bytes(text)
        found = load_checkpoint(folder, state_problem)
        assert found.state["progress"]["best_epoch"] >= 0


def checkpoint_tensors(data: bytes) -> None:
    """The tensors of a checkpoint, under a manifest that vouches for them."""
    with scratch() as folder:
        (folder / "last.safetensors").write_bytes(data)
        (folder / "last.json").write_bytes(_signed({"step": 1}, data))
        load_checkpoint(folder)


def _signed(state: object, tensors: bytes) -> bytes:
    plain = {
        "format": "ndsnn-checkpoint",
        "version": 1,
        "sha256": hashlib.sha256(tensors).hexdigest(),
        "state": state,
    }
    own = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return json.dumps(plain | {"self": own}).encode()


def rows(path: Path) -> None:
    found, broken = read_rows(path)
    assert all(isinstance(row, dict) for row in found)
    assert all(isinstance(text, str) for text in broken)


def summary(data: bytes) -> None:
    """A finished run of which only the summary is there: what reports and tables make of it."""
    with scratch() as folder:
        run = folder / "run"
        run.mkdir()
        (run / "summary.json").write_bytes(data)
        read_runs([folder])
        found = RunDirectory(run).read_summary()
        if summary_problem(found) is None:
            print_summary(found, Console(file=io.StringIO()))


def idx(data: bytes) -> None:
    array = parse_idx(data, "file")
    assert array.dtype == np.uint8


def pickled(data: bytes) -> None:
    for value in load_arrays(data, "file").values():
        assert not isinstance(value, type)


def events(read: Callable[[bytes, object], object], sensor: Sensor) -> Callable[[bytes], object]:
    return lambda data: checked(read(data, "file"), sensor, "file", sort=True)


def frames(data: bytes) -> None:
    """A prepared cache: the manifest and the arrays as members of a zip archive, checksums made right."""
    with scratch() as folder:
        contents = {}
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in ("manifest.json", "train_images.npy", "train_labels.npy"):
                with archive.open(name) as file:
                    contents[name] = file.read(LIMIT)
        for name, content in contents.items():
            digest = hashlib.sha256(content).hexdigest().encode()
            key = b"images_sha256" if "images" in name else b"labels_sha256"
            contents["manifest.json"] = contents.get("manifest.json", b"").replace(b"<" + key + b">", digest)
            (folder / name).write_bytes(content)
        (folder / "manifest.json").write_bytes(contents.get("manifest.json", b""))
        images, labels = arrays.open_part(folder, "train")
        assert len(images) == len(labels)
        assert labels.dtype == np.int64
        assert images.sum(dtype=np.int64) >= 0


def zipped(path: Path) -> None:
    tree = ZipTree(path, "Top", None, "get it again", LIMIT)
    for name in tree.names()[:20]:
        with contextlib.suppress(NdsnnError):
            tree.read(name)
    unpack_zip_member(path, "Top/a", path.with_name("out"), LIMIT)


def tarred(path: Path) -> None:
    with contextlib.suppress(NdsnnError):
        read_tar_members(path, ["Top/a.txt", "Top/b.txt"], LIMIT)
    unpack_tar(path, path.with_name("Top"), _MEMBERS, LIMIT, lambda *told: None)


DVS = Sensor(128, 128, 2)
TARGETS: dict[str, Callable[[bytes], None]] = {
    name: allowed(read)
    for name, read in {
        "network": as_file("net.safetensors", network_file),
        "tensors": checkpoint_tensors,
        "manifest": manifest,
        "summary": summary,
        "rows": as_file("metrics.jsonl", rows),
        "config": as_file("config.yaml", read_config),
        "grid": as_file("grid.yaml", read_grid),
        "idx": idx,
        "gzip": as_file("a.gz", lambda path: gunzip_bounded(path, LIMIT)),
        "pickle": pickled,
        "aer40": events(read_aer40, Sensor(34, 34, 2)),
        "aedat2": events(read_aedat2_dvs128, DVS),
        "aedat3": events(read_aedat3, DVS),
        "trials": as_file("user01_lab_labels.csv", lambda path: read_trials(path, "user01_lab.aedat")),
        "frames": frames,
        "zip": as_file("a.zip", zipped),
        "tar": as_file("a.tar.gz", tarred),
        "image": lambda data: decode(data, "file", 3, (8, 8)),
    }.items()
}
"""Readers by name; each has a folder of real and of hostile files in corpus/."""
