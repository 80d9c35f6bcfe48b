"""Fashion-MNIST in the IDX format: Debian's package, files of one's own, or a download."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ndsnn.data import files
from ndsnn.data.images import ImageSet, Statistics, check_labels
from ndsnn.data.source import SOURCES, Description, Progress, Source
from ndsnn.errors import DataError

_UINT8_CODE = 0x08
_STATISTICS = Statistics((0.2860,), (0.3530,))


@dataclass(frozen=True)
class IdxFile:
    """One gzipped IDX file.

    Attributes:
        download: MD5 of the official .gz, for the download.
        content: SHA-256 of what it decompresses to, whoever compressed it.
        shape: Shape of the array that it holds.
    """

    download: files.Checksum
    content: files.Checksum
    shape: tuple[int, ...]


def _file(md5: str, sha256: str, *shape: int) -> IdxFile:
    return IdxFile(files.Checksum("md5", md5), files.Checksum("sha256", sha256), shape)


FASHION_MNIST_FILES: Mapping[str, IdxFile] = {
    "train-images-idx3-ubyte.gz": _file(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        *(60000, 28, 28),
    ),
    "train-labels-idx1-ubyte.gz": _file(
        "25c81989df183df01b3e8a0aad5dffbe",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        60000,
    ),
    "t10k-images-idx3-ubyte.gz": _file(
        "bef4ecab320f06d8554ea6380940ec79",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        *(10000, 28, 28),
    ),
    "t10k-labels-idx1-ubyte.gz": _file(
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        10000,
    ),
}


def parse_idx(content: bytes, where: object) -> np.ndarray:
    """Decode an IDX array of bytes: 00 00 08 D, then D big-endian 32-bit sizes, then the values.

    Args:
        content: The whole decompressed file.
        where: File name, for errors.

    Returns:
        uint8 array of the sizes written in the header.

    Raises:
        DataError: Wrong magic number, or more or fewer bytes than the header says.
    """
    if len(content) < 4 or content[:3] != bytes((0, 0, _UINT8_CODE)) or content[3] == 0:
        raise DataError(f"{where} is not an IDX file of bytes: it starts with {content[:4].hex(' ') or 'nothing'}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{where} is truncated: it ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    size = 1
    for side in shape:
        size *= side
    if len(content) - header != size:
        raise DataError(
            f"{where} is corrupt or truncated: its header announces {list(shape)}, {size} bytes, "
            f"but {len(content) - header} follow"
        )
    try:
        return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    except ValueError as error:  # sides whose product overflows, but for a side of 0
        raise DataError(f"{where} is corrupt: its header announces {list(shape)}") from error


@dataclass(frozen=True)
class FashionMnist(Source):
    """70,000 grey 28×28 images of ten kinds of clothing."""

    name: str = "fashion-mnist"
    table: Mapping[str, IdxFile] = field(default_factory=lambda: FASHION_MNIST_FILES)
    system_folder: Path = Path("/usr/share/datasets/fashion-mnist")
    url: str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    statistics: Statistics | None = _STATISTICS

    how_to_get = (
        "It downloads 30 MB, or on Debian and Ubuntu: apt install dataset-fashion-mnist; "
        "or put the four official .gz files into the first place."
    )
    downloadable = True

    def describe(self) -> Description:
        """Say how many images, classes, channels and pixels the data set has."""
        train, test = (self.table[f"{part}-images-idx3-ubyte.gz"].shape for part in ("train", "t10k"))
        return Description(train[0], test[0], classes=10, channels=1, size=(train[1], train[2]))

    def where(self, root: Path) -> tuple[str, ...]:
        """List the folder under `root`, then that of Debian's package."""
        return tuple(str(folder) for folder in self._folders(root))

    def missing(self, root: Path) -> tuple[str, ...]:
        """List the files that the first folder lacks, unless some folder has all four."""
        if any(not self._absent(folder) for folder in self._folders(root)):
            return ()
        return self._absent(self._folders(root)[0])

    def found(self, root: Path) -> str:
        """Name the first folder that has all four files."""
        return str(self._folder(root))

    def prepare(self, root: Path, progress: Progress) -> None:
        """Download what is missing and check the content of all four files.

        Raises:
            DataError: A download failed, or a file is corrupt.
        """
        if self.missing(root):
            folder = self._folders(root)[0]
            for name in self._absent(folder):
                entry = self.table[name]
                limit = 2 * self._bytes(entry)
                files.download(self.url + name, folder / name, entry.download, limit, progress)
        for done, name in enumerate(self.table):
            progress("verify", done, len(self.table))
            self._read(self._folder(root) / name)
        progress("verify", len(self.table), len(self.table))

    def load_train(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the 60,000 training images."""
        return self._part(root, "train")

    def load_test(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the 10,000 test images."""
        return self._part(root, "t10k")

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Name the kinds of clothing."""
        names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
        return tuple(names.split(","))

    def _folders(self, root: Path) -> tuple[Path, ...]:
        return root / self.name, self.system_folder

    def _folder(self, root: Path) -> Path:
        return next(folder for folder in self._folders(root) if not self._absent(folder))

    def _absent(self, folder: Path) -> tuple[str, ...]:
        return tuple(name for name in self.table if not (folder / name).is_file())

    @staticmethod
    def _bytes(entry: IdxFile) -> int:
        return 4 + 4 * len(entry.shape) + int(np.prod(entry.shape))

    def _read(self, path: Path) -> np.ndarray:
        entry = self.table[path.name]
        content = files.gunzip_bounded(path, self._bytes(entry))
        entry.content.require(entry.content.of(content), f"the content of {path}", files.replace_remedy(self.name))
        array = parse_idx(content, path)
        if array.shape != entry.shape:
            raise DataError(f"{path} holds an array {list(array.shape)}, expected {list(entry.shape)}")
        return array

    def _part(self, root: Path, part: str) -> ImageSet:
        folder = self._folder(root)
        images = self._read(folder / f"{part}-images-idx3-ubyte.gz")
        label_path = folder / f"{part}-labels-idx1-ubyte.gz"
        labels = self._read(label_path)
        check_labels(labels, 10, label_path)
        return ImageSet(torch.from_numpy(images[:, None].copy()), torch.from_numpy(labels.astype(np.int64)))


SOURCES.register("fashion-mnist")(FashionMnist())
