"""Real processes that find each other as those of torchrun do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process, and one thread for it."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "sparse")]),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(count: int, *arguments: str, each: dict[int, list[str]] | None = None) -> list[subprocess.Popen]:
    """Start `count` Python processes, with further arguments for some of them."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments, *(each or {}).get(rank, [])],
            env=environment(rank, count, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def run_checks(count: int, directory: Path, *names: str) -> list[dict]:
    """Let `count` processes do checks of rank_checks.py; return what each of them found."""
    processes = start(count, str(HERE / "rank_checks.py"), str(directory), *names)
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(count)]
