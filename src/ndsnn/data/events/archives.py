"""Unpacking what cannot be read in place, by names of our own choice, bounded, and all or nothing."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from re import Pattern
from typing import IO, Any

from ndsnn.data.containers import BROKEN, RESERVED, opened_tar, zip_problem
from ndsnn.data.source import Progress
from ndsnn.errors import DataError

_BLOCK = 1 << 20


def unpack_tar(archive: Path, target: Path, wanted: Pattern[str], limit: int, progress: Progress) -> None:
    """Unpack files out of a .tar.gz into the folder `target`, which appears only when all of them are there.

    Args:
        archive: The .tar.gz.
        target: Folder to make; it must not exist.
        wanted: Full names of the members wanted, their own names in group 1; everything else is left out.
        limit: Most bytes of all of them together.
        progress: Told the bytes so far.

    Raises:
        DataError: The archive is corrupt, or a wanted member is no plain file, doubled or too large, or the disk
            is full.
    """
    partial = target.with_name(target.name + ".unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    done = 0
    try:
        partial.mkdir(parents=True)
        with opened_tar(archive, 2 * limit) as tar:
            for member in tar:
                found = wanted.fullmatch(member.name)
                if found is None:
                    continue
                where = f"{archive}!{member.name}"
                file: IO[Any] | None = tar.extractfile(member) if member.isfile() else None
                path = partial / found.group(1)
                if RESERVED.fullmatch(path.name):
                    raise DataError(f"{where} is the name of a device on Windows; do not trust this archive")
                if file is None or path.exists():
                    raise DataError(f"{where} is a link, a special file or doubled; do not trust this archive")
                done += _copy(file, path, limit - done, where)
                progress(f"unpack {archive.name}", done, None)
        partial.rename(target)
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked to {target}: {error.strerror or error}") from error


def unpack_zip_member(archive: Path, name: str, target: Path, limit: int) -> None:
    """Unpack one file out of a zip archive; `target` appears only when it is whole and its CRC is right.

    Args:
        archive: The zip file.
        name: Name of the member.
        target: File to write.
        limit: Most bytes.

    Raises:
        DataError: The archive is corrupt, has no such member, or the member is too large, or the disk is full.
    """
    partial = target.with_name(target.name + ".unpacking")
    try:
        with zipfile.ZipFile(archive) as opened:
            if name not in opened.namelist():
                raise DataError(f"{archive} has no file {name}; get it again")
            if problem := zip_problem(opened.infolist()):
                raise DataError(f"{archive} is refused: {problem}")
            with opened.open(name) as file:
                _copy(file, partial, limit, f"{archive}!{name}")
        partial.replace(target)
    except BROKEN as error:
        raise DataError(f"{archive} is corrupt or truncated: {error}; get it again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked to {target}: {error.strerror or error}") from error


def _copy(source: IO[Any], path: Path, limit: int, where: str) -> int:
    """Copy at most `limit` bytes into a file and bring it to the disk."""
    done = 0
    with path.open("wb") as file:
        while block := source.read(_BLOCK):
            done += len(block)
            if done > limit:
                raise DataError(f"{where} is refused: it holds more than the {limit} bytes that are left to it")
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return done
