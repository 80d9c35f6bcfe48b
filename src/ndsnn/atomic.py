"""Files and directories that are either the old or the new one, whatever happens while they are written."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory beside `path` that takes its place, whole, once the block is through.

    If the block or the exchange fails, the new one is gone and the old one is as it was.

    Raises:
        OSError: A directory cannot be made, moved or brought to the disk.
    """
    target = path.resolve()
    new, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
        sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[int]:
    """Hold the lock of the file `path`, made if it is not there; a child with the descriptor holds it, too.

    Returns:
        The descriptor that holds the lock.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: The file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)
