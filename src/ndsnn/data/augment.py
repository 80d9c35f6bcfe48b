"""Augmentation of a whole batch at once: crop, flip, normalise, Cutout, in this order.

The order is that of the published code: crop and flip work on the image as it is, so that the crop pads with
black; Cutout comes after normalisation, so that its square holds zeros, the mean colour.

Inside, the arithmetic is NumPy's: it stays on the thread that calls it. Torch would start a second pool of OpenMP
threads in the loader's background thread, which then fights with the engine's for the same cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from ndsnn.data.samples import Within
from ndsnn.errors import ConfigError, ShapeError


class Draws(NamedTuple):
    """The random numbers of one batch, each int64 or bool [N]; None for what is switched off.

    Attributes:
        top: First row of the crop in the padded image, 0 … 2 · crop_padding.
        left: First column of the crop in the padded image.
        flip: Whether the crop is mirrored left to right.
        row: Row of the Cutout's centre in the result.
        column: Column of the Cutout's centre in the result.
    """

    top: Tensor | None
    left: Tensor | None
    flip: Tensor | None
    row: Tensor | None
    column: Tensor | None

    def part(self, first: int, count: int) -> Draws:
        """Return the numbers of `count` images from the row `first` on."""
        return Draws(*(None if drawn is None else drawn[first : first + count] for drawn in self))


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale pixels to [0, 1], subtract the mean and divide by the standard deviation, in one multiply-add.

    Args:
        images: uint8 [N, C, H, W].
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].

    Returns:
        float32 [N, C, H, W], contiguous.

    Raises:
        ShapeError: The images are not uint8 with one channel per constant.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != len(mean):
        raise ShapeError(f"expected uint8 [N,{len(mean)},H,W], not {images.dtype} {list(images.shape)}")
    return torch.from_numpy(_normalise(images.numpy(), mean, std))


def _normalise(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    spread = np.array(std).reshape(-1, 1, 1)
    scale = (1 / (255 * spread)).astype(np.float32)
    shift = (-np.array(mean).reshape(-1, 1, 1) / spread).astype(np.float32)
    result = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, scale, out=result, dtype=np.float32)
    np.add(result, shift, out=result)
    return result


@dataclass(frozen=True)
class Augmentation:
    """Random crop, horizontal flip, normalisation and Cutout of a batch.

    Attributes:
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
        crop_padding: Black pixels added on each side before a crop of the original size; 0 switches it off.
        flip: Whether to mirror each image with probability 1/2.
        cutout: Side in pixels of the square that is set to zero (DeVries & Taylor, 2017); 0 switches it off. Its
            centre is uniform over the image, so that at the border a part of the square falls outside. As in their
            code an odd side counts as the even one below.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ConfigError(f"mean {self.mean} and std {self.std} need one value per channel, std above 0")
        for key in ("crop_padding", "cutout"):
            if getattr(self, key) < 0:
                raise ConfigError(f"{key} must be 0 or more, not {getattr(self, key)}")

    def __call__(self, images: Tensor, generator: torch.Generator, within: Within | None = None) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 [N, C, H, W]; left as they are.
            generator: Source of all random numbers; the same state gives the same result on any number of threads.
            within: Which part of a batch the images are, None where they are all of it.

        Returns:
            float32 [N, C, H, W], contiguous.
        """
        if images.ndim != 4:
            raise ShapeError(f"expected uint8 [N,C,H,W], not {images.dtype} {list(images.shape)}")
        first, count = within or Within(0, len(images))
        draws = self.draw(count, images.shape[2], images.shape[3], generator)
        return self.apply(images, draws.part(first, len(images)))

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draw the random numbers of `count` images of `height` × `width` pixels."""

        def below(bound: int) -> Tensor:
            return torch.randint(bound, (count,), generator=generator)

        offsets = 2 * self.crop_padding + 1
        return Draws(
            top=below(offsets) if self.crop_padding else None,
            left=below(offsets) if self.crop_padding else None,
            flip=below(2).bool() if self.flip else None,
            row=below(height) if self.cutout else None,
            column=below(width) if self.cutout else None,
        )

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augment a batch by given random numbers.

        Args:
            images: uint8 [N, C, H, W].
            draws: From `draw`.

        Returns:
            float32 [N, C, H, W].
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ShapeError(f"expected uint8 [N,{len(self.mean)},H,W], not {images.dtype} {list(images.shape)}")
        pixels = images.numpy()
        if draws.top is not None and draws.left is not None:
            pixels = _crop(pixels, self.crop_padding, draws.top.numpy(), draws.left.numpy())
        if draws.flip is not None:
            mirrored = draws.flip.numpy()
            flipped = pixels[mirrored][..., ::-1]
            pixels = pixels if draws.top is not None else pixels.copy()
            pixels[mirrored] = flipped
        result = _normalise(pixels, self.mean, self.std)
        if draws.row is not None and draws.column is not None:
            square = _square(draws.row.numpy(), draws.column.numpy(), self.cutout, *result.shape[2:])
            np.copyto(result, 0, where=square)
        return torch.from_numpy(result)


def _crop(pixels: np.ndarray, padding: int, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Cut one window of the original size out of each padded image [N, C, H, W], as a copy."""
    count, channels, height, width = pixels.shape
    padded = np.zeros((count, channels, height + 2 * padding, width + 2 * padding), np.uint8)
    padded[:, :, padding : padding + height, padding : padding + width] = pixels
    # All windows of all images are one view [N, y, x, C, H, W]; choosing N of them is the only copy.
    windows_nyxchw = sliding_window_view(padded, (height, width), (2, 3)).transpose(0, 2, 3, 1, 4, 5)
    return windows_nyxchw[np.arange(count), top, left]


def _square(row: np.ndarray, column: np.ndarray, side: int, height: int, width: int) -> np.ndarray:
    """Mark each image's Cutout, bool [N, 1, H, W]: centre - side // 2 up to, not including, centre + side // 2."""
    half = side // 2

    def covered(centre: np.ndarray, length: int) -> np.ndarray:
        offset = np.arange(length) - centre[:, None]
        return (offset >= -half) & (offset < half)

    return (covered(row, height)[:, :, None] & covered(column, width)[:, None, :])[:, None]


_RECIPES: dict[str, dict[str, Any]] = {
    "cifar10": {"crop_padding": 4, "flip": True, "cutout": 16},
    "cifar100": {"crop_padding": 4, "flip": True, "cutout": 16},
    "tiny-imagenet": {"crop_padding": 8, "flip": True},
    "fashion-mnist": {"crop_padding": 2, "flip": True},
    "digits": {"crop_padding": 1},
}


def default_augmentation(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Augmentation:
    """Recipe of a data set: the paper's for CIFAR and Tiny-ImageNet, a mild one for the small sets, else none.

    Args:
        name: Name of the data set.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].

    Returns:
        The augmentation; for an unknown name it only normalises.
    """
    return Augmentation(mean, std, **_RECIPES.get(name, {}))
