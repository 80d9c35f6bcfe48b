"""The weight of one layer in a sparse file: alive values, and where they stand in whichever form is smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ndsnn.errors import CheckpointError
from ndsnn.sparse.bits import pack_positions, unpack_positions
from ndsnn.sparse.compressed import topology_problem


def pack_weight(key: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the alive values of a dense weight and, where some are not alive, their places."""
    return pack_values(key, weight.detach()[mask], mask.flatten().nonzero().flatten(), mask.numel())


def pack_values(key: str, values: Tensor, positions: Tensor, size: int) -> dict[str, Tensor]:
    """Return alive values [nnz] and, unless all of `size` places are alive, their ascending positions [nnz]."""
    tensors = {f"{key}.values": values.detach().cpu()}
    alive, wide = len(values), size >= 2**31
    if alive == size:
        return tensors
    if alive * (8 if wide else 4) < (size + 7) // 8:
        tensors[f"{key}.positions"] = positions.to("cpu", torch.int64 if wide else torch.int32)
    else:
        tensors[f"{key}.bitmask"] = pack_positions(positions, size)
    return tensors


def unpack_weight(key: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the dense weight and the mask of `shape` that `pack_weight` packed; raises as `unpack_values`."""
    values, positions = unpack_values(key, shape, tensors)
    mask = mask_of(positions, shape)
    return scatter(values, mask), mask


def unpack_values(key: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return the alive values [nnz] that `pack_values` packed and their positions [nnz], None where all are alive.

    Raises:
        CheckpointError: Parts are missing or contradict each other.
    """
    values = tensors.get(f"{key}.values")
    if values is None or values.ndim != 1 or any(n < 0 for n in shape):
        raise CheckpointError(f"the alive values of {key!r} are missing or malformed")
    positions, bits = tensors.get(f"{key}.positions"), tensors.get(f"{key}.bitmask")
    if bits is not None:
        positions = unpack_positions(bits, shape)
    alive = math.prod(shape) if positions is None else positions.numel()
    if alive != len(values):
        raise CheckpointError(f"{key!r} has {len(values)} values for {alive} alive places")
    if problem := topology_problem(values, positions, shape):
        raise CheckpointError(f"{key!r}: {problem}")
    return values, positions


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Return a dense tensor with `values` [nnz] where `mask` is true and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter_(mask, values)


def mask_of(positions: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return the mask of `shape` that is true at flat `positions` [nnz], everywhere where they are None."""
    if positions is None:
        return torch.ones(shape, dtype=torch.bool)
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[positions] = True
    return mask.view(shape)
