"""What the C code does in each step, as a list of operations with their numbers.

All neurons are brought to one form. With r the resting potential (v_reset of a hard reset, 0 of a soft one),
u = v − r, and the 1/τ of decay_input moved into weights and biases, `ndsnn.lif` says

    h = λ·u[t−1] + x[t],    λ = 1 − 1/τ,    u[0] = 0
    o[t] = 1 where h ≥ θ,    θ = ϑ − r
    u[t] = 0 where it fired (hard),    h − θ·o[t] (soft)

Maps lie with their channels innermost, [H, W, C]. Flattening does nothing then: a linear layer behind it has its
weights ordered to match.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ndsnn.interop.export.network import Windows

Numbers = NDArray[Any]
"""float64 as planned, then float32 or integers."""


@dataclass(frozen=True)
class Source:
    """What an operation reads.

    Args:
        kind: "image" (the network's input), "spikes" (bits) or "values" (an average pool's output).
        node: Index of the folded node that makes it.
        shape: (C, H, W), the input's with its zeros around it.
    """

    kind: str
    node: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Drive:
    """One summand of the current of a layer of neurons, or of the readout.

    Args:
        source: What comes in.
        layer: Path of the conv or linear module; "" where the source is added as it is.
        kind: "conv", "linear" or "add".
        weight: [C_out, C_in, k_h, k_w] of a conv; [C_out, C, H, W] of a linear layer that reads a map [C, H, W];
            empty for "add".
        gain: Factor on what is added as it is, for each output channel [C_out]; empty otherwise.
        stride: Of a conv.
        padding: Of a conv, above/below and left/right.
    """

    source: Source
    layer: str
    kind: str
    weight: Numbers = field(repr=False)
    gain: Numbers = field(repr=False)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Population:
    """A layer of neurons, with the max-pool of its spikes if only that reads them.

    Args:
        path: Path of the LIF module.
        node: Index of the folded node whose value its bits are: the neuron's, or the pool's.
        shape: (C, H, W) of the neurons.
        leak: λ.
        threshold: θ of each channel [C].
        soft: Whether θ is subtracted by a spike.
        bias: What each step adds to the potentials of a channel [C].
        drives: What is summed.
        pool: Distance of the max-pool's windows, 1 without one.
        pooled: (H, W) of the bits.
    """

    path: str
    node: int
    shape: tuple[int, int, int]
    leak: float | int
    threshold: Numbers = field(repr=False)
    soft: bool
    bias: Numbers = field(repr=False)
    drives: tuple[Drive, ...]
    pool: int
    pooled: tuple[int, int]

    @property
    def image_drives(self) -> tuple[Drive, ...]:
        """What the image adds, the same at every step."""
        return tuple(drive for drive in self.drives if drive.source.kind == "image")

    @property
    def step_drives(self) -> tuple[Drive, ...]:
        """What is added anew at every step."""
        return tuple(drive for drive in self.drives if drive.source.kind != "image")


@dataclass(frozen=True)
class OrPool:
    """A max-pool of spikes that others read unpooled too.

    Args:
        path: Path of the pool.
        node: Its index.
        source: The spikes.
        pool: Distance of the windows.
        pooled: (H, W) of the output.
    """

    path: str
    node: int
    source: Source
    pool: int
    pooled: tuple[int, int]


@dataclass(frozen=True)
class Average:
    """An average pool.

    Args:
        path: Path of the pool.
        node: Its index.
        source: Spikes or values.
        rows: Windows of the output's rows.
        columns: Windows of the output's columns.
    """

    path: str
    node: int
    source: Source
    rows: Windows
    columns: Windows

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the output."""
        return self.source.shape[0], len(self.rows), len(self.columns)


@dataclass(frozen=True)
class Output:
    """The readout: logits = scale·(mean over steps of the drive) + bias.

    Args:
        path: Path of the module.
        shape: (classes, H, W); (classes, 1, 1) of a linear layer.
        drive: Its synapse.
        bias: [classes].
        scale: [classes]; 1 for floats, the value of one unit for integers.
    """

    path: str
    shape: tuple[int, int, int]
    drive: Drive
    bias: Numbers = field(repr=False)
    scale: Numbers = field(repr=False)


Operation = Population | OrPool | Average


@dataclass(frozen=True)
class Program:
    """A network as the C code runs it.

    Args:
        given: (C, H, W) of the image.
        corner: Row and column of the padded map where the image begins.
        operations: In order; each reads only what is made before it.
        output: What comes last.
        time_steps: T.
        events: Whether every step has an input of its own, so that there is no image to run on.
        fraction: Bits behind the point of integers; None for float32.
        input_limit: Largest input as an integer, to which others are cut; 0 for float32.
    """

    given: tuple[int, int, int]
    corner: tuple[int, int]
    operations: tuple[Operation, ...]
    output: Output
    time_steps: int
    events: bool
    fraction: int | None = None
    input_limit: int = 0

    @property
    def populations(self) -> tuple[Population, ...]:
        """The layers of neurons in order."""
        return tuple(operation for operation in self.operations if isinstance(operation, Population))

    @property
    def drives(self) -> tuple[Drive, ...]:
        """All drives in order, the readout's last."""
        return (*(drive for layer in self.populations for drive in layer.drives), self.output.drive)


def map_drives(program: Program, change: Callable[[Drive], Drive]) -> Program:
    """Return the program with every drive changed."""
    operations = tuple(
        replace(operation, drives=tuple(change(drive) for drive in operation.drives))
        if isinstance(operation, Population)
        else operation
        for operation in program.operations
    )
    return replace(
        program, operations=operations, output=replace(program.output, drive=change(program.output.drive))
    )
