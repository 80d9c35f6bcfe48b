"""Where everything lies in the context: potentials for good, maps for as long as a step needs them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ndsnn.interop.export.c.program import Average, OrPool, Population, Program


@dataclass(frozen=True)
class Memory:
    """Offsets and sizes of the context's arrays, in elements; all but `spikes` have elements of 4 bytes.

    Args:
        potential: Offset of each layer of neurons by its path.
        drive: Offset of what the image adds to each layer that it reaches directly, by its path.
        values: Offset of each average pool's output by its node.
        spikes: Offset of each map of spikes by its node, in bytes.
        potentials: Size of all potentials.
        drives: Size of all that the image adds.
        most_values: Size of the array for averages.
        most_spikes: Bytes of the array for spikes.
        logits: Number of logits.
        sum_bytes: Bytes of the sum of a logit over the steps.
    """

    potential: dict[str, int]
    drive: dict[str, int]
    values: dict[int, int]
    spikes: dict[int, int]
    potentials: int
    drives: int
    most_values: int
    most_spikes: int
    logits: int
    sum_bytes: int

    @property
    def context_bytes(self) -> int:
        """Size of the context, without counters."""
        words = self.potentials + self.drives + self.most_values + self.logits + 1
        size = self.sum_bytes * self.logits + 4 * words + self.most_spikes
        return math.ceil(size / self.sum_bytes) * self.sum_bytes


def bytes_per_place(channels: int) -> int:
    """Return the bytes that hold one bit for each channel."""
    return math.ceil(channels / 8)


def plan_memory(program: Program) -> Memory:
    """Place everything that a program keeps; maps share memory where no step needs both at once."""
    potential, potentials = _one_after_another(program.populations)
    drive, drives = _one_after_another(tuple(layer for layer in program.populations if layer.image_drives))
    values, most_values = _shared(program, _values_of)
    spikes, most_spikes = _shared(program, _spikes_of)
    return Memory(
        potential,
        drive,
        values,
        spikes,
        potentials,
        drives,
        most_values,
        most_spikes,
        math.prod(program.output.shape),
        4 if program.fraction is None else 8,
    )


def _one_after_another(layers: tuple[Population, ...]) -> tuple[dict[str, int], int]:
    offsets, end = {}, 0
    for layer in layers:
        offsets[layer.path] = end
        end += math.prod(layer.shape)
    return offsets, end


def _values_of(operation: object) -> int:
    return math.prod(operation.shape) if isinstance(operation, Average) else 0


def _spikes_of(operation: object) -> int:
    if isinstance(operation, Population):
        return math.prod(operation.pooled) * bytes_per_place(operation.shape[0])
    if isinstance(operation, OrPool):
        return math.prod(operation.pooled) * bytes_per_place(operation.source.shape[0])
    return 0


def _shared(program: Program, size_of: Callable[[object], int]) -> tuple[dict[int, int], int]:
    """Place the maps that have a size, the largest first, each as low as those that live with it allow."""
    lives = _lives(program)
    sizes = {operation.node: size_of(operation) for operation in program.operations if size_of(operation)}
    placed: dict[int, int] = {}
    for node in sorted(sizes, key=lambda node: (-sizes[node], node)):
        offset = 0
        rivals = [other for other in placed if _meet(lives[node], lives[other])]
        for other in sorted(rivals, key=lambda other: placed[other]):
            if offset + sizes[node] <= placed[other]:
                break
            offset = max(offset, placed[other] + sizes[other])
        placed[node] = offset
    return placed, max((placed[node] + sizes[node] for node in placed), default=0)


def _lives(program: Program) -> dict[int, tuple[int, int]]:
    """Return when each map is written and last read.

    Operation i reads in moment 2·i and writes in moment 2·i + 1. Neurons have read everything before they write;
    a pool reads and writes together, in both moments.
    """
    lives: dict[int, tuple[int, int]] = {}
    for index, operation in enumerate(program.operations):
        if isinstance(operation, Population):
            reads, moment = [drive.source.node for drive in operation.step_drives], 2 * index
            lives[operation.node] = (2 * index + 1, 2 * index + 1)
        else:
            reads, moment = [operation.source.node], 2 * index + 1
            lives[operation.node] = (2 * index, 2 * index + 1)
        for node in reads:
            lives[node] = (lives[node][0], moment)
    last = program.output.drive.source.node
    lives[last] = (lives[last][0], 2 * len(program.operations))
    return lives


def _meet(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] <= second[1] and second[0] <= first[1]
