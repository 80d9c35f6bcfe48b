"""The directory of a report: whole or not at all, and never in place of anything but a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndsnn.atomic import replaced_directory, write_atomically
from ndsnn.errors import RunError
from ndsnn.parsing import read_json

MANIFEST = "report.json"


def replace_report(directory: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write the files of a report beside `directory`, then put them in its place.

    Args:
        directory: Where the report goes.
        files: Content by name.
        facts: What else the manifest says.

    Raises:
        RunError: The directory holds something that is no part of a report, or cannot be written.
    """
    require_free(directory)
    manifest = json.dumps(dict(facts) | {"files": sorted(files)}, indent=2, ensure_ascii=False) + "\n"
    try:
        with replaced_directory(directory) as new:
            for name, data in (*files.items(), (MANIFEST, manifest.encode())):
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(new / name, data)
    except OSError as error:
        raise RunError(f"cannot write the report {directory}: {error.strerror or error}") from error


def require_free(directory: Path) -> None:
    """Check that a report may go to `directory`.

    Raises:
        RunError: It is a file, or holds something that is not a file of the report there.
    """
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory} is a file; choose another directory for the report")
    if not directory.exists() or not any(directory.iterdir()):
        return
    try:
        known = {MANIFEST, *read_json(directory / MANIFEST)["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{directory} exists and is no report; choose another directory") from error
    present = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    foreign = sorted(present - known)
    if foreign:
        raise RunError(f"{directory} holds {foreign[0]!r}, which is no part of the report there; move it away")
