"""The directory of a run and its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ndsnn.atomic import exclusive_lock, replaced_directory, write_atomically
from ndsnn.config_parser import CONFIG_FILE
from ndsnn.errors import RunError
from ndsnn.json_lines import append_rows, read_rows

CONFIG = CONFIG_FILE
METRICS = "metrics.jsonl"
TOPOLOGY = "topology.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
ROUNDS = "rounds"
LOCK = ".lock"
OWN_ENTRIES = {CONFIG, METRICS, TOPOLOGY, SUMMARY, CHECKPOINTS, TENSORBOARD, ROUNDS, LOCK} | {
    f"{name}.tmp" for name in (CONFIG, METRICS, TOPOLOGY, SUMMARY)
}
"""Everything that a run directory may hold."""


class RunDirectory:
    """The files of one run.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS

    def best(self, epoch: int) -> Path:
        """Return the file of the network that was best by validation after `epoch` epochs."""
        return self.checkpoints / f"best-{epoch}.safetensors"

    def round(self, number: int) -> Path:
        """Return the directory of a round of a lottery-ticket run, itself a run directory."""
        return self.path / ROUNDS / f"{number:02}"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / CONFIG).is_file() and self.checkpoints.is_dir()

    @property
    def finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.path / SUMMARY).is_file()

    def require_free(self, overwrite: bool) -> None:
        """Check that a new run may begin here, without touching anything.

        Raises:
            RunError: There is a run and `overwrite` is false, or something that is no run or more than a run.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not self.exists:
            raise RunError(f"{self.path} exists and is no run directory; choose another output")
        if not overwrite:
            raise RunError(
                f"there is a run in {self.path} already; go on with --resume or delete it with --overwrite"
            )
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in OWN_ENTRIES)
        if foreign:
            raise RunError(
                f"{self.path} holds {foreign[0]!r}, which is no part of a run; move it away before you overwrite"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this directory meanwhile.

        Raises:
            RunError: One does so already.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive_lock(self.path / LOCK))
            except BlockingIOError as error:
                raise RunError(f"another process is training in {self.path}; wait for it or stop it") from error
            except OSError as error:
                raise RunError(f"cannot write {self.path / LOCK}: {error.strerror or error}") from error
            yield

    def require_space(self, needed: int) -> None:
        """Check that the disk has room for `needed` bytes.

        Raises:
            RunError: It has not.
        """
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free
        if free < needed:
            raise RunError(
                f"no disk space for the run in {self.path}: its checkpoints need {needed / 1e6:.1f} MB, "
                f"{free / 1e6:.1f} MB are free"
            )

    def create(self, config_yaml: str, overwrite: bool = False) -> None:
        """Make the directory with its configuration, whole or not at all, in place of an older run if asked to.

        Raises:
            RunError: It cannot be written, or there is something in its place.
        """
        self.require_free(overwrite)
        try:
            with replaced_directory(self.path) as new:
                (new / CHECKPOINTS).mkdir()
                for name in (METRICS, TOPOLOGY):
                    (new / name).touch()
                write_atomically(new / CONFIG, config_yaml.encode())
        except OSError as error:
            raise RunError(f"cannot create the run directory {self.path}: {error.strerror or error}") from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json in one step."""
        self._write(SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any]:
        """Return summary.json.

        Raises:
            RunError: The run is not finished, or the file is broken.
        """
        if not self.finished:
            raise RunError(f"the run in {self.path} is not finished; there is no {SUMMARY}")
        try:
            summary = json.loads((self.path / SUMMARY).read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / SUMMARY} is truncated or altered: {error}") from error
        return dict(summary)

    def append(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Append one JSON object per line to `name` and bring it to the disk, before a checkpoint counts on it."""
        try:
            append_rows(self.path / name, rows)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror or error}") from error

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Return the whole lines of `name`; a last line that was cut off by a kill is left out.

        Raises:
            RunError: A line before the last is broken.
        """
        rows, broken = read_rows(self.path / name)
        if broken:
            raise RunError(broken[0])
        return rows

    def keep_rows(self, name: str, key: str, last: int) -> None:
        """Rewrite `name` with the rows whose `key` is at most `last`; a resumed run writes the others again."""
        rows = [row for row in self.read_rows(name) if row[key] <= last]
        self._write(name, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_atomically(self.path / name, data)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror or error}") from error
