"""Files of one JSON object per line that are appended to, and may be cut off by a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ndsnn.atomic import write_atomically
from ndsnn.errors import RunError
from ndsnn.parsing import parse_json, read_bytes

_MOST_BYTES = 4 << 30


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows and bring them to the disk; a last line that was cut off is ended first.

    Raises:
        OSError: The disk is full or not writable.
    """
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a file, and what is wrong with each line that is none; a missing file has none.

    A broken last line is not named: a kill while it was written cuts it off.
    """
    if not path.is_file():
        return [], []
    try:
        lines = read_bytes(path, _MOST_BYTES).decode("utf-8", errors="replace").splitlines()
    except (OSError, ValueError) as error:
        return [], [f"{path} cannot be read: {error}"]
    rows, broken = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(parse_json(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                broken.append(f"{path} line {number} is broken: {error}")
    return rows, broken


class RowLog:
    """A file of rows with one writer, which knows the length and the SHA-256 of all that it has written.

    Args:
        path: The file; it is there, and empty unless `keep` or `adopt` is called before the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length, self._hasher = 0, hashlib.sha256()

    @property
    def written(self) -> dict[str, Any]:
        """Number of bytes and SHA-256 of what is written, to be kept elsewhere."""
        return {"bytes": self._length, "sha256": self._hasher.hexdigest()}

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and bring them to the disk; a failed write leaves nothing of them.

        Raises:
            OSError: The disk is full or not writable, or the file is gone.
            RunError: Somebody else has made it shorter or longer.
        """
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        with open(self.path, "r+b", buffering=0) as file:
            present = file.seek(0, os.SEEK_END)
            if present != self._length:
                raise RunError(
                    f"{self.path} has {present} bytes where this run has written {self._length}: something else "
                    f"changes its files; stop that, and go on from the last checkpoint with --resume"
                )
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(present)
                raise
        self._length += len(data)
        self._hasher.update(data)

    def begins_with(self, written: Mapping[str, Any]) -> bool:
        """Say whether the file begins with what was once `written`; more may follow."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(written["bytes"])
        except OSError:
            return False
        return len(data) == written["bytes"] and hashlib.sha256(data).hexdigest() == written["sha256"]

    def keep(self, length: int) -> None:
        """Take back all but the first `length` bytes.

        Raises:
            OSError: The file cannot be read or written.
        """
        data = self.path.read_bytes()[:length] if length else b""
        self.adopt(data)

    def adopt(self, data: bytes) -> None:
        """Make `data` the content of the file, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        write_atomically(self.path, data)
        self._length, self._hasher = len(data), hashlib.sha256(data)
