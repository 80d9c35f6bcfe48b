"""Where a method stands in its run: steps that are done, and the rounds that are due."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ndsnn.sparse.schedules import UpdateSchedule


class RoundClock:
    """Counts optimizer steps and says which of them are update steps.

    Attributes:
        schedule: The update rounds of the run, or None where the topology never changes.
        steps_done: Optimizer steps that are done.
    """

    schedule: UpdateSchedule | None
    steps_done: int

    @property
    def rounds(self) -> tuple[int, ...]:
        """The update steps of the run, counted in completed optimizer steps."""
        return () if self.schedule is None else self.schedule.steps

    @property
    def current_round(self) -> int | None:
        """The number q of the round at this step, or None between rounds."""
        return self._round_at(self.steps_done)

    @property
    def updates_next(self) -> bool:
        """Whether the next call of `step` is an update step."""
        return self._round_at(self.steps_done + 1) is not None

    @property
    def finished(self) -> bool:
        """Whether the last round is done, so that the network has its final sparsity."""
        return not self.rounds or self.steps_done >= self.rounds[-1]

    @contextmanager
    def _next_step(self) -> Iterator[None]:
        """Let `steps_done` and `current_round` be those of the step that comes next."""
        self.steps_done += 1
        try:
            yield
        finally:
            self.steps_done -= 1

    def _round_at(self, step: int) -> int | None:
        return None if self.schedule is None else self.schedule.round_at(step)

    def _rounds_planned(self) -> int:
        assert self.schedule is not None
        return self.schedule.rounds
