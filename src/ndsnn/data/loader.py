"""Batches in an order, and with an augmentation, that depend on seed, epoch and batch number only."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from ndsnn.data.samples import Augment, SampleSet, Within
from ndsnn.errors import ConfigError

Part = Callable[[int], slice]
"""Which rows of a batch of so many samples are wanted."""

Batch = tuple[Tensor, Tensor]
"""Images, float32 [N, C, H, W], normalised, or frames of events [T, N, C, H, W]; labels, int64 [N]."""

_AHEAD = 2
_POLL_SECONDS = 0.1


def num_batches(count: int, batch_size: int, drop_last: bool = False) -> int:
    """Number of batches of `batch_size` out of `count` images; a smaller last one counts unless dropped.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, not {batch_size}")
    return count // batch_size if drop_last else -(-count // batch_size)


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """Samples of each batch of `count` samples, in their order."""
    return [min(batch_size, count - first) for first in range(0, count, batch_size)]


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Permutation of `count` images in one epoch, int64 [count]; depends on the arguments only."""
    return torch.randperm(count, generator=_generator("order", seed, epoch))


def batches(
    image_set: SampleSet,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augmentation: Augment,
    start_batch: int = 0,
    drop_last: bool = False,
    prefetch: bool = True,
    part: Part | None = None,
) -> Iterator[Batch]:
    """Iterate over one epoch of training batches.

    Batch k is the same, bit for bit, whether the iteration began at 0 or at `start_batch`.

    Args:
        image_set: Training images, or recordings.
        batch_size: Images per batch, N.
        seed: Seed of the run.
        epoch: Number of the epoch.
        augmentation: Turns uint8 images, or counts of events, into float32.
        start_batch: First batch to deliver.
        drop_last: Leave out a last batch that is smaller.
        prefetch: Prepare the next batches in one background thread, which ends with the iteration, also when the
            iterator is closed or dropped early.
        part: Which rows of each batch to deliver, augmented as they would be in the whole batch; all by default.

    Returns:
        Iterator over (images, labels).

    Raises:
        ConfigError: `batch_size` or `start_batch` is out of range.
    """
    total = num_batches(len(image_set), batch_size, drop_last)
    if not 0 <= start_batch <= total:
        raise ConfigError(f"start_batch must lie between 0 and {total}, not {start_batch}")
    order = epoch_order(len(image_set), seed, epoch).numpy()
    labels = image_set.labels.numpy()

    def make(index: int) -> Batch:
        rows = order[index * batch_size : (index + 1) * batch_size]
        generator = _generator("augmentation", seed, epoch, index)
        if part is None:
            return augmentation(image_set.samples(rows), generator), torch.from_numpy(labels[rows])
        own, within = part(len(rows)), Within(part(len(rows)).start, len(rows))
        samples = image_set.samples(rows[own])
        return augmentation(samples, generator, within), torch.from_numpy(labels[rows[own]])

    indices = range(start_batch, total)
    return _prefetched(make, indices) if prefetch else (make(index) for index in indices)


def balanced_batches(
    image_set: SampleSet,
    batch_size: int,
    *,
    per_class: int,
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Iterator[Batch]:
    """Iterate over a few images of each class, normalised and nothing else, the classes in turn in every batch.

    Args:
        image_set: Training images.
        batch_size: Most images in a batch; the batches differ by one image at most.
        per_class: Images of each class, drawn without replacement; all that there are where they are fewer.
        seed: Decides which.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].

    Returns:
        Iterator over (images, labels).

    Raises:
        ConfigError: `batch_size` or `per_class` is below 1.
    """
    if per_class < 1:
        raise ConfigError(f"per_class must be 1 or more, not {per_class}")
    order = torch.randperm(len(image_set), generator=_generator("balanced", seed))
    labels = image_set.labels[order]
    picks = [order[labels == label][:per_class] for label in labels.unique()]
    rows = torch.cat([pick[turn : turn + 1] for turn in range(per_class) for pick in picks])
    parts = rows.tensor_split(num_batches(len(rows), batch_size))
    return ((image_set.inputs(part.numpy(), mean, std), image_set.labels[part]) for part in parts)


def evaluation_batches(
    image_set: SampleSet,
    batch_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    part: Part | None = None,
) -> Iterator[Batch]:
    """Iterate over all images in their order, normalised and nothing else.

    Args:
        image_set: Validation or test images.
        batch_size: Images per batch; the last one may be smaller.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
        part: Which rows of each batch to deliver; all by default.

    Returns:
        Iterator over (images, labels).

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    starts = range(0, num_batches(len(image_set), batch_size) * batch_size, batch_size)
    parts = (np.arange(first, min(first + batch_size, len(image_set))) for first in starts)
    if part is not None:
        parts = (rows[part(len(rows))] for rows in parts)
    return ((image_set.inputs(part, mean, std), image_set.labels[part]) for part in parts)


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    text = " ".join((purpose, *map(str, numbers)))
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(seed)


def _prefetched(make: Callable[[int], Batch], indices: range) -> Generator[Batch, None, None]:
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def hand_over(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        return None

    def work() -> None:
        try:
            for index in indices:
                if stop.is_set():
                    return
                hand_over(make(index))
            hand_over(None)
        except BaseException as error:  # raised again where the batch was wanted
            hand_over(error)

    worker = threading.Thread(target=work, name="ndsnn-batches", daemon=True)
    worker.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
