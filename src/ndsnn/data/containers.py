"""Archives that somebody else made, opened so that they neither name a place outside nor grow without bound."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from ndsnn.errors import DataError

BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError),
)
"""What the readers of Python raise on archives that are not what they should be."""

RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE | re.DOTALL)
"""Names that are devices on Windows, whatever the folder."""

_MOST_AT_ONCE = 4 << 20
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _BoundedStream:
    """A decompressed stream that gives at most so much at once, as a header asks for, and in all."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self._require_within(self._file.tell() + size - _MOST_AT_ONCE)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        self._require_within(place)
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()

    def _require_within(self, place: int) -> None:
        if place > self._limit:
            raise tarfile.ReadError(f"it unpacks to more than {self._limit} bytes")


@contextmanager
def opened_tar(archive: Path, limit: int) -> Iterator[tarfile.TarFile]:
    """Open a .tar.gz to go through its members.

    Args:
        archive: The file.
        limit: Most bytes that it may unpack to, what is passed over included.

    Raises:
        DataError: It cannot be read, is corrupt, has a header of more than 4 MiB, or unpacks to more.
    """
    try:
        with gzip.open(archive, "rb") as file:
            stream = _BoundedStream(file, limit)
            with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
                yield tar
    except BROKEN as error:
        raise DataError(f"{archive} is corrupt or truncated: {error}; get it again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror or error}") from error


def zip_problem(infos: list[zipfile.ZipInfo]) -> str | None:
    """Say which member of a zip archive is none that belongs there; None if all are plain files of their own."""
    for info in infos:
        if info.flag_bits & 1:
            return f"{info.filename} is encrypted"
        if info.compress_type not in _PLAIN:
            return f"{info.filename} is compressed by method {info.compress_type}, not by deflate"
        if info.file_size < 0 or info.compress_size < 0:
            return f"{info.filename} has a size below 0"
        if RESERVED.fullmatch(info.filename.rpartition("/")[2]):
            return f"{info.filename} is the name of a device on Windows"
    places = sorted(infos, key=lambda info: info.header_offset)
    for one, other in pairwise(places):
        if one.header_offset + one.compress_size >= other.header_offset:
            return f"{one.filename} and {other.filename} lie upon each other"
    return None
