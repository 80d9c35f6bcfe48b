"""Decoding many images once into files that are memory-mapped afterwards; a killed run is continued.

Layout of the folder: `<part>_images.npy` uint8 [N, C, H, W], or of another shape and type where the caller says
so, `<part>_labels.npy` int64 [N] and `manifest.json`.
While it is written the folder is called `<name>.partial` and has a `progress.json`; it is renamed at the end.
Images are appended to the file, never written through a mapping, so that a full disk is an error, not a crash.
"""

from __future__ import annotations

import json
import os
import shutil
import tokenize
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ndsnn.atomic import write_atomically
from ndsnn.data.containers import BROKEN
from ndsnn.data.files import Checksum
from ndsnn.data.source import Progress
from ndsnn.errors import DataError
from ndsnn.parsing import read_json

FORMAT = 1
MANIFEST = "manifest.json"
_PROGRESS = "progress.json"
_CHUNK = 1000


class Part(NamedTuple):
    """The files of one part ("train", "test") in their order, and the label of each."""

    files: Sequence[str]
    labels: Sequence[int]


def build(
    target: Path,
    parts: Mapping[str, Part],
    shape: tuple[int, ...],
    read: Callable[[str], np.ndarray],
    source: str,
    extra: Mapping[str, Any],
    progress: Progress,
    chunk: int = _CHUNK,
    dtype: str = "uint8",
) -> None:
    """Decode all parts into the folder `target`, from where an interrupted call has stopped.

    Args:
        target: Folder to make; it must not exist.
        parts: What to decode, by name.
        shape: (C, H, W) of every image.
        read: Decodes the file of a name into an array of this shape and type.
        source: Identity of the files; work begun on another source is thrown away.
        extra: Further entries of the manifest.
        progress: Told the images decoded so far and in all.
        chunk: Images between two records of progress.
        dtype: Type of the images, an unsigned integer.

    Raises:
        DataError: A file is bad, or the disk is full.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        done = _resume(target, partial, parts, source)
        total = sum(len(part.files) for part in parts.values())
        for name, part in parts.items():
            before = sum(done.values()) - done[name]

            def record(count: int, name: str = name, before: int = before) -> None:
                done[name] = count
                _write_json(partial / _PROGRESS, {"source": source, "done": done})
                progress("decode", before + count, total)

            path = partial / f"{name}_images.npy"
            _append(path, part, shape, np.dtype(dtype), read, done[name], chunk, record)
            np.save(partial / f"{name}_labels.npy", np.array(part.labels, np.int64))
        _write_json(partial / MANIFEST, _manifest(partial, parts, shape, source, {"dtype": dtype, **extra}))
        (partial / _PROGRESS).unlink()
        partial.rename(target)
    except OSError as error:
        raise DataError(f"{partial} cannot be written: {error}; make room and run the command again") from error


def begun(target: Path, parts: Mapping[str, Part], source: str) -> dict[str, int] | None:
    """Return how many images of each part an interrupted `build` has decoded, None if there was none.

    Args:
        target: As given to `build`.
        parts: As given to `build`.
        source: As given to `build`.
    """
    try:
        state = read_json(target.with_name(target.name + ".partial") / _PROGRESS)
        if state["source"] == source and state["done"].keys() == parts.keys():
            return {name: int(count) for name, count in state["done"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing to continue: there was no attempt, or it was killed before its first record
    return None


def _resume(target: Path, partial: Path, parts: Mapping[str, Part], source: str) -> dict[str, int]:
    done = begun(target, parts, source)
    if done is not None:
        return done
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return dict.fromkeys(parts, 0)


def _append(
    path: Path,
    part: Part,
    shape: tuple[int, ...],
    dtype: np.dtype,
    read: Callable[[str], np.ndarray],
    done: int,
    chunk: int,
    record: Callable[[int], None],
) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (len(part.files), *shape),
    }
    with path.open("r+b" if done else "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        start = file.tell() + done * int(np.prod(shape)) * dtype.itemsize
        if os.fstat(file.fileno()).st_size < start:
            raise DataError(f"{path} is shorter than its record says; delete {path.parent} and begin again")
        file.truncate(start)
        file.seek(start)
        for first in range(done, len(part.files), chunk):
            names = part.files[first : first + chunk]
            file.write(np.stack([read(name).astype(dtype, copy=False) for name in names]).tobytes())
            file.flush()
            os.fsync(file.fileno())
            record(first + len(names))


def _manifest(
    folder: Path, parts: Mapping[str, Part], shape: tuple[int, ...], source: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    written = {
        name: {
            "shape": [len(part.files), *shape],
            "images_sha256": _sha256(folder / f"{name}_images.npy"),
            "labels_sha256": _sha256(folder / f"{name}_labels.npy"),
        }
        for name, part in parts.items()
    }
    return {"format": FORMAT, "source": source, "parts": written, **extra}


def _sha256(path: Path) -> str:
    return Checksum("sha256", "").of_file(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished folder.

    Raises:
        DataError: It is missing, not JSON, or of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or corrupt: {error}; delete {folder} and prepare it again") from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("parts"), dict)
    ):
        raise DataError(f"{path} is not of format {FORMAT}; delete {folder} and prepare it again")
    return manifest


def _verified(path: Path, digest: str, mapped: bool) -> np.ndarray:
    remedy = f"delete {path.parent} and prepare it again"
    try:
        checksum = Checksum("sha256", digest)
        checksum.require(checksum.of_file(path), path, remedy)
        array = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
    except (OSError, MemoryError, SyntaxError, tokenize.TokenError, *BROKEN) as error:
        raise DataError(f"{path} is missing or corrupt: {error}; {remedy}") from error
    if not isinstance(array, np.ndarray):  # np.load opens archives of arrays, too
        raise DataError(f"{path} is no single array; {remedy}")
    return array


def open_part(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Map a part into memory after its checksums have been checked.

    Args:
        folder: A finished folder.
        name: Name of the part.

    Returns:
        Images, uint8 [N, C, H, W] or as they were built, mapped copy-on-write, so that the file never changes;
        labels, int64 [N].

    Raises:
        DataError: A file is missing, truncated or altered.
    """
    manifest = read_manifest(folder)
    try:
        entry = manifest["parts"][name]
        shape, digests = list(entry["shape"]), (entry["images_sha256"], entry["labels_sha256"])
        dtype = manifest.get("dtype", "uint8")
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / MANIFEST} does not describe {name!r}; delete {folder} and prepare it again"
        ) from error
    images = _verified(folder / f"{name}_images.npy", digests[0], mapped=True)
    labels = _verified(folder / f"{name}_labels.npy", digests[1], mapped=False)
    fits = list(images.shape) == shape and images.dtype.name == dtype and dtype in ("uint8", "uint16")
    if not fits or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{folder / MANIFEST} does not fit {name}_images.npy; delete {folder} and prepare it again"
        )
    return images, labels
