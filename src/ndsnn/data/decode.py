"""Decoding image files with Pillow, with limits and errors that name the file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from ndsnn.errors import DataError, MissingDependencyError

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
"""The only formats that are ever decoded, whatever the file name says."""

MAX_PIXELS = 1 << 26
"""Larger images are refused before any of their pixels are decoded."""

_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class Header(NamedTuple):
    """What an image file says of itself: size (H, W) in pixels, and 1 channel (grey) or 3."""

    size: tuple[int, int]
    channels: int


def require_pillow(name: str) -> Any:
    """Import Pillow for the data set `name`.

    Returns:
        The module PIL.Image.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            f"data set {name!r} needs Pillow to decode images; run: pip install 'ndsnn[vision]'"
        ) from error
    return Image


def read_header(content: bytes, where: object) -> Header:
    """Read size and channels without decoding pixels.

    Raises:
        DataError: Not an image of a known format, too large, or of more than 8 bits per channel.
    """
    with _open(content, where) as image:
        return _header(image, where)


def decode(content: bytes, where: object, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one image file.

    Args:
        content: The whole file.
        where: File name, for errors.
        channels: 1 for grey, 3 for RGB; other images are converted.
        size: (H, W) to resize to, bilinearly with antialiasing; None keeps the size.

    Returns:
        uint8 [channels, H, W].

    Raises:
        DataError: The file is truncated, corrupt, too large or of another kind.
    """
    with _open(content, where) as image:
        _header(image, where)
        try:
            plain = image.convert("L" if channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error) as error:
            raise DataError(f"{where} is corrupt or truncated: {error}") from error
        if size is not None and plain.size != size[::-1]:
            plain = plain.resize(size[::-1], require_pillow("folder").Resampling.BILINEAR)
        pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _open(content: bytes, where: object) -> Any:
    image_module = require_pillow("folder")
    try:
        return image_module.open(io.BytesIO(content), formats=FORMATS)
    except image_module.DecompressionBombError as error:
        raise DataError(f"{where} is refused: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise DataError(f"{where} is corrupt or no {', '.join(FORMATS)} image") from error


def _header(image: Any, where: object) -> Header:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{where} is refused: {width}×{height} pixels are more than {MAX_PIXELS}")
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise DataError(f"{where} has pixels of mode {image.mode}; convert it to 8 bits per channel")
    return Header((height, width), 1 if image.mode in _GREY_MODES else 3)
