"""Deterministic choice of positions: exact top-k with ordered ties, and counter-based random scores."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def smallest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` smallest scores, in ascending order of index.

    Equal scores are taken from the lowest index on, so the result is the same on every device and run.

    Args:
        scores: Finite scores [n].
        count: How many, 0 ≤ count ≤ n.

    Returns:
        Indices [count], int64.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    threshold = _kth_smallest(scores, count)
    below = scores < threshold
    ties = torch.nonzero(scores == threshold).flatten()
    below[ties[: count - int(below.sum())]] = True
    return torch.nonzero(below).flatten()


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest scores, ties from the lowest index on (see `smallest`)."""
    return smallest(-scores, count)


def ranks(*keys: Tensor) -> Tensor:
    """Return the rank of each entry in ascending order of the first key, ties by the next one, then by index.

    Args:
        keys: Numbers or booleans [n] each, without NaN.

    Returns:
        0 … n − 1 in the order of the entries [n], float64.
    """
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    place = torch.empty(len(order), dtype=torch.float64, device=order.device)
    place[order] = torch.arange(len(order), dtype=torch.float64, device=order.device)
    return place


def stream_key(*parts: int | str) -> int:
    """Return a 64-bit key for `random_scores` that depends on `parts` alone."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def random_scores(key: int, positions: Tensor) -> Tensor:
    """Return one uniform random number in [0, 1) for each position (SplitMix64 of key + position).

    Counter-based: the score of a position does not depend on which others are asked for, so nothing of it
    needs saving, and a layer may be scored in pieces.

    Args:
        key: A stream, see `stream_key`.
        positions: Flat positions [n], int64.

    Returns:
        Scores [n], float64.
    """
    with np.errstate(over="ignore"):
        z = positions.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53).to(positions.device)


def _kth_smallest(scores: Tensor, count: int) -> Tensor:
    """Return the `count`-th smallest score (from 1); NumPy's selection is several times faster than torch's."""
    if scores.device.type != "cpu":
        return torch.kthvalue(scores, count).values
    values = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    return torch.as_tensor(np.partition(values.numpy(), count - 1)[count - 1], dtype=scores.dtype)
