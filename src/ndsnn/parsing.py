"""JSON and YAML that somebody else may have written: plain values, bounded in size and in depth.

Neither reader makes anything but numbers, text, lists and mappings. They bound what a few bytes can grow to:
Python's own parsers end in a RecursionError on deep nesting, and YAML's aliases can name a list that names a list.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 256 << 20
"""Of a file that is read in one piece."""

MOST_YAML = 4 << 20
"""Characters of a YAML text; the largest recipe has a few thousand."""

MOST_DEPTH = 100
"""Lists and mappings inside each other; what ndsnn writes has less than 20."""

MOST_NODES = 100_000
"""Values of a YAML text, those that aliases repeat counted each time."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_bytes(path: Path, limit: int = MOST_BYTES) -> bytes:
    """Return the content of a plain file of at most `limit` bytes.

    Raises:
        OSError: It cannot be read, or is a directory, a pipe or a device, of which opening one may never return.
        ValueError: It is larger.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no plain file")
    if found.st_size > limit:
        raise ValueError(f"it has {found.st_size} bytes, more than the {limit} that such a file can have")
    with open(path, "rb") as file:
        return file.read(limit)


def read_json(path: Path, limit: int = MOST_BYTES) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, nested too deeply, or larger than `limit` bytes.
    """
    return parse_json(read_bytes(path, limit))


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text stands for.

    Raises:
        ValueError: It is none, or nested more than `MOST_DEPTH` deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from error
    level, depth = [value], 0
    while level := [part for holder in level if isinstance(holder, list | dict) for part in _parts(holder)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
    return value


def _parts(holder: list[Any] | dict[str, Any]) -> Any:
    return holder if isinstance(holder, list) else holder.values()


def printable(text: str) -> str:
    """Return a text that can say nothing to a terminal: characters that are not for reading as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def require_bounded_yaml(text: str) -> None:
    """Check what a YAML text would grow to, from its events alone, before anything is made of it.

    Raises:
        yaml.YAMLError: It is none, too long, nested too deeply, an alias stands inside of what it names, or there
            are too many values once aliases are followed.
    """
    if len(text) > MOST_YAML:
        raise yaml.YAMLError(f"it has {len(text)} characters, more than the {MOST_YAML} that it can have")
    sizes: dict[str | None, int | None] = {}  # by anchor; of one that is not at its end yet, None
    total = 0
    begun: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)
            if size is None:
                raise yaml.YAMLError(f"alias *{event.anchor} stands inside of what it names{event.start_mark}")
            total += size
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                begun.append((event.anchor, total - 1))
                sizes[event.anchor] = None
            else:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor] = total - before
        if len(begun) > MOST_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MOST_DEPTH} deep")
        if total > MOST_NODES:
            raise yaml.YAMLError(f"it stands for more than {MOST_NODES} values")
