"""From framed recordings to a data set that is split: by name, or of any tonic-style data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ndsnn.config import EventConfig
from ndsnn.data.arrays import Part
from ndsnn.data.events import cache
from ndsnn.data.events.augment import augmentation_of
from ndsnn.data.events.frames import EventData, EventSet, fingerprint
from ndsnn.data.events.framing import framing_of
from ndsnn.data.events.recording import ORDER, Events, Sensor, as_events
from ndsnn.data.events.source import PLAIN, EventSource, Recordings, filled, resolve_events
from ndsnn.data.images import split_rows
from ndsnn.data.source import Progress
from ndsnn.errors import ConfigError, DataError

_LOOKED_AT = 16


class Split(NamedTuple):
    """What is held out of the training recordings.

    Attributes:
        validation_fraction: Share held out, strictly between 0 and 1.
        seed: Draws that share.
        max_train: Keep only so many training recordings; None keeps all.
    """

    validation_fraction: float = 0.1
    seed: int = 0
    max_train: int | None = None


def load_events(source: EventSource, root: Path, settings: EventConfig, split: Split) -> EventData:
    """Map the frames of a built-in data set that `prepare` has made, and hold a validation part out.

    Args:
        source: The data set.
        root: Folder of the data.
        settings: What the user asks for.
        split: What is held out.

    Raises:
        ConfigError: A setting is out of range or not valid for this data set.
        DataError: The frames have not been made or are broken, or the recordings have changed since.
    """
    settings = resolve_events(source, settings)
    target = source.target(root, settings)
    if not target.is_dir():
        raise source.not_framed_error(root, settings)
    if not source.files_missing(root):
        remedy = f"run `ndsnn data prepare {source.name}` again with the settings of these frames"
        cache.require_unchanged(target, source.listing(root), remedy)
    return _split_frames(target, source.name, settings, split)


def from_recordings(
    train: Sequence[Any],
    test: Sequence[Any],
    folder: str | Path,
    settings: EventConfig,
    *,
    sensor: tuple[int, int, int] | None = None,
    class_names: Sequence[str] | None = None,
    order: str = ORDER,
    name: str = "recordings",
    split: Split | None = None,
    progress: Progress | None = None,
) -> EventData:
    """Frame any two tonic-style data sets, or take the frames made before, and hold a validation part out.

    A recording is seen as changed if the number of recordings, a label, or one of 16 recordings spread over each
    part has; to frame anew for another reason, name another folder.

    Args:
        train: Training recordings, (events, label) by index: tonic data sets, or lists; events are structured
            arrays with fields x, t and where there are any y and p, or plain ones [E, 4].
        test: Test recordings.
        folder: Where the frames are kept; each framing has a folder below it.
        settings: How to frame, at least `frames`, and how to augment.
        sensor: Width, height and polarities; None takes `train.sensor_size`, as tonic data sets have it.
        class_names: One per class; None numbers them.
        order: Columns of plain arrays.
        name: Of the data set.
        split: What is held out; None holds out a tenth by seed 0.
        progress: Told the recordings framed so far and in all.

    Raises:
        ConfigError: A setting is out of range, or the sensor is not known.
        DataError: A recording is no event array, off the sensor or out of order, or a label is no class.
    """
    settings = filled(settings, PLAIN)
    framing = framing_of(settings)
    size = Sensor(*(sensor or _sensor_of(train)))
    sets = {"train": train, "test": test}
    labels = {part: _labels_of(samples) for part, samples in sets.items()}
    largest = max(max(numbers, default=0) for numbers in labels.values())
    classes = tuple(class_names) if class_names is not None else tuple(map(str, range(largest + 1)))
    for part, numbers in labels.items():
        for index, label in enumerate(numbers):
            if not 0 <= label < len(classes):
                raise DataError(f"{part} recording {index} has label {label}, outside 0 … {len(classes) - 1}")

    def read(key: str) -> Events:
        part, _, index = key.partition(" ")
        return _one_polarity(as_events(sets[part][int(index)][0], order), size)

    parts = {part: Part([f"{part} {i}" for i in range(len(numbers))], numbers) for part, numbers in labels.items()}
    identity = _identity(parts, read)
    recordings = Recordings(parts, classes, read, lambda key: f"{name} {key}", lambda progress: identity)
    digest = hashlib.sha256(f"{framing.text()} {size} {order}".encode()).hexdigest()[:12]
    target = Path(folder) / f"T{framing.frames}-{framing.split_by}-{digest}"
    cache.frame_all(target, recordings, size, framing, cache.Content(identity, identity), progress or _silent)
    return _split_frames(target, name, settings, split or Split())


def _split_frames(target: Path, name: str, settings: EventConfig, split: Split) -> EventData:
    found = cache.open_frames(target, "train")
    train_rows, validation_rows = (
        rows.numpy() for rows in split_rows(len(found.labels), split.validation_fraction, split.seed)
    )
    labels = torch.from_numpy(found.labels)
    whole = EventSet(found.counts, np.arange(len(labels)), labels)
    train, validation = whole.take(train_rows[: split.max_train]), whole.take(validation_rows)
    channels = found.counts.shape[2]
    return EventData(
        name=name,
        train=train,
        validation=validation,
        num_classes=len(found.classes),
        class_names=found.classes,
        mean=(0.0,) * channels,
        std=(1 / 255,) * channels,
        fingerprint=fingerprint(found.digests, train, validation, split.seed),
        load_test=partial(_open_test, target),
        framing=framing_of(settings),
        augment=augmentation_of(settings),
    )


def _open_test(target: Path) -> EventSet:
    found = cache.open_frames(target, "test")
    return EventSet(found.counts, np.arange(len(found.labels)), torch.from_numpy(found.labels))


def _sensor_of(samples: Sequence[Any]) -> tuple[int, int, int]:
    size = getattr(samples, "sensor_size", None)
    if size is None or len(size) != len(Sensor._fields):
        raise ConfigError(
            f"{type(samples).__name__} has no sensor_size (width, height, polarities); give it by sensor=(…)"
        )
    return tuple(size)


def _one_polarity(events: Events, sensor: Sensor) -> Events:
    """Call the polarity of a sensor that has but one 0, whatever the recording calls it (tonic's SHD: 1)."""
    if sensor.polarities == 1 and len(events.p) and (events.p == events.p[0]).all():
        return events._replace(p=np.zeros_like(events.p))
    return events


def _labels_of(samples: Sequence[Any]) -> list[int]:
    """Return all labels: `targets` where nothing changes them on the way, else by reading every recording."""
    targets = getattr(samples, "targets", None)
    changed = getattr(samples, "target_transform", None) or getattr(samples, "transforms", None)
    if targets is None or changed or len(targets) != len(samples):
        targets = [samples[index][1] for index in range(len(samples))]
    try:
        return [int(label) for label in targets]
    except (TypeError, ValueError) as error:
        raise DataError(f"the labels of {type(samples).__name__} are no class indices: {error}") from error


def _identity(parts: dict[str, Part], read: Any) -> str:
    digest = hashlib.sha256(b"ndsnn recordings 1")
    for name, part in parts.items():
        digest.update(f"{name} {list(part.labels)}".encode())
        spread = sorted({round(i) for i in np.linspace(0, len(part.files) - 1, _LOOKED_AT)}) if part.files else []
        for index in spread:
            for column in read(part.files[index]):
                digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _silent(what: str, done: int, total: int | None) -> None:
    """Report nothing."""
