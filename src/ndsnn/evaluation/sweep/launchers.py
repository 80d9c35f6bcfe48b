"""Where the cells of a sweep run: as processes on this machine, or by Ray on many."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ndsnn.errors import RunError
from ndsnn.training.run_directory import LOCK, RunDirectory
from ndsnn.training.signals import STOPPING, WARNING

STOPPED = tuple(code for number in (*STOPPING, WARNING) for code in (128 + number, -number))
"""Exit codes of a run that was told to stop: with a checkpoint saved, or before it had done anything."""

PR_SET_PDEATHSIG = 1
"""Linux prctl option: the signal that a process gets when its parent dies."""


@dataclass(frozen=True)
class Job:
    """One cell to run.

    Args:
        name: Of the cell.
        config: File with all settings of a new run.
        run: The run directory.
        log: File to append all output to.
        threads: CPU threads.
        data_root: Folder of the data where it is not the default one.
    """

    name: str
    config: Path
    run: Path
    log: Path
    threads: int
    data_root: str | None = None


@dataclass(frozen=True)
class Ended:
    """A cell that is no longer running.

    Args:
        name: Of the cell.
        code: Exit code, negative for a signal that it died of.
        message: Its last line, or what became of it.
    """

    name: str
    code: int
    message: str


class Launcher(Protocol):
    """Runs jobs side by side."""

    @property
    def slots(self) -> int:
        """How many jobs may run at once."""

    def start(self, job: Job) -> None:
        """Begin a job, or continue it from its checkpoint."""

    def poll(self) -> list[Ended]:
        """Return the jobs that have ended since the last call."""

    def stop(self) -> None:
        """Tell all running jobs to save a checkpoint and end."""

    def close(self) -> None:
        """Let go of everything; jobs that still run are killed."""


def train_arguments(job: Job) -> list[str] | None:
    """Return the command line of `ndsnn train` that begins or continues a job; None if it is finished."""
    run = RunDirectory(job.run)
    if run.exists and run.finished:
        return None
    if not run.exists:
        return ["--config", str(job.config)]
    arguments = ["--output", str(job.run), "--resume", "true", "--threads", str(job.threads)]
    return arguments + (["--data.root", job.data_root] if job.data_root else [])


def start_process(
    job: Job, arguments: list[str], environment: Mapping[str, str], directory: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `ndsnn train` in a session of its own, so that a terminal's Ctrl-C reaches it through the sweep only.

    Where the system can, it is told to save and stop when this process dies.

    Args:
        job: What to run.
        arguments: Of `ndsnn train`.
        environment: Variables besides those of this process.
        directory: Current directory; None keeps that of this process.

    Raises:
        RunError: It cannot be started.
    """
    variables = {
        **os.environ,
        **environment,
        "OMP_NUM_THREADS": str(job.threads),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        return _start(job.log, arguments, variables, directory)
    except OSError as error:
        raise RunError(f"cannot start {job.name}: {error}") from error


def _start(
    log_file: Path, arguments: list[str], variables: dict[str, str], directory: Path | None
) -> subprocess.Popen[bytes]:
    with open(log_file, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ndsnn", "train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=directory,
            start_new_session=True,
            close_fds=False,
            preexec_fn=_stop_with_parent,
        )


def describe_end(job: Job, code: int) -> str:
    """Return the last line of a job's log, and the signal it died of."""
    last = last_line(job.log)
    if code >= 0:
        return last or f"exit code {code} without a word"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}" + (f"; its last line: {last}" if last else "")
    return f"killed by signal {-code}"


def last_line(path: Path) -> str:
    """Return the last line of a file that is not blank; empty where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    written = [line.strip() for line in lines if line.strip()]
    return written[-1] if written else ""


def wait_until_free(run: Path, seconds: float) -> bool:
    """Wait until no process trains in a run directory; return whether that is so."""
    deadline = time.monotonic() + seconds
    while (run / LOCK).exists():
        with open(run / LOCK, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.2)
    return True


class LocalLauncher:
    """Runs jobs as processes on this machine.

    Args:
        workers: How many at once.
        keep: A descriptor that the processes inherit: the sweep's lock.
    """

    def __init__(self, workers: int, keep: int) -> None:
        self._workers = workers
        self._running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        os.set_inheritable(keep, True)

    @property
    def slots(self) -> int:
        """How many jobs may run at once."""
        return self._workers

    def start(self, job: Job) -> None:
        """Begin a job, or continue it from its checkpoint."""
        arguments = train_arguments(job)
        assert arguments is not None, f"{job.name} is finished"
        self._running[job.name] = job, start_process(job, arguments, {})

    def poll(self) -> list[Ended]:
        """Return the jobs that have ended since the last call."""
        ended = []
        for name, (job, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[name]
                ended.append(Ended(name, code, describe_end(job, code)))
        return ended

    def stop(self) -> None:
        """Tell all running jobs to save a checkpoint and end."""
        for _, process in self._running.values():
            process.terminate()

    def close(self) -> None:
        """Kill what still runs."""
        for _, process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()


def _stop_with_parent() -> None:
    if _PRCTL is not None:
        _PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
