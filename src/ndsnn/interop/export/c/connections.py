"""The connections of a layer as the lists that C walks: for each input, the output channels it reaches.

A list holds the distance of each output channel from the one before it (from channel 0 for the first), and the
weight. The lists of a convolution follow each other by input channel, then kernel row, then kernel column, with
the length of each; those of a linear layer by input place, then channel, with the start of each.

Distances above 255 are either stored as uint16_t throughout or bridged by connections of weight 0, whichever takes
fewer bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ndsnn.interop.export.c.program import Drive, Numbers

WIDEST_BYTE = 255


@dataclass(frozen=True)
class Connections:
    """The lists of one layer, each in the smallest type that holds it.

    Args:
        kind: "conv" or "linear".
        start: Of a conv, where the lists of each input channel start [C_in]; of a linear layer, where the list of
            each input starts, and the end of the last [H·W·C + 1].
        count: Length of each list of a conv [C_in·k_h·k_w]; empty for a linear layer.
        delta: Distances [entries].
        weight: Weights [entries], float32 or int8.
        alive: Entries that are no bridges.
    """

    kind: str
    start: NDArray[np.unsignedinteger] = field(repr=False)
    count: NDArray[np.unsignedinteger] = field(repr=False)
    delta: NDArray[np.unsignedinteger] = field(repr=False)
    weight: Numbers = field(repr=False)
    alive: int

    @property
    def tag(self) -> str:
        """Name of this combination of types, such as conv_16_8_8."""
        arrays = (self.start, self.count, self.delta) if self.kind == "conv" else (self.start, self.delta)
        return "_".join((self.kind, *(str(array.dtype.itemsize * 8) for array in arrays)))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.nbytes

    @property
    def index_bytes(self) -> int:
        """Bytes of everything else."""
        return self.start.nbytes + self.count.nbytes + self.delta.nbytes


def connections_of(drive: Drive) -> Connections:
    """List the weights of a conv or linear layer that are not 0.

    Args:
        drive: With float32 or int8 weights.
    """
    conv = drive.kind == "conv"
    # [C_in, k_h, k_w, C_out], or [H, W, C, C_out]: in C order, list after list of ascending output channels.
    ordered = drive.weight.transpose((1, 2, 3, 0) if conv else (2, 3, 1, 0))
    lists = ordered.reshape(-1, len(drive.weight))
    which, channel = np.nonzero(lists)
    weight = lists[which, channel]
    first = np.r_[True, which[1:] != which[:-1]][: len(which)]
    delta = np.where(first, channel, channel - np.r_[0, channel[:-1]][: len(channel)])
    bridged = _bridge(which, delta, weight)
    if bridged[1].nbytes + bridged[2].nbytes < 2 * len(delta) + weight.nbytes or not (delta > WIDEST_BYTE).any():
        which, delta, weight = bridged
    else:
        delta = delta.astype(np.uint16)
    count = np.bincount(which, minlength=len(lists))
    start = np.r_[0, np.cumsum(count)]
    if not conv:
        return Connections("linear", _smallest(start), np.zeros(0, np.uint8), delta, weight, _alive(drive))
    first_of_channel = start[:-1].reshape(ordered.shape[0], -1)[:, 0]
    return Connections("conv", _smallest(first_of_channel), _smallest(count), delta, weight, _alive(drive))


def _bridge(
    which: NDArray[np.int64], delta: NDArray[np.int64], weight: Numbers
) -> tuple[NDArray[np.int64], NDArray[np.uint8], Numbers]:
    """Put entries of distance 255 and weight 0 in front of every entry that is farther."""
    bridges = np.maximum(delta - 1, 0) // WIDEST_BYTE
    repeat = bridges + 1
    last = np.cumsum(repeat) - 1
    deltas = np.full(int(repeat.sum()), WIDEST_BYTE, np.uint8)
    deltas[last] = delta - bridges * WIDEST_BYTE
    weights = np.zeros(len(deltas), weight.dtype)
    weights[last] = weight
    return np.repeat(which, repeat), deltas, weights


def _smallest(array: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    largest = int(array.max(initial=0))
    return array.astype(np.uint8 if largest <= 0xFF else np.uint16 if largest <= 0xFFFF else np.uint32)


def _alive(drive: Drive) -> int:
    return int(np.count_nonzero(drive.weight))
