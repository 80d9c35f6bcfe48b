"""A user's own images: `train/<class>/*.png` and `test/<class>/*.png` below one folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ndsnn.data.decode import Header, decode, read_header
from ndsnn.data.files import read_bounded
from ndsnn.data.images import ImageSet
from ndsnn.data.source import SOURCES, Description, Progress, Source
from ndsnn.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm")
"""Names of image files, in any case; hidden files are skipped, anything else is an error."""

_FILE_LIMIT = 256 << 20


class _Labelled(NamedTuple):
    path: Path
    label: int


class Folder(Source):
    """Images sorted into one folder per class; the classes are those of `train`, sorted by name."""

    name = "folder"
    how_to_get = (
        "Put images at train/CLASS/*.png and test/CLASS/*.png (or .jpg, .bmp, .webp, .ppm) below one folder "
        "and name it by --data.root."
    )
    needs_root = True

    def describe(self) -> Description:
        """Say that the files decide everything."""
        return Description(None, None, None, None, None)

    def where(self, root: Path) -> tuple[str, ...]:
        """List the two folders that are needed."""
        return str(root / "train"), str(root / "test")

    def missing(self, root: Path) -> tuple[str, ...]:
        """List which of the two folders are not there."""
        return tuple(f"{part}/" for part in ("train", "test") if not (root / part).is_dir())

    def found(self, root: Path) -> str:
        """Name the folder above the two."""
        return str(root)

    def prepare(self, root: Path, progress: Progress) -> None:
        """Read the header of every file.

        Raises:
            DataError: A folder is missing, or a file is no image or mislabelled.
            MissingDependencyError: Pillow is not installed.
        """
        if self.missing(root):
            raise self.missing_error(root)
        entries = _listing(root, "train") + _listing(root, "test")
        for done, entry in enumerate(entries):
            progress("verify", done, len(entries))
            read_header(read_bounded(entry.path, _FILE_LIMIT), entry.path)
        progress("verify", len(entries), len(entries))

    def load_train(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Decode the training images; grey only if all of them are grey, unless `channels` says otherwise."""
        return _load(root, "train", size, channels)

    def load_test(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Decode the test images."""
        return _load(root, "test", size, channels)

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Name the folders below `train`, sorted."""
        return _classes(root)


def _classes(root: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in _visible(root / "train") if entry.is_dir())
    if not names:
        raise DataError(f"{root / 'train'} has no folders; make one for each class and put its images there")
    return tuple(names)


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error


def _listing(root: Path, part: str) -> list[_Labelled]:
    label_of = {name: label for label, name in enumerate(_classes(root))}
    entries = []
    for folder in _visible(root / part):
        if not folder.is_dir():
            raise DataError(
                f"{folder} is not labelled: move it into the folder of its class, {root / part}/CLASS/"
            )
        if folder.name not in label_of:
            raise DataError(f"{folder} is mislabelled: there is no class {folder.name!r} in {root / 'train'}")
        images = _visible(folder)
        if not images:
            raise DataError(f"{folder} is empty; add images of this class or remove the folder")
        for path in images:
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                raise DataError(f"{path} is no image ({', '.join(SUFFIXES)}); remove it")
            entries.append(_Labelled(path, label_of[folder.name]))
    if not entries:
        raise DataError(f"{root / part} has no images; put them at {root / part}/CLASS/")
    return entries


def _load(root: Path, part: str, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
    if channels not in (None, 1, 3):
        raise ConfigError(f"channels must be 1 (grey) or 3 (RGB), not {channels}")
    entries = _listing(root, part)
    headers = [read_header(read_bounded(entry.path, _FILE_LIMIT), entry.path) for entry in entries]
    height, width = size or _common_size(entries, headers)
    depth = channels or max(header.channels for header in headers)
    images = np.empty((len(entries), depth, height, width), np.uint8)
    for row, entry in enumerate(entries):
        images[row] = decode(read_bounded(entry.path, _FILE_LIMIT), entry.path, depth, (height, width))
    labels = torch.tensor([entry.label for entry in entries], dtype=torch.int64)
    return ImageSet(torch.from_numpy(images), labels)


def _common_size(entries: list[_Labelled], headers: list[Header]) -> tuple[int, int]:
    first = headers[0].size
    for entry, header in zip(entries, headers, strict=True):
        if header.size != first:
            raise DataError(
                f"{entry.path} has {header.size[0]}×{header.size[1]} pixels, but {entries[0].path} has "
                f"{first[0]}×{first[1]}; set image_size to resize all of them"
            )
    return first


SOURCES.register("folder")(Folder())
