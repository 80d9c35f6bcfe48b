"""The arithmetic of the exported integers in Python: the same numbers as the C code, to the bit.

Sums of integers are computed by torch's float convolutions where float32 or float64 holds them exactly, which the
order of summation then cannot change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ndsnn.interop.export.c.numbers import LEAK_BITS
from ndsnn.interop.export.c.program import Average, Drive, OrPool, Population, Program

_EXACT = {torch.float32: 2**24, torch.float64: 2**53}


class IntegerRun(NamedTuple):
    """What a network did.

    Attributes:
        logits: Mean over the steps, [N, classes] float32 ([N, classes·H·W] of a conv readout).
        spikes: Of each layer of neurons by its path, how many it fired for each image [N] int64.
    """

    logits: NDArray[np.float32]
    spikes: dict[str, NDArray[np.int64]]


@torch.no_grad()
def run_integers(program: Program, x: Tensor) -> IntegerRun:
    """Run a quantised program.

    Args:
        program: What `quantize` returned.
        x: Normalised images [N, C, H, W], or one input for every step [T, N, C, H, W].
    """
    steps = len(x) if x.ndim == 5 else program.time_steps
    images = x if x.ndim == 5 else x[None]
    state = _State(program, images.shape[1])
    for step in range(steps):
        if step < len(images):
            state.show(images[step])
        state.advance()
    return state.finish(steps)


class _State:
    """The potentials and maps of a batch, int64 [N, C, H, W] everywhere."""

    def __init__(self, program: Program, samples: int) -> None:
        assert program.fraction is not None
        self.program, self.one = program, 2**program.fraction
        self.values: dict[int, Tensor] = {}
        self.carried = {
            layer.path: torch.zeros(samples, *layer.shape, dtype=torch.int64) for layer in program.populations
        }
        self.by_image: dict[str, Tensor] = {}
        self.spikes = {layer.path: torch.zeros(samples, dtype=torch.int64) for layer in program.populations}
        self.sums = torch.zeros(samples, *program.output.shape, dtype=torch.int64)

    def show(self, images: Tensor) -> None:
        """Take an image [N, C, H, W], and compute what it adds at every step."""
        program = self.program
        shape = next(drive.source.shape for drive in program.drives if drive.source.kind == "image")
        padded = torch.zeros(len(images), *shape, dtype=torch.int64)
        (top, left), (_, height, width) = program.corner, program.given
        padded[..., top : top + height, left : left + width] = _fixed(images, self.one, program.input_limit)
        self.values[0] = padded
        for layer in program.populations:
            self.by_image[layer.path] = sum(
                (self._drive(drive) for drive in layer.image_drives), start=torch.zeros((), dtype=torch.int64)
            )

    def advance(self) -> None:
        """Compute one step."""
        for operation in self.program.operations:
            if isinstance(operation, Population):
                self._integrate(operation)
            elif isinstance(operation, OrPool):
                source = self.values[operation.source.node]
                self.values[operation.node] = _or_pool(source, operation.pool, operation.pooled)
            else:
                self.values[operation.node] = self._average(operation)
        self.sums += self._drive(self.program.output.drive)

    def finish(self, steps: int) -> IntegerRun:
        """Return the logits and the counts."""
        output = self.program.output
        shape = (1, -1, 1, 1)
        sums = self.sums.numpy().astype(np.float32)
        logits = sums * output.scale.reshape(shape) / np.float32(steps) + output.bias.reshape(shape)
        return IntegerRun(
            logits.astype(np.float32).reshape(len(logits), -1),
            {path: counts.numpy() for path, counts in self.spikes.items()},
        )

    def _integrate(self, layer: Population) -> None:
        h = self.carried[layer.path] + _channels(layer.bias) + self.by_image[layer.path]
        for drive in layer.step_drives:
            h = h + self._drive(drive)
        threshold = _channels(layer.threshold)
        fired = h >= threshold
        after = h - threshold * fired if layer.soft else h.masked_fill(fired, 0)
        self.carried[layer.path] = _round_divide(after * int(layer.leak), 2**LEAK_BITS)
        self.spikes[layer.path] += fired.flatten(1).sum(1)
        spikes = fired.to(torch.int64)
        self.values[layer.node] = _or_pool(spikes, layer.pool, layer.pooled) if layer.pool > 1 else spikes

    def _drive(self, drive: Drive) -> Tensor:
        source, spiking = self.values[drive.source.node], drive.source.kind == "spikes"
        if drive.kind == "add":
            gain = _channels(drive.gain)
            return source * gain if spiking else _round_divide(source * gain, self.one)
        stride, padding = (drive.stride, drive.padding) if drive.kind == "conv" else (1, (0, 0))
        limit = 1 if spiking else int(source.abs().max())
        levels = torch.from_numpy(drive.weight.astype(np.int64))
        most = int(levels.abs().flatten(1).sum(1).max()) * limit
        dtype = next(dtype for dtype, exact in _EXACT.items() if most < exact)
        current = functional.conv2d(source.to(dtype), levels.to(dtype), None, stride, padding).to(torch.int64)
        return current * self.one if spiking else current

    def _average(self, pool: Average) -> Tensor:
        source = self.values[pool.source.node]
        if pool.source.kind == "spikes":
            source = source * self.one
        averaged = [
            [_round_divide(source[..., a:b, c:d].sum((-2, -1)), (b - a) * (d - c)) for c, d in pool.columns]
            for a, b in pool.rows
        ]
        return torch.stack([torch.stack(row, -1) for row in averaged], -2)


def _fixed(images: Tensor, one: int, limit: int) -> Tensor:
    """Round to multiples of 1/`one`, half away from 0, in float32; cut at ±`limit`, NaN becomes −`limit`."""
    scaled = images.to(torch.float32).numpy() * np.float32(one)
    edge = np.float32(limit)
    cut = np.where(scaled > -edge, np.where(scaled < edge, scaled, edge), -edge)
    half = np.where(cut < 0, np.float32(-0.5), np.float32(0.5))
    return torch.from_numpy(np.trunc(cut + half).astype(np.int64))


def _round_divide(numbers: Tensor, by: int) -> Tensor:
    """Return numbers / by, rounded half away from 0."""
    magnitude = (numbers.abs() + by // 2) // by
    return torch.where(numbers < 0, -magnitude, magnitude)


def _or_pool(spikes: Tensor, side: int, pooled: tuple[int, int]) -> Tensor:
    height, width = spikes.shape[-2:]
    window = min(side, height), min(side, width)
    result = functional.max_pool2d(spikes.float(), window, side).to(torch.int64)
    assert tuple(result.shape[-2:]) == pooled
    return result


def _channels(vector: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(vector.astype(np.int64)).view(-1, 1, 1)
