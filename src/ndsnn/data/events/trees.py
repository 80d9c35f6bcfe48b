"""Official files below a folder or in a zip archive, whichever is there, and the hash of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from ndsnn.data.arrays import Part
from ndsnn.data.events.recording import Events
from ndsnn.data.events.source import Recordings
from ndsnn.data.files import Checksum
from ndsnn.data.source import Progress
from ndsnn.data.trees import FolderTree, Tree, ZipTree
from ndsnn.errors import DataError

_HASH_STEP = 500


def folder_or_zip(folder: Path, top: str, limit: int) -> Tree:
    """Open the folder `top` below `folder`, or `top`.zip beside it, read in place.

    Args:
        folder: Where to look.
        top: Name of the folder, of the archive, and of the archive's one top folder.
        limit: Most bytes of one file.

    Raises:
        DataError: The archive is corrupt or hostile.
    """
    if (folder / top).is_dir():
        return FolderTree(folder / top, limit)
    archive = folder / f"{top}.zip"
    return ZipTree(archive, top, None, "get it again", limit)


def is_there(folder: Path, top: str) -> bool:
    """Say whether `folder_or_zip` finds something."""
    return (folder / top).is_dir() or (folder / f"{top}.zip").is_file()


def listing(folder: Path, tops: Iterable[str]) -> str:
    """Identify folders or archives by names and sizes, without opening one."""
    digest = hashlib.sha256()
    for top in tops:
        archive = folder / f"{top}.zip"
        of_folder = (folder / top).is_dir()
        text = FolderTree(folder / top).identity() if of_folder else f"zip {archive.stat().st_size}"
        digest.update(f"{top} {text}\n".encode())
    return digest.hexdigest()


def visible(tree: Tree) -> list[str]:
    """List the files that are not hidden."""
    return [name for name in tree.names() if not any(part.startswith(".") for part in name.split("/"))]


def recordings(
    trees: Mapping[str, Tree],
    names: Mapping[str, list[str]],
    parts: dict[str, Part],
    class_names: tuple[str, ...],
    read: Callable[[bytes, object], Events],
) -> Recordings:
    """Return the recordings of a data set that lie one in a file.

    Args:
        trees: Folders or archives by name.
        names: The files of each.
        parts: Keys "folder/file" and labels of the "train" and the "test" recordings.
        class_names: One per class.
        read: Makes events of the content of a file, whose name it is told for messages.
    """

    def where(key: str) -> str:
        top, _, name = key.partition("/")
        return trees[top].locate(name)

    def read_key(key: str) -> Events:
        top, _, name = key.partition("/")
        return read(trees[top].read(name), where(key))

    return Recordings(parts, class_names, read_key, where, partial(content_hash, trees, names))


def content_hash(trees: Mapping[str, Tree], names: Mapping[str, list[str]], progress: Progress) -> str:
    """Hash names and content of files, the same whether they lie in folders or archives.

    Args:
        trees: Folders or archives by name.
        names: The files of each.
        progress: Told the files read so far and in all.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    total, done = sum(map(len, names.values())), 0
    for top, tree in trees.items():
        for name in names[top]:
            digest.update(f"{top}/{name} {hashlib.sha256(tree.read(name)).hexdigest()}\n".encode())
            done += 1
            if done % _HASH_STEP == 0 or done == total:
                progress("verify", done, total)
    return digest.hexdigest()


def files_hash(folder: Path, names: list[str], progress: Progress) -> str:
    """Hash names and content of large files in a folder, which are not read as a whole.

    Args:
        folder: Where they lie.
        names: Their names.
        progress: Told the files read so far and in all.
    """
    digest = hashlib.sha256()
    for done, name in enumerate(names):
        progress("verify", done, len(names))
        digest.update(f"{name} {Checksum('sha256', '').of_file(folder / name)}\n".encode())
    progress("verify", len(names), len(names))
    return digest.hexdigest()


def require_some(names: list[str], where: object, what: str) -> list[str]:
    """Return `names`; DataError, naming the place, if there are none."""
    if not names:
        raise DataError(f"{where} has no {what}")
    return names
