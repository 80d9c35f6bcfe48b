"""The choice of what grows, a few output channels of a layer at a time: nothing of dense size is held."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ndsnn.errors import NonFiniteError, SparsityError
from ndsnn.ranks import ALONE, Ranks
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.handle import GrowthScore
from ndsnn.sparse.selection import largest

_BLOCK_PLACES = 1 << 16
"""Places that are looked at together where no gradient sets the pace."""

_BLOCKS = 8
"""Least number of such blocks in a layer of many channels, so that a block is small beside any layer."""


class Candidates:
    """The best of all places that were offered: those that `largest` over all at once would take.

    Places are offered in ascending order of position. At most 1½ times `limit` of them are held.

    Args:
        limit: How many of the best are kept.
        device: Where they are kept.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit = limit
        self._positions = [torch.empty(0, dtype=torch.int64, device=device)]
        self._scores: list[Tensor] = []
        self._held = 0
        self._threshold: Tensor | None = None

    def offer(self, positions: Tensor, scores: Tensor) -> None:
        """Take in places [m] with their scores [m]."""
        if not self.limit:
            return
        if self._threshold is not None:
            # A later place loses a tie, so it must be better than the worst that is kept.
            better = scores > self._threshold
            positions, scores = positions[better], scores[better]
        self._positions.append(positions)
        self._scores.append(scores)
        self._held += len(positions)
        if self._held > self.limit + self.limit // 2:
            self.best()

    def best(self) -> tuple[Tensor, Tensor]:
        """Return positions and scores of the best `limit` places, or of all if there are fewer, by position."""
        positions = torch.cat(self._positions)
        scores = torch.cat(self._scores) if self._scores else torch.empty(0, device=positions.device)
        if len(positions) > self.limit:
            kept = largest(scores, self.limit)
            positions, scores = positions[kept], scores[kept]
            self._threshold = scores.min()
        self._positions, self._scores, self._held = [positions], [scores], len(positions)
        return positions, scores


class _Places:
    """Where the alive and the inactive places of some output channels are.

    Args:
        module: The layer; its topology must not change meanwhile.
    """

    def __init__(self, module: CompressedModule) -> None:
        self.channels = module.dense_shape[0]
        self.per_channel = module.size // self.channels
        self.device = module.weight.device
        self._positions = module.positions
        if self._positions is None:
            self._starts = [channel * self.per_channel for channel in range(self.channels + 1)]
        else:
            first = torch.arange(self.channels + 1, device=self.device) * self.per_channel
            self._starts = torch.searchsorted(self._positions, first.to(self._positions.dtype)).tolist()

    def alive(self, first: int, last: int) -> tuple[slice, Tensor | slice]:
        """Return which alive weights channels `first` … `last` − 1 have, and their places counted from `first`."""
        own = slice(self._starts[first], self._starts[last])
        if self._positions is None:
            return own, slice(None)
        return own, self._positions[own].long() - first * self.per_channel

    def inactive(self, first: int, last: int) -> Tensor:
        """Return the inactive places of channels `first` … `last` − 1, counted from `first`."""
        _, alive = self.alive(first, last)
        free = torch.ones((last - first) * self.per_channel, dtype=torch.bool, device=self.device)
        free[alive] = False
        return torch.nonzero(free).flatten()


def best_without_gradient(module: CompressedModule, count: int, score: GrowthScore) -> tuple[Tensor, Tensor]:
    """Return positions and scores of the `count` best inactive places by a score that needs no gradient."""
    places, candidates = _Places(module), Candidates(count, module.weight.device)
    for first, last in _blocks(places):
        positions = places.inactive(first, last) + first * places.per_channel
        candidates.offer(positions, score(positions, None))
    return candidates.best()


def _blocks(places: _Places) -> Iterator[tuple[int, int]]:
    step = _channels_at_once(places)
    for first in range(0, places.channels, step):
        yield first, min(first + step, places.channels)


def _channels_at_once(places: _Places) -> int:
    return max(1, min(_BLOCK_PLACES // places.per_channel, places.channels // _BLOCKS))


class GrowthStream:
    """The dense gradient of one layer in one backward pass, of which only what may grow is kept: a sink.

    Where several ranks train, the mean of their gradients is scored. It is taken in blocks of channels that depend
    on the layer alone, however the engine cuts the gradient into pieces, so that all ranks take the same.

    Args:
        name: The layer, for messages.
        module: The layer's module.
        limit: How many candidates to keep.
        score: Scores inactive places.
        ranks: Those whose gradients count.
    """

    def __init__(
        self, name: str, module: CompressedModule, limit: int, score: GrowthScore, ranks: Ranks = ALONE
    ) -> None:
        self.name, self.limit = name, min(limit, module.size - module.nnz)
        self.finite = True
        self.alive_gradient = torch.zeros_like(module.weight.detach())
        self.accumulated: tuple[Tensor, int] | None = None
        self.backward_pass = current_backward_pass()
        self._places, self._score = _Places(module), score
        self._candidates = Candidates(self.limit, module.weight.device)
        self._next_channel = self._taken = 0
        self._refusal: NonFiniteError | None = None
        self._ranks, self._waiting, self._filled = ranks, torch.empty(0), 0

    @property
    def complete(self) -> bool:
        """Whether all output channels have come."""
        return self._taken == self._places.channels

    @torch.no_grad()
    def __call__(self, first_channel: int, gradient: Tensor) -> None:
        """Take the gradient [channels, …] of the output channels from `first_channel` on.

        Raises:
            SparsityError: They are not the channels that come next.
        """
        places, flat = self._places, gradient.detach().reshape(-1)
        last = first_channel + gradient.shape[0]
        if (
            first_channel != self._next_channel
            or last > places.channels
            or flat.numel() != (last - first_channel) * places.per_channel
        ):
            raise SparsityError(
                f"layer {self.name!r} was handed a gradient of shape {tuple(gradient.shape)} for the output "
                f"channels from {first_channel} on; those from {self._next_channel} of {places.channels} come next"
            )
        self._next_channel = last
        if self._ranks.alone:
            self._take(first_channel, last, flat)
        else:
            self._average(flat)

    def _average(self, flat: Tensor) -> None:
        """Put a piece behind those that wait, and take the mean over ranks of all blocks that are whole."""
        places, begin = self._places, 0
        while begin < len(flat):
            first = self._taken
            last = min(first + _channels_at_once(places), places.channels)
            whole = (last - first) * places.per_channel
            if not len(self._waiting):
                self._waiting, self._filled = flat.new_empty(whole), 0
            count = min(whole - self._filled, len(flat) - begin)
            self._waiting[self._filled : self._filled + count] = flat[begin : begin + count]
            self._filled += count
            begin += count
            if self._filled == whole:
                self._take(first, last, self._ranks.average_(self._waiting, "growth"))
                self._waiting = flat.new_empty(0)

    def _take(self, first_channel: int, last: int, flat: Tensor) -> None:
        """Look at the gradient of channels `first_channel` … `last` − 1."""
        places, self._taken = self._places, last
        self.finite = self.finite and bool(torch.isfinite(flat).all())
        own, alive = places.alive(first_channel, last)
        self.alive_gradient[own] = flat[alive]
        if self.limit and self.finite and self._refusal is None:
            self._offer(places.inactive(first_channel, last), first_channel * places.per_channel, flat)

    def _offer(self, free: Tensor, begin: int, gradient: Tensor) -> None:
        """Score the inactive places; a refusal waits for the step, as nothing may fail in the backward pass."""
        positions = free + begin
        try:
            self._candidates.offer(positions, self._score(positions, gradient[free]))
        except NonFiniteError as error:
            self._refusal = error

    def best(self) -> tuple[Tensor, Tensor]:
        """Return positions and scores of the kept candidates.

        Raises:
            NonFiniteError: A score is not finite.
        """
        if self._refusal is not None:
            raise self._refusal
        return self._candidates.best()


def current_backward_pass() -> int:
    """Return a number that tells the backward pass under way from all others; −1 outside of one."""
    number: int = torch._C._current_graph_task_id()
    return number
