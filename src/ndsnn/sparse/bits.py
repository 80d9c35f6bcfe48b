"""Masks as bits: eight places to a byte, the first place in the lowest bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ndsnn.errors import CheckpointError

_BLOCK_BYTES = 1 << 16
"""Bytes that are unpacked at a time."""


def pack_mask(mask: Tensor) -> Tensor:
    """Return a boolean mask as bits [⌈n/8⌉] uint8."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy(), bitorder="little"))


def unpack_mask(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the boolean mask of `shape` that `pack_mask` packed.

    Raises:
        CheckpointError: The number of bytes does not fit the shape.
    """
    flat = np.unpackbits(_checked(bits, shape), count=math.prod(shape), bitorder="little")
    return torch.from_numpy(flat.astype(bool)).view(tuple(shape))


def pack_positions(positions: Tensor, size: int) -> Tensor:
    """Return the bits of a mask of `size` places that is true at `positions`, each named once [⌈size/8⌉] uint8."""
    places = positions.to("cpu", torch.int64)
    bits = torch.zeros((size + 7) // 8, dtype=torch.uint8)
    return bits.index_add_(0, places >> 3, (1 << (places & 7)).to(torch.uint8))


def unpack_positions(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the ascending flat positions [nnz] int64 at which a packed mask of `shape` is true.

    Raises:
        CheckpointError: The number of bytes does not fit the shape.
    """
    packed, size = _checked(bits, shape), math.prod(shape)
    found = [np.empty(0, np.int64)]
    for first in range(0, len(packed), _BLOCK_BYTES):
        block = packed[first : first + _BLOCK_BYTES]
        flat = np.unpackbits(block, count=min(8 * len(block), size - 8 * first), bitorder="little")
        found.append(np.flatnonzero(flat) + 8 * first)
    return torch.from_numpy(np.concatenate(found))


def _checked(bits: Tensor, shape: Sequence[int]) -> np.ndarray:
    size = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != (size + 7) // 8:
        raise CheckpointError(
            f"a packed mask of shape {tuple(shape)} has {bits.numel()} bytes, not {(size + 7) // 8}"
        )
    return bits.flatten().cpu().numpy()
