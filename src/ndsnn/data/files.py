"""Files that come from elsewhere: checksums before anything is decoded, bounded reading, downloads that resume."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import stat
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from ndsnn.data.containers import opened_tar
from ndsnn.data.source import Progress
from ndsnn.errors import DataError

_BLOCK = 1 << 20
_TIMEOUT = 30.0
_TAR_LIMIT = 4 << 30


class Checksum(NamedTuple):
    """A digest that a file must have.

    Attributes:
        algorithm: Name that hashlib knows, such as "md5" or "sha256".
        digest: Lower-case hex.
    """

    algorithm: str
    digest: str

    def of(self, content: bytes) -> str:
        """Digest of `content` by the same algorithm."""
        return hashlib.new(self.algorithm, content, usedforsecurity=False).hexdigest()

    def of_file(self, path: Path) -> str:
        """Digest of the file at `path` by the same algorithm, in constant memory."""
        hasher = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
        return hasher.hexdigest()

    def require(self, found: str, where: object, remedy: str) -> None:
        """Raise DataError, naming the file `where`, unless the digest `found` is this one."""
        if found != self.digest:
            raise DataError(
                f"{where} is corrupt or truncated: its {self.algorithm.upper()} is {found}, "
                f"expected {self.digest}; {remedy}"
            )


def replace_remedy(name: str) -> str:
    """Say how to replace a bad file of the data set `name`."""
    return f"delete it and run `ndsnn data prepare {name}`"


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        DataError: The file cannot be read or is larger.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} cannot be read: it is no plain file")
        with path.open("rb") as file:
            return read_at_most(file, limit, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def gunzip_bounded(path: Path, limit: int) -> bytes:
    """Decompress a gzip file whose content has at most `limit` bytes, holding no more than that in memory.

    Raises:
        DataError: The file cannot be read, is no intact gzip file, or holds more.
    """
    try:
        with gzip.open(path, "rb") as file:
            return read_at_most(file, limit, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is corrupt or truncated: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def read_at_most(file: IO[bytes] | gzip.GzipFile, limit: int, where: object) -> bytes:
    """Read an open file of at most `limit` bytes, in blocks; DataError if it has more."""
    blocks, left = [], limit + 1
    while left and (block := file.read(min(left, _BLOCK))):
        blocks.append(block)
        left -= len(block)
    if not left:
        raise DataError(f"{where} is not what it should be: it holds more than the expected {limit} bytes")
    return b"".join(blocks)


def download(url: str, target: Path, checksum: Checksum, limit: int, progress: Progress) -> None:
    """Fetch `url` into `target`, which appears only when it is complete and its checksum is right.

    Bytes go to `<target>.part`; if that is left from an interrupted attempt, only the rest is asked for.

    Args:
        url: http(s) address.
        target: File to write; its folder is made.
        checksum: What the file must have.
        limit: Most bytes accepted.
        progress: Told the bytes so far and in all.

    Raises:
        DataError: No connection, an interrupted transfer, or a wrong checksum.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, limit, progress)
        found = checksum.of_file(part)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"download of {url} failed: {reason}; run the command again to continue it, "
            f"or get the file by other means and put it at {target}"
        ) from error
    if found != checksum.digest:
        part.unlink()
    checksum.require(found, url, f"nothing was kept; try again or put the right file at {target}")
    part.replace(target)


def _fetch(url: str, part: Path, limit: int, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if not (have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            raise
        part.unlink()
        return _fetch(url, part, limit, progress)
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                done += len(block)
                if done > limit:
                    raise OSError(f"the server sends more than the expected {limit} bytes")
                file.write(block)
                progress(f"download {url}", done, total)
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
    return None


def read_tar_members(archive: Path, names: Iterable[str], limit: int) -> dict[str, bytes]:
    """Read plain files out of a compressed tar archive into memory; nothing is written to disk.

    Args:
        archive: The .tar.gz file.
        names: Full names of the members wanted.
        limit: Most bytes of one member.

    Returns:
        Content by name; a name that the archive does not have is left out.

    Raises:
        DataError: The archive is corrupt, or a wanted member is a link, a device or too large.
    """
    wanted = set(names)
    contents: dict[str, bytes] = {}
    with opened_tar(archive, _TAR_LIMIT) as tar:
        for member in tar:
            if member.name in contents:
                raise DataError(f"{archive}!{member.name} is doubled; do not trust this archive")
            if member.name in wanted:
                contents[member.name] = _read_tar_member(tar, member, archive, limit)
            if len(contents) == len(wanted):
                break
    return contents


def _read_tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, limit: int) -> bytes:
    where = f"{archive}!{member.name}"
    file: IO[Any] | None = tar.extractfile(member) if member.isfile() else None
    if file is None:
        raise DataError(f"{where} is a link or a special file, not data; do not trust this archive")
    return read_at_most(file, limit, where)
