"""Files that are either the old or the new one, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: temporary file in the same directory, fsync, rename, fsync of the directory.

    Raises:
        OSError: The disk is full or not writable; the old file is as it was.
    """
    temporary = write_temporary(path, data)
    os.replace(temporary, path)
    sync_directory(path.parent)


def write_temporary(path: Path, data: bytes) -> Path:
    """Write `data` to `path` + ".tmp" and bring it to the disk; a failed write leaves nothing behind."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
