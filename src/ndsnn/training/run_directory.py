"""The directory of a run and its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ndsnn.atomic import exclusive_lock, replaced_directory, write_atomically
from ndsnn.checksums import seal_holds, sealed, sha256
from ndsnn.config_parser import CONFIG_FILE, sealed_config
from ndsnn.errors import RunError
from ndsnn.json_lines import RowLog, read_rows
from ndsnn.parsing import parse_json, read_bytes

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
        self._logs = {name: RowLog(self.path / name) for name in (METRICS, TOPOLOGY)}

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
                write_atomically(new / CONFIG, sealed_config(config_yaml))
        except OSError as error:
            raise RunError(f"cannot create the run directory {self.path}: {error.strerror or error}") from error

    def write_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write summary.json in one step, with checksums of the rows and of itself.

        Returns:
            What is written.
        """
        files = {name: log.written["sha256"] for name, log in self._logs.items()}
        whole: dict[str, Any] = dict(summary) | {"files": files}

        def text(digits: str) -> bytes:
            whole["sha256"] = digits
            return (json.dumps(whole, indent=2) + "\n").encode()

        self._write(SUMMARY, sealed(text))
        return whole

    def read_summary(self) -> dict[str, Any]:
        """Return summary.json.

        Raises:
            RunError: The run is not finished, or the file is broken.
        """
        if not self.finished:
            raise RunError(f"the run in {self.path} is not finished; there is no {SUMMARY}")
        path = self.path / SUMMARY
        try:
            data = read_bytes(path)
            summary = dict(parse_json(data))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path} is truncated or altered: {error}") from error
        if "sha256" in summary and not seal_holds(data, summary["sha256"]):
            raise RunError(f"{path} was altered after it was written; its checksum does not agree")
        return summary

    def require_intact_rows(self, summary: Mapping[str, Any]) -> None:
        """Check that metrics.jsonl and topology.jsonl, where they are there, are those that a summary goes with.

        Raises:
            RunError: One is not. Summaries of earlier versions don't say, so nothing is checked for them.
        """
        files = summary.get("files")
        for name, digits in files.items() if isinstance(files, dict) else ():
            path = self.path / name
            try:
                altered = name in self._logs and path.is_file() and sha256(path.read_bytes()) != digits
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
            if altered:
                raise RunError(f"{path} was altered after the run was finished; its checksum in {SUMMARY} differs")

    def append(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Append one JSON object per line to `name` and bring it to the disk, before a checkpoint counts on it.

        Raises:
            RunError: It cannot be written, or somebody else has written to it.
        """
        try:
            self._logs[name].append(rows)
        except OSError as error:
            raise self._cannot_write(name, error) from error

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Return the whole lines of `name`; a last line that was cut off by a kill is left out.

        Raises:
            RunError: A line before the last is broken.
        """
        rows, broken = read_rows(self.path / name)
        if broken:
            raise RunError(broken[0])
        return rows

    def rows_written(self) -> dict[str, Any]:
        """Return length and checksum of each file of rows, for a checkpoint to count on."""
        return {name: log.written for name, log in self._logs.items()}

    def rows_problem(self, state: Mapping[str, Any]) -> str | None:
        """Say which rows that a checkpoint counts on are not there as they were written; None if all are."""
        for name, written in state.get("rows", {}).items():
            if not self._logs[name].begins_with(written):
                return (
                    f"{self.path / name} does not begin with the {written['bytes']} bytes that the checkpoint of "
                    f"step {state['step']} counts on (truncated or altered)"
                )
        return None

    def take_back_rows(self, state: Mapping[str, Any] | None) -> None:
        """Take back the rows that were written after a checkpoint, or all; a resumed run writes them again.

        Args:
            state: Of the checkpoint, None for none. One of an earlier version does not say how many rows it had.
        """
        if state is not None and "rows" not in state:
            self.keep_rows(METRICS, "epoch", state["progress"]["epoch"])
            self.keep_rows(TOPOLOGY, "step", state["progress"]["step"])
            return
        for name, log in self._logs.items():
            try:
                log.keep(0 if state is None else state["rows"][name]["bytes"])
            except OSError as error:
                raise self._cannot_write(name, error) from error

    def keep_rows(self, name: str, key: str, last: int) -> None:
        """Rewrite `name` with the rows whose `key` is at most `last`."""
        rows = [row for row in self.read_rows(name) if row[key] <= last]
        try:
            self._logs[name].adopt("".join(json.dumps(row) + "\n" for row in rows).encode())
        except OSError as error:
            raise self._cannot_write(name, error) from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_atomically(self.path / name, data)
        except OSError as error:
            raise self._cannot_write(name, error) from error

    def _cannot_write(self, name: str, error: OSError) -> RunError:
        what = f"cannot write {self.path / name}: {error.strerror or error}"
        if not self.path.is_dir():
            return RunError(f"{what}; the directory of the run is gone, and its checkpoints with it")
        return RunError(f"{what}; its last checkpoint is untouched: mend this and go on with --resume")
