"""A data set's files behind one interface, whether they lie in a folder or in a zip archive."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Protocol

from ndsnn.data.containers import BROKEN, zip_problem
from ndsnn.data.files import Checksum, read_bounded
from ndsnn.errors import DataError

MEMBER_LIMIT = 16 << 20
"""Most bytes of one file; the largest that belongs here, words.txt, has 2.7 MB."""

_MAX_MEMBERS = 1_000_000
_MAC_NOTES = "__MACOSX"
"""Folder that the archiver of macOS adds; nothing in it belongs to the data."""


class Tree(Protocol):
    """Files by their path relative to the top folder, with forward slashes."""

    def names(self) -> list[str]:
        """List all files, sorted."""

    def read(self, name: str) -> bytes:
        """Read one file; DataError if it is absent, corrupt or too large."""

    def locate(self, name: str) -> str:
        """Say where a file is, for messages."""

    def identity(self) -> str:
        """Identify the content, to notice on resume that it has changed."""


class FolderTree:
    """The files below a folder.

    Args:
        top: The folder.
        limit: Most bytes of one file.
    """

    def __init__(self, top: Path, limit: int = MEMBER_LIMIT) -> None:
        self._top = top
        self._limit = limit
        self._sizes: dict[str, int] = {}
        for folder, _, leaves in os.walk(top):
            for leaf in leaves:
                path = Path(folder, leaf)
                self._sizes[path.relative_to(top).as_posix()] = path.stat().st_size

    def names(self) -> list[str]:
        """List all files, sorted."""
        return sorted(self._sizes)

    def read(self, name: str) -> bytes:
        """Read one file."""
        return read_bounded(self._top / name, self._limit)

    def locate(self, name: str) -> str:
        """Say where a file is."""
        return str(self._top / name)

    def identity(self) -> str:
        """Hash names and sizes."""
        listing = "\n".join(f"{name} {size}" for name, size in sorted(self._sizes.items()))
        return f"folder sha256 {hashlib.sha256(listing.encode()).hexdigest()}"


class ZipTree:
    """The files of a zip archive below its one top folder, read without unpacking anything.

    Args:
        archive: The zip file.
        top: Name of its top folder.
        checksum: What the archive must have; checked before it is opened. None relies on the members' own CRCs.
        remedy: What to do if it has not.
        limit: Most bytes of one member.

    Raises:
        DataError: The archive is corrupt, or has a hostile, doubled, encrypted or oversized member.
    """

    def __init__(
        self, archive: Path, top: str, checksum: Checksum | None, remedy: str, limit: int = MEMBER_LIMIT
    ) -> None:
        self._archive = archive
        self._top = f"{top}/"
        self._limit = limit
        self._digest: str | None = None
        if checksum is not None:
            self._digest = checksum.of_file(archive)
            checksum.require(self._digest, archive, remedy)
        try:
            self._zip = zipfile.ZipFile(archive)
        except (*BROKEN, OSError) as error:
            raise DataError(f"{archive} is corrupt or truncated: {error}; {remedy}") from error
        self._members = self._check(self._zip.infolist())

    def names(self) -> list[str]:
        """List all files, sorted."""
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """Read one member, its CRC checked."""
        if name not in self._members:
            raise DataError(f"{self._archive} has no file {self._top}{name}")
        try:
            with self._zip.open(self._members[name]) as file:
                content = file.read(self._limit + 1)
        except (*BROKEN, OSError) as error:
            raise DataError(f"{self.locate(name)} is corrupt or truncated: {error}") from error
        if len(content) > self._limit:
            raise DataError(f"{self.locate(name)} is refused: it holds more than {self._limit} bytes")
        return content

    def locate(self, name: str) -> str:
        """Say where a member is."""
        return f"{self._archive}!{self._top}{name}"

    def identity(self) -> str:
        """Name the archive's digest."""
        return f"zip {self._digest or Checksum('sha256', '').of_file(self._archive)}"

    def _check(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(infos) > _MAX_MEMBERS:
            raise DataError(f"{self._archive} is refused: it has {len(infos)} members")
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            where = f"{self._archive}!{info.filename}"
            parts = info.filename.split("/")
            if parts[0] == _MAC_NOTES and ".." not in parts:
                continue
            if ".." in parts or "\\" in info.filename or not info.filename.startswith(self._top):
                raise DataError(f"{where} is refused: its name leads outside {self._top}")
            if info.file_size > self._limit:
                raise DataError(f"{where} is refused: {info.file_size} bytes are more than {self._limit}")
            if info.is_dir():
                continue
            name = info.filename.removeprefix(self._top)
            if name in members:
                raise DataError(f"{where} is refused: two members have this name")
            members[name] = info
        if problem := zip_problem(infos):
            raise DataError(f"{self._archive} is refused: {problem}")
        return members
