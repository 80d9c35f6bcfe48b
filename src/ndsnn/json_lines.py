"""Files of one JSON object per line that are appended to, and may be cut off by a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


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
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows, broken = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                broken.append(f"{path} line {number} is broken: {error}")
    return rows, broken
