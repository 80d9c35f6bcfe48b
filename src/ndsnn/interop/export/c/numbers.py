"""From float64 to the numbers that C computes with: float32, or integers with int8 weights.

Integers: each output channel c of a layer of neurons has a unit

    s_c = max |W_c| / 127,    not below 2⁻¹⁶ times the largest of θ, |b_c| and gain that the channel knows

over all its connections, so W_c ≈ s_c·q_c with −127 ≤ q_c ≤ 127. Potentials, thresholds and biases are int32
multiples of s_c/2^F. The image and the outputs of average pools are int32 multiples of 1/2^F. F is one for the
whole network: the largest up to 12 with which no int32 can overflow, whatever the input.

    spike           adds q·2^F to a potential; a value v adds q·v
    leak            u ← round(λ'·u / 2¹⁵),  λ' = round(λ·2¹⁵),  half away from 0, the product in int64
    added as it is  a spike adds g_c = round(gain·2^F/s_c), a value v adds round(g_c·v / 2^F)
    average         round(Σ / places) of values, round(2^F·count / places) of spikes
    logit           (Σ over steps of its current)·s_c/2^F/steps + b_c, in float32

Nothing here depends on statistics of activations: they are spikes. Only the range of the input has to be known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndsnn.errors import ExportError
from ndsnn.interop.export.c.program import Average, Drive, Numbers, Population, Program, map_drives

LARGEST_WEIGHT = 127
MOST_FRACTION = 12
LEAK_BITS = 15
INT32 = 2**31 - 1
_SMALLEST_UNIT = 2.0**-16


def floats(program: Program) -> Program:
    """Round all numbers of a planned program to float32."""

    def single(drive: Drive) -> Drive:
        return replace(drive, weight=_float32(drive.weight), gain=_float32(drive.gain))

    program = map_drives(program, single)
    operations = tuple(
        replace(operation, threshold=_float32(operation.threshold), bias=_float32(operation.bias))
        if isinstance(operation, Population)
        else operation
        for operation in program.operations
    )
    output = program.output
    output = replace(output, bias=_float32(output.bias), scale=_float32(output.scale))
    return replace(program, operations=operations, output=output)


def quantize(program: Program, largest_input: float) -> Program:
    """Turn a planned program into one of integers, as the module says.

    Args:
        program: What `plan_program` returned.
        largest_input: Largest |x| of the (normalised) input; what lies beyond is cut to it.

    Raises:
        ExportError: The input's range is no finite number above 0, or a layer's sums do not fit into 32 bits even
            with F = 0.
    """
    if not 0 < largest_input < math.inf:
        raise ExportError(f"the largest input must be a finite number above 0, got {largest_input}")
    full: str | None = None
    for fraction in range(MOST_FRACTION, -1, -1):
        made = _with_fraction(program, largest_input, fraction)
        full = _first_without_room(made)
        if full is None:
            return made
    raise ExportError(
        f"the sums of layer {full!r} do not fit into 32 bits in int8 arithmetic (too many connections of a "
        "neuron, or tau too large); export it without --quantize"
    )


@dataclass(frozen=True)
class _Units:
    """Of one layer of neurons or the readout: the unit s_c of each output channel, and F."""

    unit: NDArray[np.float64]
    fraction: int

    def weights(self, drive: Drive) -> Drive:
        """Return the drive with int8 weights and int32 gains."""
        shape = (-1, *(1,) * (drive.weight.ndim - 1))
        levels = np.rint(drive.weight / self.unit.reshape(shape)) if drive.weight.size else drive.weight
        return replace(
            drive,
            weight=np.clip(levels, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8),
            gain=self.fixed(drive.gain) if drive.gain.size else drive.gain.astype(np.int32),
        )

    def fixed(self, numbers: Numbers) -> NDArray[np.int32]:
        """Round to multiples of s_c/2^F."""
        return np.rint(numbers / self.unit * 2.0**self.fraction).astype(np.int32)


def _units(drives: tuple[Drive, ...], others: tuple[Numbers, ...], fraction: int) -> _Units:
    """Choose s_c; `others` [C] are numbers that have to be multiples of the unit too."""
    channels = len(others[0])
    largest = np.zeros(channels)
    gains = [drive.gain for drive in drives if drive.kind == "add"]
    for drive in drives:
        if drive.weight.size:
            largest = np.maximum(largest, np.abs(drive.weight).reshape(channels, -1).max(1))
    floor = np.max([np.abs(numbers) for numbers in (*others, *gains)], axis=0) * _SMALLEST_UNIT
    unit = np.maximum(largest / LARGEST_WEIGHT, floor)
    return _Units(np.where(unit > 0, unit, 1.0), fraction)


def _with_fraction(program: Program, largest_input: float, fraction: int) -> Program:
    operations = []
    for operation in program.operations:
        if isinstance(operation, Population):
            units = _units(operation.drives, (operation.threshold, operation.bias), fraction)
            operation = replace(
                operation,
                leak=round(operation.leak * 2**LEAK_BITS),
                threshold=units.fixed(operation.threshold),
                bias=units.fixed(operation.bias),
                drives=tuple(units.weights(drive) for drive in operation.drives),
            )
        operations.append(operation)
    output = program.output
    units = _units((output.drive,), (np.zeros(output.shape[0]),), fraction)
    output = replace(
        output,
        drive=units.weights(output.drive),
        bias=_float32(output.bias),
        scale=_float32(units.unit / 2.0**fraction),
    )
    return replace(
        program,
        operations=tuple(operations),
        output=output,
        fraction=fraction,
        input_limit=min(math.ceil(largest_input * 2**fraction), INT32),
    )


def _first_without_room(program: Program) -> str | None:
    """Return the first layer whose int32 numbers could overflow, None if there is none.

    |h| ≤ (Σ of what one step can add) / (1 − λ), since |u[t]| ≤ max(|h|, θ) after a spike.
    """
    assert program.fraction is not None
    one = 2**program.fraction
    # Largest |value| of what each node hands on.
    limits: dict[int, int] = {0: program.input_limit}
    if program.input_limit > INT32 // 2:
        return program.populations[0].path
    for operation in program.operations:
        if isinstance(operation, Average):
            limits[operation.node] = limits.get(operation.source.node, one)
            if max(map(_places, _windows(operation))) * limits[operation.node] > INT32 // 2:
                return operation.path
        elif isinstance(operation, Population):
            most = sum((_most(drive, limits, one) for drive in operation.drives), start=np.zeros(1))
            most = most + np.abs(operation.bias.astype(np.float64)) + 1
            if operation.soft:
                most = most + np.abs(operation.threshold.astype(np.float64))
            left = 1 - operation.leak / 2**LEAK_BITS
            if left <= 0 or (most / left).max() > INT32 // 2 or np.abs(operation.threshold).max() > INT32 // 2:
                return operation.path
    if _most(program.output.drive, limits, one).max() > INT32 // 2:
        return program.output.path
    return None


def _most(drive: Drive, limits: dict[int, int], one: int) -> NDArray[np.float64]:
    """Return the largest |sum| that a drive can add to each output channel in one step [C_out]."""
    limit = limits.get(drive.source.node, one)
    if drive.kind == "add":
        return np.abs(drive.gain.astype(np.float64)) * max(limit / one, 1.0) + 1
    return np.abs(drive.weight.astype(np.float64)).reshape(len(drive.weight), -1).sum(1) * limit


def _windows(average: Average) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    return [(row, column) for row in average.rows for column in average.columns]


def _places(window: tuple[tuple[int, int], tuple[int, int]]) -> int:
    (top, bottom), (left, right) = window
    return (bottom - top) * (right - left)


def _float32(numbers: Numbers) -> NDArray[Any]:
    return numbers.astype(np.float32)
