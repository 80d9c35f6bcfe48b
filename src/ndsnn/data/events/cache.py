"""Frames on the disk: made once, a bounded number in memory at a time, verified whenever they are opened."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ndsnn.atomic import write_atomically
from ndsnn.data import arrays
from ndsnn.data.events.framing import Framing, frame_events
from ndsnn.data.events.recording import Sensor, checked
from ndsnn.data.source import Progress
from ndsnn.errors import DataError

if TYPE_CHECKING:
    from ndsnn.data.events.source import Recordings

_CHUNK_BYTES = 64 << 20
_SPARE_BYTES = 64 << 20


class Content(NamedTuple):
    """What frames were made of.

    Attributes:
        identity: Hash of the content of all recordings.
        listing: Names and sizes of their files, which can be looked at again quickly.
    """

    identity: str
    listing: str


class _TooManyError(Exception):
    """A count does not fit into 8 bits."""


def frame_all(
    target: Path,
    recordings: Recordings,
    sensor: Sensor,
    framing: Framing,
    content: Content,
    progress: Progress,
) -> None:
    """Make the folder `target` of frames, unless it is there already; frames of other files are replaced.

    Counts are stored in 8 bits, or in 16 as soon as one needs them.

    Args:
        target: Folder to make.
        recordings: What to frame.
        sensor: What has recorded them.
        framing: How they are cut.
        content: Identity of the files; frames that were begun of others are thrown away.
        progress: Told the recordings framed so far and in all.

    Raises:
        DataError: A recording is bad, or the disk has no room.
    """
    if _is_made_of(target, content):
        return None
    parts, shape = recordings.parts, framing.shape(sensor)
    for name, part in parts.items():
        if not part.files:
            raise DataError(
                f"there are no {name} recordings for {target.parent.name}; put the official files there"
            )
    extra = {
        "content": content.identity,
        "listing": content.listing,
        "classes": list(recordings.class_names),
        "framing": json.loads(framing.text()),
    }

    def build(dtype: str) -> None:
        sample = math.prod(shape) * np.dtype(dtype).itemsize
        _require_room(target, sample * sum(len(part.files) for part in parts.values()))
        read = partial(_count, recordings, sensor, framing, np.iinfo(dtype).max)
        chunk = max(1, _CHUNK_BYTES // sample)
        arrays.build(target, parts, shape, read, f"{content.identity} {dtype}", extra, progress, chunk, dtype)

    if arrays.begun(target, parts, f"{content.identity} uint16") is None:
        try:
            return build("uint8")
        except _TooManyError:
            pass  # begun again, in 16 bits
    return build("uint16")


def _is_made_of(target: Path, content: Content) -> bool:
    """Say whether the frames are there and of this content; frames of another one are deleted."""
    if not target.is_dir():
        return False
    manifest = arrays.read_manifest(target)
    if manifest.get("content") != content.identity:
        shutil.rmtree(target)
        return False
    if manifest.get("listing") != content.listing:
        text = json.dumps(manifest | {"listing": content.listing}, indent=1)
        write_atomically(target / arrays.MANIFEST, text.encode())
    return True


def _count(recordings: Recordings, sensor: Sensor, framing: Framing, most: int, key: str) -> np.ndarray:
    """Read, check and frame the recording of a key; _TooManyError if a count is above `most`."""
    where = recordings.where(key)
    events = checked(recordings.read(key), sensor, where, framing.sort)
    counts = frame_events(events, sensor, framing, where)
    if counts.max() > most:
        raise _TooManyError
    return counts


def _require_room(target: Path, needed: int) -> None:
    """Check that the frames fit on the disk, counting what an interrupted attempt has written."""
    place = target
    while not place.exists():
        place = place.parent
    partial = target.with_name(target.name + ".partial")
    written = sum(path.stat().st_size for path in partial.glob("*_images.npy"))
    free = shutil.disk_usage(place).free
    if needed - written + _SPARE_BYTES > free:
        raise DataError(
            f"the frames need {needed / 1e9:.2f} GB, but {place} has {free / 1e9:.2f} GB left; make room, use a "
            "larger data.events.downsample or fewer data.events.frames"
        )


class Frames(NamedTuple):
    """A part that has been framed.

    Attributes:
        counts: uint8 or uint16 [N, T, C, H, W], mapped from the file.
        labels: int64 [N].
        digests: SHA-256 of both files.
        classes: Names of the classes.
    """

    counts: np.ndarray
    labels: np.ndarray
    digests: tuple[str, str]
    classes: tuple[str, ...]


def open_frames(target: Path, part: str) -> Frames:
    """Map a part into memory after its checksums have been checked.

    Raises:
        DataError: A file is missing, truncated or altered.
    """
    counts, labels = arrays.open_part(target, part)
    manifest = arrays.read_manifest(target)
    entry = manifest["parts"][part]
    classes = manifest.get("classes")
    if not isinstance(classes, list) or counts.ndim != 5 or not len(labels):
        classes = []
    if not classes or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"{target} holds no frames of events; delete it and prepare it again")
    return Frames(counts, labels, (entry["images_sha256"], entry["labels_sha256"]), tuple(map(str, classes)))


def require_unchanged(target: Path, listing: str, remedy: str) -> None:
    """Check that the files are still those the frames were made of, by names and sizes.

    Raises:
        DataError: They are not.
    """
    manifest: dict[str, Any] = arrays.read_manifest(target)
    if manifest.get("listing") != listing:
        raise DataError(f"the recordings have changed since {target} was made of them; {remedy}")
