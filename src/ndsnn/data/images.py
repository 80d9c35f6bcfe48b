"""Images in memory: labelled sets, the split into training and validation, and what is computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ndsnn.data.augment import Augmentation, default_augmentation, normalise
from ndsnn.data.samples import Augment, SampleSet, SplitData, drawn_order
from ndsnn.errors import ConfigError, DataError, ShapeError

ImageSize = int | tuple[int, int]
_RESIZE_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class ImageSet(SampleSet):
    """Labelled images of one size.

    Attributes:
        images: uint8 [N, C, H, W], values 0 to 255.
        labels: int64 [N], class indices from 0.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ShapeError(f"images must be uint8 [N,C,H,W], not {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ShapeError(
                f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} {list(self.labels.shape)}"
            )

    def samples(self, rows: np.ndarray) -> Tensor:
        """Copy the images at `rows` (int64 [M]), uint8 [M, C, H, W]."""
        return torch.from_numpy(self.images.numpy()[rows])

    def inputs(self, rows: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """Return the images at `rows`, normalised, float32 [M, C, H, W]."""
        return normalise(self.samples(rows), mean, std)

    def take(self, rows: Tensor) -> ImageSet:
        """Copy the images and labels at `rows` (int64 [M]) into a set of their own."""
        return ImageSet(self.images[rows], self.labels[rows])


class Statistics(NamedTuple):
    """Mean and standard deviation per channel, of pixel values scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ImageData(SplitData):
    """A data set of images, split, with the test set out of reach until `test` is called; see `SplitData`.

    Attributes:
        train: What is trained on.
        validation: Held out of the official training images by a fixed seed; for every choice made in a run.
        load_test: Reads the test set; call `test` instead.
    """

    train: ImageSet
    validation: ImageSet
    load_test: Callable[[], ImageSet] = field(repr=False)

    @property
    def channels(self) -> int:
        """Number of image channels, C."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels, (H, W)."""
        return self.train.images.shape[2], self.train.images.shape[3]

    def augmentation(self, enabled: bool = True) -> Augment:
        """Return the recipe of the data set (`default_augmentation`), or normalisation alone."""
        if not enabled:
            return Augmentation(self.mean, self.std)
        return default_augmentation(self.name, self.mean, self.std)

    def test(self) -> ImageSet:
        """Read the official test set, which nothing touches before this call; see `SplitData.test`."""
        return self.load_test()


def split_rows(count: int, validation_fraction: float, split_seed: int) -> tuple[Tensor, Tensor]:
    """Divide `count` images at random into training and validation, by `split_seed` alone (see `drawn_order`).

    Args:
        count: Number of images.
        validation_fraction: Share of the images held out, strictly between 0 and 1.
        split_seed: Non-negative; independent of the seed of a run.

    Returns:
        Row numbers for training and for validation, int64 [count - V] and [V], V = round(count * fraction).

    Raises:
        ConfigError: A value is out of range, or a part would be empty.
    """
    if not 0 < validation_fraction < 1:
        raise ConfigError(
            f"validation_fraction must lie strictly between 0 and 1, not {validation_fraction}; "
            "the best epoch is chosen by it, never by the test set"
        )
    if split_seed < 0:
        raise ConfigError(f"split_seed must be 0 or more, not {split_seed}")
    held_out = round(count * validation_fraction)
    if not 0 < held_out < count:
        raise ConfigError(
            f"validation_fraction {validation_fraction} of {count} images leaves {count - held_out} for training "
            f"and {held_out} for validation; both need at least one"
        )
    rows = torch.from_numpy(drawn_order(count, split_seed))
    return rows[held_out:], rows[:held_out]


def fingerprint(train: ImageSet, validation: ImageSet, split_seed: int) -> str:
    """Hash the pixels and labels of both parts in their order, and the seed of the split.

    Args:
        train: Training part.
        validation: Validation part.
        split_seed: Seed of the split.

    Returns:
        SHA-256, 64 hex digits.
    """
    digest = hashlib.sha256(f"ndsnn image data 1, split seed {split_seed}".encode())
    for part in (train, validation):
        digest.update(str(tuple(part.images.shape)).encode())
        digest.update(part.images.contiguous().numpy().data)
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()


def channel_statistics(images: Tensor) -> Statistics:
    """Mean and population standard deviation per channel, exact by counting the 256 values.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        Statistics of the values scaled to [0, 1]; a standard deviation is at least 1/255.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        centre = float((share * values).sum())
        variance = float((share * (values - centre) ** 2).sum())
        mean.append(centre)
        std.append(max(variance**0.5, 1 / 255))
    return Statistics(tuple(mean), tuple(std))


def parse_size(image_size: ImageSize | None) -> tuple[int, int] | None:
    """Turn a side length or a pair (H, W) into a pair, in pixels.

    Raises:
        ConfigError: Not one or two positive integers.
    """
    if image_size is None:
        return None
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ConfigError(f"image_size must be a positive integer or (height, width), not {image_size!r}")
    return pair


def resize(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize bilinearly, with antialiasing where images shrink.

    Args:
        images: uint8 [N, C, H, W].
        size: New (H, W) in pixels; None keeps the images as they are.

    Returns:
        uint8 [N, C, *size].
    """
    if size is None or tuple(images.shape[2:]) == size:
        return images
    resized = torch.empty(*images.shape[:2], *size, dtype=torch.uint8)
    for source, target in zip(images.split(_RESIZE_CHUNK), resized.split(_RESIZE_CHUNK), strict=True):
        smooth = functional.interpolate(source.float(), size, mode="bilinear", antialias=True)
        target.copy_(smooth.round_().clamp_(0, 255))
    return resized


def check_labels(labels: np.ndarray | Tensor, num_classes: int, where: object) -> None:
    """Raise DataError, naming the file `where`, if a label lies outside 0 … num_classes - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"{where} is mislabelled: it has label {wrong}, but labels run from 0 to {num_classes - 1}"
        )
