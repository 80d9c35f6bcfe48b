"""What images and events have in common: labelled samples, and a data set whose test part is out of reach."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Within(NamedTuple):
    """Which part of a batch some samples are.

    Attributes:
        first: Their first row in the batch.
        total: Samples of the whole batch.
    """

    first: int
    total: int


class Augment(Protocol):
    """Turns the samples of a training batch into what a network is shown, by the random numbers of a generator."""

    def __call__(self, samples: Tensor, generator: torch.Generator, within: Within | None = None, /) -> Tensor:
        """Augment a batch, or the part of a batch that `within` names as it would be in the whole batch."""


class SampleSet(ABC):
    """Labelled samples of one kind.

    Attributes:
        labels: int64 [N], class indices from 0.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def samples(self, rows: np.ndarray) -> Tensor:
        """Copy the samples at `rows` (int64 [M]) as they are stored, as an augmentation takes them."""

    @abstractmethod
    def inputs(self, rows: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """Return what a network is shown of the samples at `rows`, normalised and nothing else, float32."""


@dataclass(frozen=True, eq=False)
class SplitData(ABC):
    """A data set, split, with the test set out of reach until `test` is called.

    Attributes:
        name: Name in `SOURCES`.
        train: What is trained on.
        validation: Held out of the official training samples by a fixed seed; for every choice made in a run.
        num_classes: Number of classes.
        class_names: One per class, or empty where the data set has none.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
        fingerprint: SHA-256 (hex) of training and validation samples, labels and the split, to notice on resume
            that a file has changed.
        load_test: Reads the test set; call `test` instead.
    """

    name: str
    train: SampleSet
    validation: SampleSet
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    load_test: Callable[[], SampleSet] = field(repr=False)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of channels, C."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels, (H, W)."""

    @property
    def time_steps(self) -> int | None:
        """Steps T that the samples have themselves; None for images, which a network is shown at every step."""
        return None

    @abstractmethod
    def augmentation(self, enabled: bool = True) -> Augment:
        """Return the data set's usual augmentation of training samples, or one that only normalises them."""

    def test(self) -> SampleSet:
        """Read the official test set, which nothing touches before this call.

        Returns:
            The test samples, in the order of the files, of the channels and size of the training samples.

        Raises:
            DataError: A file is missing, truncated, corrupt or mislabelled.
        """
        return self.load_test()


def drawn_order(count: int, seed: int | list[int]) -> np.ndarray:
    """Return the numbers 0 … count − 1 in a random order, int64, by `seed` alone.

    It is the stable argsort of a raw PCG64 stream, which NumPy promises never to change.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
