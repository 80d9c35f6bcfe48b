"""Spiking Heidelberg Digits: spoken digits through a model of the inner ear (Cramer et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ndsnn.config import EventConfig
from ndsnn.data.arrays import Part
from ndsnn.data.events import trees
from ndsnn.data.events.archives import unpack_zip_member
from ndsnn.data.events.recording import Events, Sensor
from ndsnn.data.events.source import EventSource, Recordings
from ndsnn.data.source import SOURCES, Progress
from ndsnn.errors import DataError, MissingDependencyError

_FILES = {"train": "shd_train.h5", "test": "shd_test.h5"}
_FILE_LIMIT = 4 << 30
_TICKS = 1e6
_MOST_SPIKES = 1_000_000
_MOST_RECORDINGS = 1_000_000
_FILTERS = {1, 2, 3, 32000}
"""Numbers that HDF5 gives to deflate, shuffle, the Fletcher sum and lzf; others would load a plugin."""


class Shd(EventSource):
    """8,156 and 2,264 spoken digits in English and German, 700 units, one polarity, up to 1.4 s.

    `shd_train.h5` and `shd_test.h5` hold spikes/times in seconds, spikes/units and labels. The frames are
    [T, N, 1, 1, 700]: a row of 700 places.
    """

    name = "shd"
    how_to_get = (
        "Get shd_train.h5.zip and shd_test.h5.zip from https://zenkelab.org/resources/"
        "spiking-heidelberg-datasets-shd/ and put them, or the .h5 files that they hold, into the folder shd "
        "below the data root."
    )
    sensor = Sensor(700, 1, 1)
    usual = EventConfig(frames=100, split_by="time", per_frame=14_000, start="zero")
    classes = (
        *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        *("null", "eins", "zwei", "drei", "vier", "fuenf", "sechs", "sieben", "acht", "neun"),
    )
    recordings = (8_156, 2_264)
    no_flip = "mirrored, high tones are low ones"

    def files_missing(self, root: Path) -> tuple[str, ...]:
        """List which of the two files are there neither as they are nor zipped."""
        folder = self.folder(root)
        return tuple(
            name
            for name in _FILES.values()
            if not (folder / name).is_file() and not (folder / f"{name}.zip").is_file()
        )

    def listing(self, root: Path) -> str:
        """List the sizes."""
        folder = self.folder(root)
        paths = [
            next(p for p in (folder / name, folder / f"{name}.zip") if p.is_file()) for name in _FILES.values()
        ]
        return " ".join(f"{path.name} {path.stat().st_size}" for path in paths)

    def unpack(self, root: Path, progress: Progress) -> None:
        """Unpack the archives of files that are not there."""
        folder = self.folder(root)
        for done, name in enumerate(_FILES.values()):
            if not (folder / name).is_file():
                progress(f"unpack {name}.zip", done, len(_FILES))
                unpack_zip_member(folder / f"{name}.zip", name, folder / name, _FILE_LIMIT)

    def open(self, root: Path, settings: EventConfig) -> Recordings:
        """List the recordings in the order of the files."""
        folder = self.folder(root)
        parts = {}
        for part, name in _FILES.items():
            labels = _labels(folder / name, len(self.classes))
            parts[part] = Part([f"{part} {index}" for index in range(len(labels))], labels)

        def read(key: str) -> Events:
            part, _, index = key.partition(" ")
            return read_spikes(folder / _FILES[part], int(index))

        def where(key: str) -> str:
            part, _, index = key.partition(" ")
            return f"{folder / _FILES[part]}, recording {index},"

        identity = partial(trees.files_hash, folder, list(_FILES.values()))
        return Recordings(parts, self.classes, read, where, identity)


def read_spikes(path: Path, index: int) -> Events:
    """Read a recording: seconds become whole microseconds (cut, not rounded), units become x.

    The format promises no order, so spikes are brought into the order of time.

    Args:
        path: The HDF5 file.
        index: Number of the recording.

    Raises:
        DataError: The file is no such file, or the recording is broken.
        MissingDependencyError: h5py is not installed.
    """
    with _opened(path) as file:
        times, units = (np.asarray(_data(file, f"spikes/{name}", path)[index]) for name in ("times", "units"))
    if times.ndim != 1 or times.shape != units.shape or times.dtype.kind != "f" or units.dtype.kind not in "iu":
        raise DataError(
            f"{path}, recording {index}, is corrupt: times {times.dtype} {list(times.shape)}, "
            f"units {units.dtype} {list(units.shape)}"
        )
    if len(times) > _MOST_SPIKES or not np.isfinite(times).all() or (len(times) and times.min() < 0):
        raise DataError(f"{path}, recording {index}, is corrupt: its times are not finite, below 0 or too many")
    ticks = (times.astype(np.float64) * _TICKS).astype(np.int64)
    order = np.argsort(ticks, kind="stable")
    none = np.zeros(len(ticks), np.int64)
    return Events(units.astype(np.int64)[order], none, ticks[order], none)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; whatever goes wrong in it is a DataError."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("data set 'shd' needs h5py; run: pip install 'ndsnn[events]'") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError, MemoryError) as error:
        raise DataError(f"{path} is corrupt, truncated or no file of this data set: {error}") from error


def _data(file: Any, name: str, path: Path) -> Any:
    """Return an array that lies in the file itself: a link or external data could read any other file."""
    import h5py

    place = file
    for part in name.split("/"):
        if not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise DataError(f"{path} is refused: {name} is missing or a link")
        place = place[part]
    if not isinstance(place, h5py.Dataset) or place.external or place.is_virtual or place.ndim != 1:
        raise DataError(f"{path} is refused: {name} is no plain list in this file")
    # Few bytes can claim a huge list, or entries that are huge arrays; what fills them would be made in memory.
    each = h5py.check_vlen_dtype(place.dtype) or place.dtype
    if not isinstance(each, np.dtype) or each.kind not in "iuf" or len(place) > _MOST_RECORDINGS:
        raise DataError(f"{path} is refused: {name} claims {len(place)} entries of {place.dtype}")
    made = place.id.get_create_plist()
    if any(made.get_filter(number)[0] not in _FILTERS for number in range(made.get_nfilters())):
        raise DataError(f"{path} is refused: {name} is compressed by another filter than gzip or lzf")
    return place


def _labels(path: Path, classes: int) -> list[int]:
    with _opened(path) as file:
        labels = np.asarray(_data(file, "labels", path)[:])
        counts = {len(_data(file, f"spikes/{name}", path)) for name in ("times", "units")}
    if labels.dtype.kind not in "iu" or counts != {len(labels)}:
        raise DataError(
            f"{path} is mislabelled: {len(labels)} labels {labels.dtype} for {sorted(counts)} recordings"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"{path} is mislabelled: labels run from 0 to {classes - 1}")
    return [int(label) for label in labels]


SOURCES.register("shd")(Shd())
