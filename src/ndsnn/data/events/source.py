"""What a data set of recordings has to offer: its files, its sensor, and what is usual for its frames."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

from ndsnn.config import EventConfig
from ndsnn.data.arrays import Part
from ndsnn.data.events import cache
from ndsnn.data.events.augment import augmentation_of
from ndsnn.data.events.framing import framing_of
from ndsnn.data.events.recording import Events, Sensor
from ndsnn.data.source import DataSource, Description, Progress
from ndsnn.errors import ConfigError, DataError, NdsnnError

PLAIN = EventConfig(
    split_by="count",
    per_frame=0,
    start="first",
    remainder="keep",
    downsample=1,
    max_count=0,
    sort=False,
    flip=False,
    roll=0,
    shift=0,
    drop=0.0,
    cutout=0,
)
"""What a setting is that neither the user nor a data set names."""

RANDOM = "random"
"""Begins the name of a division that is drawn by test_seed."""


@dataclass(frozen=True)
class Recordings:
    """The recordings of a data set, opened.

    Attributes:
        parts: Keys and labels of the "train" and the "test" recordings.
        class_names: One per class.
        read: Reads the recording of a key, unchecked.
        where: Says where a recording is, for messages.
        identity: Hashes the content of all files.
    """

    parts: dict[str, Part]
    class_names: tuple[str, ...]
    read: Callable[[str], Events]
    where: Callable[[str], str]
    identity: Callable[[Progress], str]


class EventSource(DataSource):
    """One data set of recordings.

    Attributes:
        sensor: What has recorded it.
        usual: Settings that are usual in the literature; what it leaves open is as in `PLAIN`.
        classes: Names of the classes in the order of the labels.
        recordings: Official numbers of training and test recordings, None where there is no official division.
        splits: Names of the divisions into training and test recordings, where there is no official one.
        no_flip: Why a mirrored recording is not one of its class; None where it is.
    """

    sensor: ClassVar[Sensor]
    usual: ClassVar[EventConfig]
    classes: ClassVar[tuple[str, ...]]
    recordings: ClassVar[tuple[int, int]]
    splits: ClassVar[tuple[str, ...]] = ()
    no_flip: ClassVar[str | None] = None

    @abstractmethod
    def files_missing(self, root: Path) -> tuple[str, ...]:
        """List which of the official files are not there; looks at names only."""

    @abstractmethod
    def listing(self, root: Path) -> str:
        """Identify the official files by names and sizes, to notice cheaply that they have changed."""

    @abstractmethod
    def open(self, root: Path, settings: EventConfig) -> Recordings:
        """List the recordings; `settings` are resolved.

        Raises:
            DataError: A file is missing, corrupt or mislabelled.
        """

    def unpack(self, root: Path, progress: Progress) -> None:
        """Unpack archives that cannot be read in place; most can."""

    def describe(self) -> Description:
        """Say how many recordings, classes, polarities and pixels the data set has."""
        width, height, polarities = self.sensor
        return Description(*self.recordings, len(self.classes), polarities, (height, width))

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Name the classes in the order of the labels."""
        return self.classes

    def folder(self, root: Path) -> Path:
        """Return the folder of the official files."""
        return root / self.name

    def where(self, root: Path) -> tuple[str, ...]:
        """List the folder of the frames, then that of the official files."""
        return str(self._frames(root)), str(self.folder(root))

    def missing(self, root: Path) -> tuple[str, ...]:
        """Return nothing if frames are there, else what there is to be done or to be got."""
        if any(self._frames(root).glob("T*/manifest.json")):
            return ()
        return self.files_missing(root) or ("frames made of the recordings",)

    def can_prepare(self, root: Path) -> bool:
        """Say whether the official files are there and only have to be framed."""
        return not self.files_missing(root)

    def prepare(self, root: Path, progress: Progress, settings: EventConfig | None = None) -> tuple[str, ...]:
        """Check the official files and frame them; a second call only verifies, an interrupted one is continued.

        Args:
            root: Folder of the data.
            progress: Told what is being done.
            settings: How to frame; what is left open is what is usual for this data set.

        Returns:
            A sentence on what there is now, and one if it is not as many recordings as there are officially.

        Raises:
            ConfigError: A setting is out of range or not valid for this data set.
            DataError: A file is missing, truncated, corrupt or mislabelled.
            MissingDependencyError: An optional package is needed.
        """
        settings = resolve_events(self, settings or EventConfig())
        target = self.target(root, settings)
        if not self.files_missing(root):
            self.unpack(root, progress)
            found = self.open(root, settings)
            content = cache.Content(found.identity(progress), self.listing(root))
            cache.frame_all(target, found, self.sensor, framing_of(settings), content, progress)
        elif not target.is_dir():
            raise self._files_error(root)
        found_numbers = tuple(len(cache.open_frames(target, part).labels) for part in ("train", "test"))
        notes = [
            "{:,} training and {:,} test recordings in {}".format(*found_numbers, framing_of(settings).describe())
        ]
        if found_numbers != self.recordings:
            notes.append("officially there are {:,} and {:,}".format(*self.recordings))
        return tuple(notes)

    def target(self, root: Path, settings: EventConfig) -> Path:
        """Return the folder of the frames that resolved settings ask for."""
        framing = framing_of(settings)
        text = json.dumps([framing.text(), settings.split, settings.test_seed])
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self._frames(root) / f"T{framing.frames}-{framing.split_by}-{key}"

    def not_framed_error(self, root: Path, settings: EventConfig) -> NdsnnError:
        """Build the error for frames that have not been made with resolved settings, with the command."""
        if self.files_missing(root):
            return self._files_error(root)
        chosen = resolve_events(self, EventConfig())
        names = [item.name for item in fields(EventConfig) if item.name not in augmentation_of(settings).__dict__]
        different = [name for name in names if getattr(settings, name) != getattr(chosen, name)]
        options = "".join(f" --data.events.{name} {_word(getattr(settings, name))}" for name in different)
        return DataError(
            f"the recordings of {self.name!r} in {self.folder(root)} have not been made into "
            f"{framing_of(settings).describe()}; run `ndsnn data prepare {self.name} --root {root}{options}`"
        )

    def _files_error(self, root: Path) -> NdsnnError:
        absent = self.files_missing(root)
        return DataError(
            f"data set {self.name!r} is not complete: {', '.join(absent)} not found in {self.folder(root)}. "
            f"{self.how_to_get}"
        )

    def missing_error(self, root: Path) -> NdsnnError:
        """Build the error for missing files, or for frames that have not been made."""
        return self.not_framed_error(root, resolve_events(self, EventConfig()))

    def _frames(self, root: Path) -> Path:
        return root / f"{self.name}-frames"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolve_events(source: DataSource, settings: EventConfig) -> EventConfig:
    """Fill what settings leave open with what is usual for a data set, and check all of them.

    Args:
        source: The data set; for one of images all settings have to be left open.
        settings: What the user asks for.

    Returns:
        Settings with nothing left open that the data set has.

    Raises:
        ConfigError: A setting is out of range, or the data set does not have it.
    """
    if not isinstance(source, EventSource):
        for item in fields(settings):
            if getattr(settings, item.name) is not None:
                raise ConfigError(
                    f"data.events.{item.name} is for event data, but {source.name!r} has images; leave it out"
                )
        return settings
    usual = source.usual
    if settings.split_by not in (None, usual.split_by) or settings.per_frame == 0:
        # Microseconds mean nothing to frames of events, nor a start to frames that divide a whole recording.
        usual = replace(usual, per_frame=None, start=None)
    if settings.shift:
        usual = replace(usual, roll=None)
    if settings.roll:
        usual = replace(usual, shift=None)
    resolved = filled(filled(settings, usual), PLAIN)
    if source.splits and resolved.test_seed is None and str(resolved.split).startswith(RANDOM):
        resolved = replace(resolved, test_seed=0)
    framing_of(resolved)
    augmentation_of(resolved)
    if resolved.flip and source.no_flip:
        raise ConfigError(f"data.events.flip is not valid for {source.name!r}: {source.no_flip}; leave it out")
    _check_split(source, resolved)
    return resolved


def filled(settings: EventConfig, by: EventConfig) -> EventConfig:
    """Return `settings` with what they leave open taken from `by`."""
    left_open = {
        item.name: getattr(by, item.name) for item in fields(settings) if getattr(settings, item.name) is None
    }
    return replace(settings, **left_open)


def _check_split(source: EventSource, settings: EventConfig) -> None:
    if not source.splits:
        for name in ("split", "test_seed"):
            if getattr(settings, name) is not None:
                raise ConfigError(
                    f"data.events.{name} is for data sets without official test recordings, "
                    f"but {source.name!r} has them; leave it out"
                )
        return
    if settings.split not in source.splits:
        raise ConfigError(
            f"data.events.split of {source.name!r} must be one of {', '.join(source.splits)}, "
            f"not {settings.split!r}"
        )
    if settings.test_seed is not None and (not str(settings.split).startswith(RANDOM) or settings.test_seed < 0):
        raise ConfigError(
            f"data.events.test_seed is {settings.test_seed}; it must be 0 or more, and it is a setting of split "
            f"{source.splits[-1]!r} only, not of {settings.split!r}"
        )
