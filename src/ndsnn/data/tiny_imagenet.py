"""Tiny-ImageNet: 200 classes of 64×64, from the official zip or its folder, decoded once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ndsnn.data import arrays, files
from ndsnn.data.decode import decode, require_pillow
from ndsnn.data.images import ImageSet, Statistics, check_labels
from ndsnn.data.source import SOURCES, Description, Progress, Source
from ndsnn.data.trees import FolderTree, Tree, ZipTree
from ndsnn.errors import DataError

_SIDE = 64
_IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SHAPE = (3, _SIDE, _SIDE)
_ARCHIVE_LIMIT = 400 << 20
_ANNOTATIONS = "val/val_annotations.txt"


@dataclass(frozen=True)
class TinyImageNet(Source):
    """100,000 training images; the official "val" folder is the test set, since the labels of "test" are secret.

    Attributes:
        name: Name in `SOURCES` and of the folder of decoded images.
        classes: Number of classes.
        per_class: Training images of a class.
        test_count: Images of the official "val" folder.
        archive_md5: MD5 of the official zip.
        url: Address of the official zip.
        statistics: Those of ImageNet.
    """

    name: str = "tiny-imagenet"
    classes: int = 200
    per_class: int = 500
    test_count: int = 10000
    archive_md5: str = "90528d7ca1a48142e341f4ef8d21d0de"
    url: str = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    statistics: Statistics | None = _IMAGENET

    how_to_get = (
        "It downloads 237 MB and decodes them once to 1.4 GB; "
        "or put the official zip or its unpacked folder into one of these places."
    )
    downloadable = True

    def describe(self) -> Description:
        """Say how many images, classes, channels and pixels the data set has."""
        return Description(self.classes * self.per_class, self.test_count, self.classes, 3, (_SIDE, _SIDE))

    def where(self, root: Path) -> tuple[str, ...]:
        """List the folder of decoded images, then the official zip, then the official folder."""
        return tuple(str(root / name) for name in (self.name, self._zip_name, self._top))

    def missing(self, root: Path) -> tuple[str, ...]:
        """List the decoded images if they are not there."""
        return () if (root / self.name / arrays.MANIFEST).is_file() else (f"{self.name}/{arrays.MANIFEST}",)

    def can_prepare(self, root: Path) -> bool:
        """Say whether the zip or the official folder is there."""
        return (root / self._zip_name).is_file() or (root / self._top).is_dir()

    def prepare(self, root: Path, progress: Progress) -> None:
        """Download the zip if neither it nor the folder is there, and decode it; continue where a kill stopped it.

        Raises:
            DataError: The download failed, or a file is missing, corrupt or mislabelled.
            MissingDependencyError: Pillow is not installed.
        """
        if not self.missing(root):
            for done, part in enumerate(("train", "test")):
                progress("verify", done, 2)
                arrays.open_part(root / self.name, part)
            progress("verify", 2, 2)
            return
        require_pillow(self.name)
        if (root / self.name).exists():
            raise DataError(f"{root / self.name} exists but has no {arrays.MANIFEST}; move it away and try again")
        tree = self._tree(root, progress)
        wnids = self._wnids(tree)
        parts = {"train": self._train(tree, wnids), "test": self._val(tree, wnids)}
        extra = {"wnids": wnids, "class_names": self._words(tree, wnids)}
        arrays.build(
            root / self.name, parts, _SHAPE, lambda name: _decode(tree, name), tree.identity(), extra, progress
        )

    def load_train(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Map the training images into memory, in the order of the classes and file names."""
        return self._part(root, "train")

    def load_test(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Map the test images (official "val") into memory."""
        return self._part(root, "test")

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Give the words of words.txt, or the WordNet number where it has none."""
        names = arrays.read_manifest(root / self.name).get("class_names")
        if not isinstance(names, list) or len(names) != self.classes:
            raise DataError(f"{root / self.name / arrays.MANIFEST} does not list {self.classes} class names")
        return tuple(map(str, names))

    @property
    def _zip_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def _top(self) -> str:
        return self._zip_name.removesuffix(".zip")

    def _tree(self, root: Path, progress: Progress) -> Tree:
        archive, folder = root / self._zip_name, root / self._top
        checksum = files.Checksum("md5", self.archive_md5)
        if not self.can_prepare(root):
            files.download(self.url, archive, checksum, _ARCHIVE_LIMIT, progress)
        if archive.is_file():
            return ZipTree(archive, self._top, checksum, files.replace_remedy(self.name))
        return FolderTree(folder)

    def _wnids(self, tree: Tree) -> list[str]:
        wnids = sorted(_text(tree, "wnids.txt").split())
        if len(set(wnids)) != self.classes or len(wnids) != self.classes:
            raise DataError(
                f"{tree.locate('wnids.txt')} names {len(wnids)} classes, expected {self.classes} different"
            )
        return wnids

    def _train(self, tree: Tree, wnids: list[str]) -> arrays.Part:
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        names = [name for name in tree.names() if name.startswith("train/") and not name.endswith("_boxes.txt")]
        labels = []
        for name in names:
            folders, _, leaf = name.rpartition("/")
            wnid = folders.split("/")[1] if folders.count("/") else ""
            if wnid not in label_of:
                raise DataError(f"{tree.locate(name)} is mislabelled: {wnid!r} is not a class of wnids.txt")
            if not leaf.startswith(f"{wnid}_"):
                raise DataError(f"{tree.locate(name)} is mislabelled: its name does not begin with {wnid}_")
            labels.append(label_of[wnid])
        counts = Counter(labels)
        for label, wnid in enumerate(wnids):
            if counts[label] != self.per_class:
                where = tree.locate(f"train/{wnid}")
                raise DataError(f"{where} has {counts[label]} images, expected {self.per_class}; unpack it again")
        return arrays.Part(names, labels)

    def _val(self, tree: Tree, wnids: list[str]) -> arrays.Part:
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        where = tree.locate(_ANNOTATIONS)
        labels: dict[str, int] = {}
        for number, line in enumerate(_text(tree, _ANNOTATIONS).splitlines(), start=1):
            fields = line.split("\t")
            if len(fields) < 2 or fields[1] not in label_of:
                wrong = repr(fields[1]) if len(fields) > 1 else "none"
                raise DataError(f"{where} line {number} is mislabelled: its class, {wrong}, is not in wnids.txt")
            name = f"val/images/{fields[0]}"
            if name in labels:
                raise DataError(f"{where} line {number} labels {fields[0]} a second time")
            labels[name] = label_of[fields[1]]
        images = {name for name in tree.names() if name.startswith("val/images/")}
        for name in sorted(images - labels.keys()):
            raise DataError(f"{where} has no line for {name}")
        for name in sorted(labels.keys() - images):
            raise DataError(f"{tree.locate(name)} is missing, though {_ANNOTATIONS} has a line for it")
        if len(labels) != self.test_count:
            raise DataError(f"{where} labels {len(labels)} images, expected {self.test_count}; unpack it again")
        order = sorted(labels, key=lambda name: (len(name), name))
        return arrays.Part(order, [labels[name] for name in order])

    @staticmethod
    def _words(tree: Tree, wnids: list[str]) -> list[str]:
        if "words.txt" not in tree.names():
            return wnids
        lines = (line.partition("\t") for line in _text(tree, "words.txt").splitlines())
        words = {wnid: text.strip() for wnid, _, text in lines}
        return [words.get(wnid) or wnid for wnid in wnids]

    def _part(self, root: Path, part: str) -> ImageSet:
        folder = root / self.name
        images, labels = arrays.open_part(folder, part)
        check_labels(labels, self.classes, folder / f"{part}_labels.npy")
        return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))


def _text(tree: Tree, name: str) -> str:
    try:
        return tree.read(name).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{tree.locate(name)} is corrupt: {error}") from error


def _decode(tree: Tree, name: str) -> np.ndarray:
    where = tree.locate(name)
    image = decode(tree.read(name), where, channels=3)
    if image.shape != _SHAPE:
        raise DataError(f"{where} has {image.shape[1]}×{image.shape[2]} pixels, expected {_SIDE}×{_SIDE}")
    return image


SOURCES.register("tiny-imagenet")(TinyImageNet())
