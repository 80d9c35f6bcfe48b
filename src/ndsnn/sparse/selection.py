"""Deterministic choice of positions: exact top-k with ordered ties, and counter-based random scores."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_MASK_64 = (1 << 64) - 1


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
    threshold = torch.kthvalue(scores, count).values
    below = scores < threshold
    ties = torch.nonzero(scores == threshold).flatten()
    below[ties[: count - int(below.sum())]] = True
    return torch.nonzero(below).flatten()


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest scores, ties from the lowest index on (see `smallest`)."""
    return smallest(-scores, count)


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
    z = positions * _signed(0x9E3779B97F4A7C15) + _signed(key)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).to(torch.float64) * 2.0**-53


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit value."""
    value &= _MASK_64
    return value - (1 << 64) if value >> 63 else value


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Shift int64 bits right without copying the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
