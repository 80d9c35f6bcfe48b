"""Cells on the machines of a Ray cluster (extra "ray"); their directories lie on a file system that all share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ndsnn.errors import MissingDependencyError, RunError
from ndsnn.evaluation.sweep.launchers import (
    STOPPED,
    Ended,
    Job,
    describe_end,
    start_process,
    train_arguments,
    wait_until_free,
)

LOST_NODES = 20
"""How many times in a row a cell may lose its node before it counts as failed."""

RELEASE_SECONDS = 120.0
"""How long a cell waits for the process that it had on a lost node to let go of the run directory."""

POLL_SECONDS = 0.3
SLOTS_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Where and how a cell's process runs on whatever node it comes to.

    Args:
        directory: Current directory, on the shared file system.
        stop: A file that appears there when all cells are to stop.
        environment: Variables besides the node's own.
    """

    directory: Path
    stop: Path
    environment: Mapping[str, str]


class RayLauncher:
    """Runs jobs as tasks of a Ray cluster; one whose node is lost goes on elsewhere from its checkpoint.

    Args:
        address: Of the cluster; None takes RAY_ADDRESS, else begins one on this machine.
        threads: CPUs of each job.
        workers: Most jobs at once; None: as many as there are CPUs for.
        stop: File on the shared file system by which jobs are told to stop.

    Raises:
        MissingDependencyError: Ray is not installed.
        RunError: The cluster cannot be reached, or no node has so many CPUs.
    """

    def __init__(self, address: str | None, threads: int, workers: int | None, stop: Path) -> None:
        self._ray, self._threads, self._workers = require_ray(), threads, workers
        self._own = not self._ray.is_initialized()
        if self._own:
            try:
                self._ray.init(address=address, log_to_driver=False, include_dashboard=False)
            except Exception as error:  # of many kinds, some of them plain
                raise RunError(f"no Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
        self._stop = stop.absolute()
        self._stop.unlink(missing_ok=True)
        here = {key: value for key, value in os.environ.items() if key.startswith("NDSNN_")}
        self._place = Place(Path.cwd(), self._stop, here)
        self._task = self._ray.remote(num_cpus=threads, max_retries=LOST_NODES)(run_cell)
        self._running: dict[str, Any] = {}
        self._slots, self._counted = self._count_slots(), time.monotonic()
        if not self._slots:
            self.close()
            raise RunError(f"no node of the Ray cluster has {threads} CPUs; give fewer --threads")

    @property
    def slots(self) -> int:
        """How many jobs may run at once; nodes come and go."""
        if time.monotonic() - self._counted > SLOTS_SECONDS:
            self._slots, self._counted = self._count_slots(), time.monotonic()
        return max(1, self._slots if self._workers is None else self._workers)

    def start(self, job: Job) -> None:
        """Begin a job, or continue it from its checkpoint."""
        here = self._place.directory
        job = replace(job, config=here / job.config, run=here / job.run, log=here / job.log)
        self._running[job.name] = self._task.remote(job, self._place)

    def poll(self) -> list[Ended]:
        """Return the jobs that have ended since the last call."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running.values()), num_returns=len(self._running), timeout=0)
        return [self._ended(name) for name, task in list(self._running.items()) if task in ready]

    def stop(self) -> None:
        """Tell all running jobs to save a checkpoint and end."""
        self._stop.touch()

    def close(self) -> None:
        """Leave the cluster, which kills what still runs."""
        for task in self._running.values():
            with contextlib.suppress(Exception):
                self._ray.cancel(task, force=True)
        self._running.clear()
        if self._own:
            self._ray.shutdown()
        self._stop.unlink(missing_ok=True)

    def _ended(self, name: str) -> Ended:
        task = self._running.pop(name)
        try:
            code, message = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            code, message = 1, f"lost by Ray: {' '.join(str(error).split())}"
        return Ended(name, code, message)

    def _count_slots(self) -> int:
        nodes = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return sum(int(cpus) // self._threads for cpus in nodes)


def run_cell(job: Job, place: Place) -> tuple[int, str]:
    """Run a cell to its end on this node, from its checkpoint if it has one.

    Returns:
        The exit code and the last line of its log.
    """
    if place.stop.exists():
        return STOPPED[0], "stopped before it began"
    if not job.config.is_file():
        return (
            2,
            f"{job.config} is not on {socket.gethostname()}; the sweep must lie on a file system that all share",
        )
    if not wait_until_free(job.run, RELEASE_SECONDS):
        return 2, f"another process is training in {job.run}"
    arguments = train_arguments(job)
    if arguments is None:
        return 0, "finished already"
    with open(job.log, "a", encoding="utf-8") as log:
        log.write(f"ndsnn: on {socket.gethostname()}, Ray node {_node()}\n")
    process = start_process(job, arguments, place.environment, place.directory)
    try:
        return _watch(process, place.stop, job)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def require_ray() -> Any:
    """Return Ray.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "--launcher ray needs Ray; install it on all machines with: pip install 'ndsnn[ray]'"
        ) from error
    return ray


def _watch(process: subprocess.Popen[bytes], stop: Path, job: Job) -> tuple[int, str]:
    told = False
    while (code := process.poll()) is None:
        if not told and stop.exists():
            told = True
            process.terminate()
        time.sleep(POLL_SECONDS)
    return code, describe_end(job, code)


def _node() -> str:
    return str(require_ray().get_runtime_context().get_node_id())
