"""DVS128 Gesture: hand and arm gestures of 29 subjects (Amir et al., 2017)."""

from __future__ import annotations

import csv
import io
import re
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from ndsnn.config import EventConfig
from ndsnn.data.arrays import Part
from ndsnn.data.events import trees
from ndsnn.data.events.archives import unpack_tar
from ndsnn.data.events.formats import read_aedat3
from ndsnn.data.events.recording import Events, Sensor
from ndsnn.data.events.source import EventSource, Recordings
from ndsnn.data.files import read_bounded
from ndsnn.data.source import SOURCES, Progress
from ndsnn.data.trees import FolderTree
from ndsnn.errors import DataError

_TOP = "DvsGesture"
_ARCHIVE = "DvsGesture.tar.gz"
_TRIALS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.aedat")
_MEMBER = re.compile(_TOP + r"/([A-Za-z0-9][A-Za-z0-9_-]*\.(?:aedat|csv|txt))")

_ALL_LIMIT = 16 << 30
_FILE_LIMIT = 1 << 30
_TEXT_LIMIT = 1 << 20


class Trial(NamedTuple):
    """One gesture within a recording: the file, its events start ≤ t < end in microseconds, and its class."""

    file: str
    start: int
    end: int
    label: int


class DvsGesture(EventSource):
    """1,176 and 288 gestures of about 6 s, 128×128 pixels, cut out of `user*.aedat` by `user*_labels.csv`.

    Which recordings are for training and which for testing say the official `trials_to_train.txt` (subjects 1–23)
    and `trials_to_test.txt` (24–29).
    """

    name = "dvs-gesture"
    how_to_get = (
        "Get DvsGesture.tar.gz from https://research.ibm.com/interactive/dvsgesture/ and put it, or the folder "
        "DvsGesture that it holds, into the folder dvs-gesture below the data root."
    )
    sensor = Sensor(128, 128, 2)
    usual = EventConfig(frames=16, split_by="count")
    classes = (
        "hand clapping",
        "right hand wave",
        "left hand wave",
        "right arm clockwise",
        "right arm counter clockwise",
        "left arm clockwise",
        "left arm counter clockwise",
        "arm roll",
        "air drums",
        "air guitar",
        "other gestures",
    )
    recordings = (1_176, 288)
    no_flip = "mirrored, a wave of the right hand is one of the left, and clockwise is counter clockwise"

    def files_missing(self, root: Path) -> tuple[str, ...]:
        """List the files that the folder lacks, or the archive."""
        top = self.folder(root) / _TOP
        if not top.is_dir():
            return () if (self.folder(root) / _ARCHIVE).is_file() else (_ARCHIVE,)
        absent = [name for name in _TRIALS.values() if not (top / name).is_file()]
        if absent:
            return tuple(absent)
        try:
            recorded = [name for trials in _TRIALS.values() for name in _listed(top / trials)]
        except DataError:
            return ()  # `open` says what is wrong with a list; this only says what is there
        names = [name for file in recorded for name in (file, _labels_file(file))]
        return tuple(name for name in names if not (top / name).is_file())

    def listing(self, root: Path) -> str:
        """Hash names and sizes."""
        top, archive = self.folder(root) / _TOP, self.folder(root) / _ARCHIVE
        return FolderTree(top).identity() if top.is_dir() else f"tar {archive.stat().st_size}"

    def unpack(self, root: Path, progress: Progress) -> None:
        """Unpack the archive, unless the folder is there."""
        top = self.folder(root) / _TOP
        if not top.is_dir():
            unpack_tar(self.folder(root) / _ARCHIVE, top, _MEMBER, _ALL_LIMIT, progress)
            if absent := self.files_missing(root):
                raise DataError(f"{self.folder(root) / _ARCHIVE} is not complete: it has no {', '.join(absent)}")

    def open(self, root: Path, settings: EventConfig) -> Recordings:
        """List the gestures in the order of the official lists."""
        top = self.folder(root) / _TOP
        parts: dict[str, Part] = {}
        trials: dict[str, Trial] = {}
        names = set(_TRIALS.values())
        for part, listed in _TRIALS.items():
            found = [
                trial for file in _listed(top / listed) for trial in read_trials(top / _labels_file(file), file)
            ]
            keys = [f"{trial.file} {trial.start} {trial.end} {trial.label}" for trial in found]
            if len(set(keys)) < len(keys):
                raise DataError(f"{top / listed} names a recording twice, or a label file a gesture")
            parts[part] = Part(keys, [trial.label for trial in found])
            trials |= dict(zip(keys, found, strict=True))
            names |= {name for trial in found for name in (trial.file, _labels_file(trial.file))}

        # The gestures of a file stand in a row, so one file in memory is enough.
        @lru_cache(maxsize=1)
        def whole(file: str) -> Events:
            return read_aedat3(read_bounded(top / file, _FILE_LIMIT), top / file)

        def read(key: str) -> Events:
            trial = trials[key]
            events = whole(trial.file)
            inside = (events.t >= trial.start) & (events.t < trial.end)
            return Events(*(column[inside] for column in events))

        def where(key: str) -> str:
            trial = trials[key]
            return f"{top / trial.file} from {trial.start} to {trial.end} µs"

        return Recordings(parts, self.classes, read, where, partial(trees.files_hash, top, sorted(names)))


def read_trials(path: Path, file: str) -> list[Trial]:
    """Read a label file: a line of headings, then class (1–11), start and end of each gesture.

    Args:
        path: The label file.
        file: Name of the recording it belongs to.

    Raises:
        DataError: The file is no such table, or a class or time is wrong.
    """
    try:
        lines = list(csv.reader(io.StringIO(_text(path))))
    except csv.Error as error:
        raise DataError(f"{path} is no table of commas and lines: {error}") from error
    trials = []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        try:
            label, start, end = (int(cell) for cell in line)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {','.join(line)!r} is not class,start,end in integers"
            ) from error
        if not 1 <= label <= len(DvsGesture.classes) or not 0 <= start < end:
            raise DataError(
                f"{path}, line {number}, is mislabelled: class {label} must be 1 to {len(DvsGesture.classes)}, "
                f"and start {start} before end {end}"
            )
        trials.append(Trial(file, start, end, label - 1))
    if not trials:
        raise DataError(f"{path} labels no gesture")
    return trials


def _listed(path: Path) -> list[str]:
    names = [line.strip() for line in _text(path).splitlines() if line.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(f"{path} lists {name!r}, which is no name of a recording (NAME.aedat)")
    return names


def _labels_file(file: str) -> str:
    return f"{file.removesuffix('.aedat')}_labels.csv"


def _text(path: Path) -> str:
    try:
        return read_bounded(path, _TEXT_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is corrupt: it is no text") from error


SOURCES.register("dvs-gesture")(DvsGesture())
