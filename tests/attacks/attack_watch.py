"""Watching what the interpreter does while it reads a hostile file: processes, writes, network, pickles, imports.

The events are those of Python's audit hooks (PEP 578), raised by the interpreter wherever such a thing is done.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ndsnn.errors import NdsnnError

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RUNS = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
REACHES = ("socket.connect", "socket.bind", "urllib.Request", "ftplib.connect", "webbrowser.open")
CHANGES = (
    *("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree"),
)

_seen: list[str] | None = None
_own: tuple[Path, ...] = ()
_trap: str = ""


def _hook(event: str, arguments: tuple) -> None:
    if _seen is None:
        return
    if event in RUNS or event in REACHES:
        _seen.append(f"{event} {arguments!r:.200}")
    elif event in CHANGES:
        _seen.extend(f"{event} {path}" for path in arguments[:2] if _is_elsewhere(path))
    elif (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and _is_elsewhere(arguments[0])
    ):
        _seen.append(f"open for writing {arguments[0]}")
    elif event == "import" and _trap and arguments[0].partition(".")[0] == _trap:
        _seen.append(f"import {arguments[0]}")


def _is_elsewhere(path: object) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    where = Path(os.path.abspath(os.fsdecode(path)))
    if "__pycache__" in where.parts or where == Path(os.devnull):
        return False
    return not any(where.is_relative_to(one) for one in _own)


sys.addaudithook(_hook)


@contextmanager
def harmless(*own: Path, trap: str = "") -> Iterator[None]:
    """Check that the block starts nothing, reaches for nothing, unpickles nothing, and writes below `own` only.

    Args:
        own: Where writing is its task.
        trap: Name of a module that must not be imported.
    """
    global _seen, _own, _trap
    _seen, _own, _trap = [], own, trap
    try:
        yield
    finally:
        seen, _seen = _seen, None
    assert not seen, "; ".join(seen)


@contextmanager
def refused(error: type[NdsnnError], words: str, *own: Path, trap: str = "") -> Iterator[None]:
    """Check that the block is harmless and ends in a typed error that matches `words`."""
    with harmless(*own, trap=trap), pytest.raises(error, match=words):
        yield


class Payload:
    """Pickled, it is a call: what reads the pickle makes the folder `witness`."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)
