"""What a kernel can't do without: multiply-adds, and bytes from and to memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import MapShape

VALUE_BYTES, POSITION_BYTES = 4, 4
"""Of an alive weight: its value or gradient, and its position in a layer that is not dense."""


@dataclass(frozen=True)
class Traffic:
    """The least that a kernel does.

    Args:
        macs: Multiply-adds; the addition of a weight where there may be a spike counts as one.
        read: Bytes read from memory.
        written: Bytes written to it.
    """

    macs: int
    read: int
    written: int


def synapse_macs(synapse: Synapse, positions: Tensor | None, source: MapShape, samples: int) -> int:
    """Return the products of alive weights with inputs, spikes or not, that a current is made of.

    A weight does nothing where it lies on the padding, which is not counted.

    Args:
        synapse: The layer.
        positions: Flat positions of the alive weights [nnz], None where all are.
        source: Shape of the input.
        samples: N.
    """
    k_h, k_w = synapse.kernel
    if positions is None:
        alive = torch.full((k_h * k_w,), synapse.in_channels * synapse.out_channels)
    else:
        alive = torch.bincount(positions.long() % (k_h * k_w), minlength=k_h * k_w)
    out_h, out_w = synapse.output_size(source.height, source.width)
    rows = _inside(source.height, out_h, k_h, synapse.stride, synapse.padding[0])
    columns = _inside(source.width, out_w, k_w, synapse.stride, synapse.padding[1])
    per_map = int((alive.view(k_h, k_w) * rows[:, None] * columns).sum())
    return per_map * source.steps * samples


def weight_bytes(nnz: int, positions: Tensor | None) -> int:
    """Return the bytes of a layer's alive weights and of their positions, if it has any."""
    return nnz * (VALUE_BYTES if positions is None else VALUE_BYTES + POSITION_BYTES)


def _inside(size: int, outputs: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Return, for each tap of a kernel, at how many outputs along an axis it lies on the input [kernel]."""
    places = torch.arange(outputs) * stride - padding + torch.arange(kernel)[:, None]
    return ((places >= 0) & (places < size)).sum(1)
