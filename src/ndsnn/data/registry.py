"""Loading a data set by name, and what there is on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

# Importing a family registers its data sets; ndsnn.data.events registers its own.
from ndsnn.config import EventConfig
from ndsnn.data import cifar, digits, folder, idx, tiny_imagenet  # noqa: F401
from ndsnn.data.events import EventSource, Split, load_events, resolve_events
from ndsnn.data.images import (
    ImageData,
    ImageSet,
    ImageSize,
    channel_statistics,
    check_labels,
    fingerprint,
    parse_size,
    resize,
    split_rows,
)
from ndsnn.data.samples import SplitData
from ndsnn.data.source import SOURCES, DataSource, Description, Progress, Source, data_root
from ndsnn.errors import ConfigError, DataError


def load(
    name: str,
    root: str | Path | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    image_size: ImageSize | None = None,
    max_train: int | None = None,
    channels: int | None = None,
    events: EventConfig | None = None,
) -> SplitData:
    """Read the training images of a data set and hold a validation part out; leave the test set alone.

    For a data set of events the frames that `prepare` has made are mapped into memory instead.

    Args:
        name: Name in `SOURCES`.
        root: Folder of the data; None means `$NDSNN_DATA`, else `~/.cache/ndsnn/data`.
        validation_fraction: Share of the official training images held out, strictly between 0 and 1.
        split_seed: Draws that share; independent of the seed of a run.
        image_size: Side length or (H, W) in pixels to resize to, bilinearly; None keeps the data set's own.
        max_train: Keep only so many training images, for quick trials; None keeps all.
        channels: 1 or 3, for `folder` only; None lets the files decide.
        events: How recordings are framed and augmented, for data sets of events only; None takes what is usual.

    Returns:
        The parts, with class names, normalisation constants and a fingerprint: `ImageData`, or `EventData`.

    Raises:
        ConfigError: An unknown name, or a setting out of range.
        DataError: A file is missing, truncated, corrupt or mislabelled; the message names it.
        MissingDependencyError: An optional package is needed.
    """
    source = SOURCES[name]
    place = _place(source, root)
    size = parse_size(image_size) or source.default_size
    settings = resolve_events(source, events or EventConfig())
    _check_settings(source, max_train, channels)
    if isinstance(source, EventSource):
        if image_size is not None:
            raise ConfigError(
                f"data set {name!r} has events, not images; set data.events.downsample, not image_size"
            )
        return load_events(source, place, settings, Split(validation_fraction, split_seed, max_train))
    assert isinstance(source, Source)
    return _load_images(source, place, size, channels, Split(validation_fraction, split_seed, max_train))


def _load_images(
    source: Source, place: Path, size: tuple[int, int] | None, channels: int | None, split: Split
) -> ImageData:
    if source.missing(place):
        raise source.missing_error(place)
    class_names = source.class_names(place)
    whole = source.load_train(place, size, channels)
    check_labels(whole.labels, len(class_names), source.found(place))
    train_rows, validation_rows = split_rows(len(whole), split.validation_fraction, split.seed)
    train = _resized(whole.take(train_rows[: split.max_train]), size)
    validation = _resized(whole.take(validation_rows), size)
    statistics = source.statistics or channel_statistics(train.images)
    return ImageData(
        name=source.name,
        train=train,
        validation=validation,
        num_classes=len(class_names),
        class_names=class_names,
        mean=statistics.mean,
        std=statistics.std,
        fingerprint=fingerprint(train, validation, split.seed),
        load_test=partial(_load_test, source, place, train.images.shape[1:], len(class_names)),
    )


def _check_settings(source: DataSource, max_train: int | None, channels: int | None) -> None:
    if max_train is not None and max_train < 1:
        raise ConfigError(f"max_train must be 1 or more, not {max_train}; leave it out to keep all images")
    native = source.describe().channels
    if channels is not None and native is not None and channels != native:
        raise ConfigError(f"data set {source.name!r} has {native} channels, not {channels}; leave channels out")


def _resized(images: ImageSet, size: tuple[int, int] | None) -> ImageSet:
    return ImageSet(resize(images.images, size), images.labels)


def _load_test(source: Source, place: Path, shape: tuple[int, ...], num_classes: int) -> ImageSet:
    if source.missing(place):
        raise source.missing_error(place)
    channels, height, width = shape
    whole = source.load_test(place, (height, width), channels)
    test = _resized(whole, (height, width))
    if tuple(test.images.shape[1:]) != tuple(shape):
        raise DataError(
            f"the test images of {source.found(place)} are {list(test.images.shape[1:])}, "
            f"the training images {list(shape)}"
        )
    check_labels(test.labels, num_classes, source.found(place))
    return test


def _place(source: DataSource, root: str | Path | None) -> Path:
    if source.needs_root and not root:
        raise ConfigError(f"data set {source.name!r} needs its folder named: set --data.root. {source.how_to_get}")
    return data_root(root)


class Row(NamedTuple):
    """One line of `ndsnn data list`.

    Attributes:
        name: Name in `SOURCES`.
        about: Images, classes, channels and size; None where the files decide.
        state: "ready", "can be prepared" (files are there but not decoded), "can be downloaded" or "missing".
        where: The place used if it is ready, else all places looked in, in order.
        how_to_get: What to do if it is not ready.
        notes: What `prepare` found that is worth saying.
    """

    name: str
    about: Description
    state: str
    where: tuple[str, ...]
    how_to_get: str
    notes: tuple[str, ...] = ()


def overview(root: str | Path | None = None) -> list[Row]:
    """Say for every data set whether it is on this machine; looks at names only, reads no data.

    Args:
        root: Folder of the data; None means the default.

    Returns:
        One row per data set, sorted by name.
    """
    return [_row(source, data_root(root)) for _, source in sorted(SOURCES.items())]


def _row(source: DataSource, place: Path) -> Row:
    if not source.missing(place):
        return Row(source.name, source.describe(), "ready", (source.found(place),), source.how_to_get)
    if source.can_prepare(place):
        state = "can be prepared"
    else:
        state = "can be downloaded" if source.downloadable else "missing"
    return Row(source.name, source.describe(), state, source.where(place), source.how_to_get)


def prepare(
    name: str,
    root: str | Path | None = None,
    progress: Progress | None = None,
    events: EventConfig | None = None,
) -> Row:
    """Download what is missing, verify every file, and decode what is decoded once.

    A second call only verifies. An interrupted call is continued by the next one.

    Args:
        name: Name in `SOURCES`.
        root: Folder of the data; None means the default.
        progress: Called with what is being done, how much is done, and how much there is, if known.
        events: How recordings are framed, for data sets of events only; None takes what is usual.

    Returns:
        The row of `overview` for this data set afterwards.

    Raises:
        ConfigError: An unknown name, or `folder` without its root.
        DataError: A download failed, a file is missing, corrupt or mislabelled, or the disk cannot be written.
        MissingDependencyError: An optional package is needed.
    """
    source = SOURCES[name]
    place = _place(source, root)
    settings = resolve_events(source, events or EventConfig())
    notes: tuple[str, ...] = ()
    try:
        if isinstance(source, EventSource):
            notes = source.prepare(place, progress or _silent, settings)
        else:
            source.prepare(place, progress or _silent)
    except OSError as error:
        raise DataError(
            f"{name} cannot be prepared in {place}: {error}; mend this and run the command again"
        ) from error
    return _row(source, place)._replace(notes=notes)


def _silent(what: str, done: int, total: int | None) -> None:
    """Report nothing."""
