"""Framed recordings: labelled sets that stay on the disk, and the data set they are split from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ndsnn.data.events.augment import EventAugmentation
from ndsnn.data.events.framing import Framing
from ndsnn.data.samples import Augment, SampleSet, SplitData
from ndsnn.errors import ShapeError


@dataclass(frozen=True, eq=False)
class EventSet(SampleSet):
    """Labelled recordings as frames of counts.

    Attributes:
        frames: uint8 or uint16 [M, T, C, H, W], usually mapped from a file; this set has some of its rows.
        rows: int64 [N], which.
        labels: int64 [N], class indices from 0.
    """

    frames: np.ndarray
    rows: np.ndarray
    labels: Tensor

    def __post_init__(self) -> None:
        if self.frames.dtype not in (np.uint8, np.uint16) or self.frames.ndim != 5:
            raise ShapeError(
                f"frames must be uint8 or uint16 [M,T,C,H,W], not {self.frames.dtype} {list(self.frames.shape)}"
            )
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != self.rows.shape:
            raise ShapeError(
                f"labels must be int64 [{len(self.rows)}], not {self.labels.dtype} {list(self.labels.shape)}"
            )

    def samples(self, rows: np.ndarray) -> Tensor:
        """Copy the counts at `rows` (int64 [M]) out of the file, uint8 or uint16 [M, T, C, H, W]."""
        return torch.from_numpy(np.ascontiguousarray(self.frames[self.rows[rows]]))

    def inputs(self, rows: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """Return the counts at `rows` as a network takes them, float32 [T, M, C, H, W]; nothing is normalised."""
        return as_inputs(self.frames[self.rows[rows]])

    def take(self, rows: np.ndarray) -> EventSet:
        """Return the recordings at `rows` (int64 [M]) as a set of the same file."""
        return EventSet(self.frames, self.rows[rows], self.labels[torch.from_numpy(rows)])


def as_inputs(counts: np.ndarray) -> Tensor:
    """Turn counts [N, T, C, H, W] into float32 [T, N, C, H, W], contiguous."""
    return torch.from_numpy(np.ascontiguousarray(counts.swapaxes(0, 1), dtype=np.float32))


@dataclass(frozen=True, eq=False)
class EventData(SplitData):
    """A data set of events, split, with the test set out of reach until `test` is called; see `SplitData`.

    `mean` is 0 and `std` is 1/255 for every channel, which says that a count is shown as it is.

    Attributes:
        train: What is trained on.
        validation: Held out of the official training recordings by a fixed seed.
        load_test: Maps the test recordings; call `test` instead.
        framing: How the recordings were cut.
        augment: What training frames go through where augmentation is on.
    """

    train: EventSet
    validation: EventSet
    load_test: Callable[[], EventSet] = field(repr=False)
    framing: Framing
    augment: EventAugmentation

    @property
    def channels(self) -> int:
        """Number of polarities, C."""
        return int(self.train.frames.shape[2])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a frame, (H, W)."""
        return int(self.train.frames.shape[3]), int(self.train.frames.shape[4])

    @property
    def time_steps(self) -> int:
        """Number of frames, T."""
        return int(self.train.frames.shape[1])

    def augmentation(self, enabled: bool = True) -> Augment:
        """Return `augment`, or an augmentation that leaves the counts as they are."""
        return self.augment if enabled else EventAugmentation()

    def test(self) -> EventSet:
        """Map the official test recordings, which nothing touches before this call; see `SplitData.test`."""
        return self.load_test()


def fingerprint(digests: tuple[str, str], train: EventSet, validation: EventSet, split_seed: int) -> str:
    """Hash what a run learns from: the checksums of the file of frames and of its labels, and the split.

    Args:
        digests: SHA-256 of frames and labels, as the manifest has them.
        train: Training part.
        validation: Validation part.
        split_seed: Seed of the split.

    Returns:
        SHA-256, 64 hex digits.
    """
    digest = hashlib.sha256(f"ndsnn event data 1, {' '.join(digests)}, split seed {split_seed}".encode())
    for part in (train, validation):
        digest.update(str(part.rows.shape).encode())
        digest.update(np.ascontiguousarray(part.rows, np.int64).data)
    return digest.hexdigest()
