"""CIFAR-10 and CIFAR-100 in the official Python format, from the unpacked folder or the archive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndsnn.atomic import write_atomically
from ndsnn.data import files
from ndsnn.data.images import ImageSet, Statistics, check_labels
from ndsnn.data.pickles import load_arrays
from ndsnn.data.source import SOURCES, Description, Progress, Source
from ndsnn.errors import DataError

_SIDE = 32
_MEMBER_LIMIT = 200 << 20
_ARCHIVE_LIMIT = 400 << 20


@dataclass(frozen=True)
class Cifar(Source):
    """60,000 colour images of 32×32; every file's MD5 is checked before it is decoded.

    Attributes:
        name: Name in `SOURCES`.
        folder: Name of the unpacked folder, which is also the prefix inside the archive.
        archive: Name of the .tar.gz.
        archive_md5: Its MD5.
        train_files: MD5 by file name, in the order in which the images are joined.
        test_files: The same for the test images.
        meta_file: File of the class names and its MD5.
        label_key: Key of the labels in a file of images.
        meta_key: Key of the class names.
        classes: Number of classes.
        train_count: Number of training images.
        test_count: Number of test images.
        statistics: Normalisation constants of the published recipe.
        url: Folder of the download.
    """

    name: str
    folder: str
    archive: str
    archive_md5: str
    train_files: Mapping[str, str]
    test_files: Mapping[str, str]
    meta_file: tuple[str, str]
    label_key: str
    meta_key: str
    classes: int
    statistics: Statistics | None
    train_count: int = 50000
    test_count: int = 10000
    url: str = "https://www.cs.toronto.edu/~kriz/"

    how_to_get = (
        "It downloads 170 MB; or put the official .tar.gz or the unpacked folder into one of these places."
    )
    downloadable = True

    def describe(self) -> Description:
        """Say how many images, classes, channels and pixels the data set has."""
        return Description(self.train_count, self.test_count, self.classes, channels=3, size=(_SIDE, _SIDE))

    def where(self, root: Path) -> tuple[str, ...]:
        """List the unpacked folder, then the archive."""
        return str(root / self.folder), str(root / self.archive)

    def missing(self, root: Path) -> tuple[str, ...]:
        """List the files that the folder lacks, or the folder, unless the archive is there."""
        folder = root / self.folder
        if not folder.is_dir():
            return () if (root / self.archive).is_file() else (self.folder,)
        absent = tuple(name for name in self._checksums() if not (folder / name).is_file())
        return () if (root / self.archive).is_file() else absent

    def found(self, root: Path) -> str:
        """Name the folder if it is complete, else the archive."""
        return self.where(root)[0 if self._unpacked(root) else 1]

    def prepare(self, root: Path, progress: Progress) -> None:
        """Download the archive if need be, check it, and unpack the files that are used.

        Raises:
            DataError: The download failed, or a file is corrupt.
        """
        names = tuple(self._checksums())
        if self._unpacked(root):
            for done, name in enumerate(names):
                progress("verify", done, len(names))
                self._read(root, (name,))
        else:
            archive = root / self.archive
            if not archive.is_file():
                checksum = files.Checksum("md5", self.archive_md5)
                files.download(self.url + self.archive, archive, checksum, _ARCHIVE_LIMIT, progress)
            self._unpack(root, names, progress)
        progress("verify", len(names), len(names))

    def load_train(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the 50,000 training images, in the order of the files."""
        return self._part(root, tuple(self.train_files), self.train_count)

    def load_test(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the 10,000 test images."""
        return self._part(root, tuple(self.test_files), self.test_count)

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Read the names of the (fine) classes."""
        (where, content), *_ = self._read(root, (self.meta_file[0],)).values()
        names = load_arrays(content, where).get(self.meta_key)
        if not isinstance(names, list) or len(names) != self.classes:
            raise DataError(f"{where} is corrupt: it does not list {self.classes} names under {self.meta_key!r}")
        return tuple(str(name) for name in names)

    def _checksums(self) -> dict[str, str]:
        return {**self.train_files, **self.test_files, self.meta_file[0]: self.meta_file[1]}

    def _unpacked(self, root: Path) -> bool:
        return all((root / self.folder / name).is_file() for name in self._checksums())

    def _read(self, root: Path, names: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
        """Read files from the folder or the archive: (where, content) by name, each with its checksum checked."""
        if self._unpacked(root):
            folder = root / self.folder
            found = {
                name: (str(folder / name), files.read_bounded(folder / name, _MEMBER_LIMIT)) for name in names
            }
        else:
            found = self._read_archive(root / self.archive, names)
        for name, (where, content) in found.items():
            checksum = files.Checksum("md5", self._checksums()[name])
            checksum.require(checksum.of(content), where, files.replace_remedy(self.name))
        return found

    def _read_archive(self, archive: Path, names: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
        checksum = files.Checksum("md5", self.archive_md5)
        checksum.require(checksum.of_file(archive), archive, files.replace_remedy(self.name))
        members = files.read_tar_members(archive, (f"{self.folder}/{name}" for name in names), _MEMBER_LIMIT)
        found = {}
        for name in names:
            member = f"{self.folder}/{name}"
            if member not in members:
                raise DataError(f"{archive} has no file {member}; {files.replace_remedy(self.name)}")
            found[name] = (f"{archive}!{member}", members[member])
        return found

    def _unpack(self, root: Path, names: tuple[str, ...], progress: Progress) -> None:
        progress(f"unpack {self.archive}", 0, len(names))
        contents = self._read(root, names)
        partial = root / f"{self.folder}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, (_, content) in contents.items():
            write_atomically(partial / name, content)
        folder = root / self.folder
        if folder.is_dir():
            for name in names:
                os.replace(partial / name, folder / name)
            partial.rmdir()
        else:
            partial.replace(folder)

    def _part(self, root: Path, names: tuple[str, ...], count: int) -> ImageSet:
        images, labels = [], []
        for where, content in self._read(root, names).values():
            entry = load_arrays(content, where)
            images.append(self._images(entry, where))
            labels.append(self._labels(entry, len(images[-1]), where))
        joined = np.concatenate(images)
        if len(joined) != count:
            raise DataError(f"{self.found(root)}: {', '.join(names)} hold {len(joined)} images, expected {count}")
        return ImageSet(torch.from_numpy(joined), torch.from_numpy(np.concatenate(labels)))

    @staticmethod
    def _images(entry: dict[str, Any], where: str) -> np.ndarray:
        data = entry.get("data")
        width = 3 * _SIDE * _SIDE
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
            raise DataError(f"{where} is corrupt: 'data' is no uint8 array [N, {width}]")
        return data.reshape(-1, 3, _SIDE, _SIDE)

    def _labels(self, entry: dict[str, Any], count: int, where: str) -> np.ndarray:
        labels = entry.get(self.label_key)
        if not isinstance(labels, list) or not all(type(label) is int for label in labels) or not labels:
            raise DataError(f"{where} is mislabelled: {self.label_key!r} is no list of integers")
        if len(labels) != count:
            raise DataError(f"{where} is mislabelled: {len(labels)} labels for {count} images")
        array = np.array(labels, np.int64)
        check_labels(array, self.classes, where)
        return array


CIFAR10 = Cifar(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    train_files={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test_files={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta_file=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    label_key="labels",
    meta_key="label_names",
    classes=10,
    statistics=Statistics((0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)),
)

CIFAR100 = Cifar(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    train_files={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test_files={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta_file=("meta", "7973b15100ade9c7d40fb424638fde48"),
    label_key="fine_labels",
    meta_key="fine_label_names",
    classes=100,
    statistics=Statistics((0.5071, 0.4867, 0.4408), (0.2673, 0.2564, 0.2762)),
)

SOURCES.register("cifar10")(CIFAR10)
SOURCES.register("cifar100")(CIFAR100)
