"""Writing what was exported."""

from __future__ import annotations

from pathlib import Path

from ndsnn.atomic import write_atomically
from ndsnn.errors import ExportError


def write_export(path: Path, data: bytes) -> int:
    """Write an exported file, whole or not at all; return the bytes.

    Raises:
        ExportError: It cannot be written.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from error
    return len(data)
