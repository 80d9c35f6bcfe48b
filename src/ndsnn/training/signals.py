"""SIGTERM, SIGINT and SIGUSR1 as a wish to stop at the next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)
"""Of these, a second one has its usual effect."""

WARNING = signal.SIGUSR1
"""What batch systems send some time before they stop a job (Slurm: --signal=USR1@120)."""


class RunInterrupted(Exception):
    """Work was stopped by a signal at a point from which it can go on.

    Args:
        message: What was saved and how to go on.
        signal_number: The signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """Whether a signal has asked to stop, and which was the first."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self) -> bool:
        """Say whether a signal came."""
        return self.signal_number is not None


def interrupting(call: Callable[..., None], stop: StopRequest, what: str) -> Callable[..., None]:
    """Return `call` preceded by a look at `stop`.

    Args:
        call: What is called again and again, each time at a point from which the work can go on.
        stop: Whether a signal came; the call then raises RunInterrupted.
        what: What is stopped, and how to go on.
    """

    def checked(*arguments: Any) -> None:
        if stop.signal_number is not None:
            raise RunInterrupted(
                f"stopped by {signal.Signals(stop.signal_number).name} {what}", stop.signal_number
            )
        call(*arguments)

    return checked


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Note SIGTERM, SIGINT and SIGUSR1 instead of dying of them.

    After the first SIGTERM or SIGINT, another one has its usual effect. SIGUSR1 never has: it announces that a
    SIGTERM may follow, which must not cut off the checkpoint that it asks for.

    Outside the main thread, where Python takes no handlers, nothing is ever noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (*STOPPING, WARNING)}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal_number = request.signal_number or number
        if number in STOPPING:
            for each in STOPPING:
                signal.signal(each, before[each])

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
