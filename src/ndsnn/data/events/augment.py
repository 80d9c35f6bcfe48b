"""Augmentation of frames of events, a whole batch at once: flip, roll, shift, drop, cutout, in this order.

All frames and polarities of a recording are changed alike, so that what moves keeps moving as it did. The
arithmetic is NumPy's, as for images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ndsnn.config import EventConfig
from ndsnn.data.samples import Within
from ndsnn.errors import ConfigError, ShapeError


class EventDraws(NamedTuple):
    """The random numbers of one batch, each [N]; None for what is switched off.

    Attributes:
        flip: Whether a recording is mirrored left to right.
        roll: By how many rows and columns it is rolled down and to the right, int64 [N, 2].
        shift: By how many it is shifted, int64 [N, 2].
        cutout: Row and column of the centre of its cutout, int64 [N, 2].
        drop_seed: Seeds of the events that are dropped, int64 [N].
    """

    flip: np.ndarray | None
    roll: np.ndarray | None
    shift: np.ndarray | None
    cutout: np.ndarray | None
    drop_seed: np.ndarray | None

    def part(self, first: int, count: int) -> EventDraws:
        """Return the numbers of `count` recordings from the row `first` on."""
        return EventDraws(*(None if drawn is None else drawn[first : first + count] for drawn in self))


@dataclass(frozen=True)
class EventAugmentation:
    """Random changes of frames of counts; without settings the counts are shown as they are.

    Attributes:
        flip: Whether a recording is mirrored left to right with probability 1/2.
        roll: Most pixels by which it is rolled in x and in y; what leaves on one side comes in on the other.
        shift: Most pixels by which it is shifted in x and in y; zeros come in.
        drop: Share of the events that is dropped, each by itself.
        cutout: Side of the square that is emptied; its centre is uniform over the map, an odd side counts as the
            even one below, as for images.
    """

    flip: bool = False
    roll: int = 0
    shift: int = 0
    drop: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        for key in ("roll", "shift", "cutout"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"data.events.{key} must be an integer of 0 or more, not {value!r}")
        if not 0 <= self.drop < 1:
            raise ConfigError(f"data.events.drop must be in [0, 1), not {self.drop}")
        if self.roll and self.shift:
            raise ConfigError("data.events.roll and data.events.shift exclude each other; set one of them to 0")

    def __call__(self, counts: Tensor, generator: torch.Generator, within: Within | None = None) -> Tensor:
        """Augment a batch.

        Args:
            counts: uint8 or uint16 [N, T, C, H, W]; left as they are.
            generator: Source of all random numbers.
            within: Which part of a batch the recordings are, None where they are all of it.

        Returns:
            float32 [T, N, C, H, W], contiguous.

        Raises:
            ShapeError: The counts have other axes or another type.
        """
        if counts.dtype not in (torch.uint8, torch.uint16) or counts.ndim != 5:
            raise ShapeError(f"expected uint8 or uint16 [N,T,C,H,W], not {counts.dtype} {list(counts.shape)}")
        first, count = within or Within(0, len(counts))
        draws = self.draw(count, counts.shape[3], counts.shape[4], generator)
        return self.apply(counts, draws.part(first, len(counts)))

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> EventDraws:
        """Draw the random numbers of `count` recordings of `height` × `width`; one row moves in x only."""

        def offsets(most: int) -> np.ndarray | None:
            if not most:
                return None
            limits = [min(most, side - 1) for side in (height, width)]
            drawn = [torch.randint(-limit, limit + 1, (count,), generator=generator) for limit in limits]
            return torch.stack(drawn, 1).numpy()

        def centres() -> np.ndarray:
            drawn = [torch.randint(side, (count,), generator=generator) for side in (height, width)]
            return torch.stack(drawn, 1).numpy()

        return EventDraws(
            flip=torch.randint(2, (count,), generator=generator).bool().numpy() if self.flip else None,
            roll=offsets(self.roll),
            shift=offsets(self.shift),
            cutout=centres() if self.cutout else None,
            drop_seed=torch.randint(2**62, (count,), generator=generator).numpy() if self.drop else None,
        )

    def apply(self, counts: Tensor, draws: EventDraws) -> Tensor:
        """Augment a batch by given random numbers.

        Args:
            counts: uint8 or uint16 [N, T, C, H, W].
            draws: From `draw`.

        Returns:
            float32 [T, N, C, H, W], contiguous.
        """
        frames = counts.numpy().copy()
        if draws.flip is not None:
            frames[draws.flip] = frames[draws.flip][..., ::-1]
        for offsets, move in ((draws.roll, _rolled), (draws.shift, _shifted)):
            if offsets is not None:
                for row, (down, right) in enumerate(offsets):
                    frames[row] = move(frames[row], int(down), int(right))
        if draws.drop_seed is not None:
            for one, seed in zip(frames, draws.drop_seed, strict=True):
                alive = np.nonzero(one)
                one[alive] = np.random.Generator(np.random.PCG64(int(seed))).binomial(one[alive], 1 - self.drop)
        if draws.cutout is not None:
            half = self.cutout // 2
            for row, (y, x) in enumerate(draws.cutout):
                frames[row, ..., max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return torch.from_numpy(np.ascontiguousarray(frames.swapaxes(0, 1), dtype=np.float32))


def augmentation_of(settings: EventConfig) -> EventAugmentation:
    """Return the augmentation that settings ask for; what is left open is off.

    Raises:
        ConfigError: A setting is out of range, or two exclude each other.
    """
    names = EventAugmentation.__dataclass_fields__
    return EventAugmentation(**{name: value for name in names if (value := getattr(settings, name)) is not None})


def _rolled(frames: np.ndarray, down: int, right: int) -> np.ndarray:
    return np.roll(frames, (down, right), (-2, -1))


def _shifted(frames: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = frames.shape[-2:]
    moved = np.zeros_like(frames)
    target = (slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
    source = (slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
    moved[..., target[0], target[1]] = frames[..., source[0], source[1]]
    return moved
