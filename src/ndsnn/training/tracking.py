"""TensorBoard events of a run, for those who ask for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ndsnn.errors import MissingDependencyError, RunError
from ndsnn.training.run_directory import TENSORBOARD


class Tracker:
    """Writes each epoch's figures as TensorBoard scalars.

    Args:
        directory: Run directory; events go to its folder "tensorboard".
        enabled: Whether to write anything.
        step: Step from which events of an interrupted run are taken back.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
        RunError: Its events cannot be written, here and in all methods.
    """

    def __init__(self, directory: Path, enabled: bool, step: int) -> None:
        self._writer: Any = None
        self._directory = directory / TENSORBOARD
        if enabled:
            writer = require_tensorboard()
            with self._writing():
                self._writer = writer(log_dir=str(self._directory), purge_step=step + 1 if step else None)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is None:
            return
        if error[0] is not None:
            # What ends the run is the message, not what TensorBoard's own thread has come to.
            with suppress(OSError):
                self._writer.close()
            return
        with self._writing():
            self._writer.close()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch."""
        if self._writer is None:
            return
        with self._writing():
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None:
                    self._writer.add_scalar(name, value, row["step"])
            self._writer.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"cannot write TensorBoard's events in {self._directory}: {error.strerror or error}; the last "
                f"checkpoint is untouched: mend this and go on with --resume, or with --tensorboard false"
            ) from error


def require_tensorboard() -> Any:
    """Return TensorBoard's event writer.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "tensorboard events need TensorBoard; install it with: pip install 'ndsnn[track]'"
        ) from error
    return SummaryWriter
