"""What an executor does for one kind of input: a list of steps forward and one back, and where each map lies.

A step is one call of the back end or one copy in or out. Maps are buffers, known by their number; a buffer is
first written by one step and given up after the last step that uses it, be it in the forward or backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import MapShape, Role


@dataclass(frozen=True)
class Buffer:
    """A map.

    Args:
        shape: Its shape.
        role: What it holds.
        base: The buffer whose bytes it has, with other [C, H, W]; None for one with bytes of its own.
    """

    shape: MapShape
    role: Role
    base: int | None = None


@dataclass(frozen=True)
class CurrentPlan:
    """A synapse at work.

    Args:
        synapse: The connections.
        source: Buffer of its input.
        stored: Buffer that keeps the current, or None.
        shape: Of the current.
    """

    synapse: Synapse
    source: int
    stored: int | None
    shape: MapShape

    @property
    def buffers(self) -> tuple[int, ...]:
        """All buffers that a use of the current touches."""
        return (self.source,) if self.stored is None else (self.source, self.stored)


@dataclass(frozen=True)
class Summand:
    """One term of a neuron's input.

    Args:
        current: Number of its current, or None.
        buffer: Where there is no current, the buffer that is added as it is.
    """

    current: int | None
    buffer: int | None


@dataclass(frozen=True)
class Load:
    """Copy the network's input into a buffer."""

    out: int


@dataclass(frozen=True)
class Measure:
    """Take the statistics of a current, and store it if it is to be stored."""

    current: int


@dataclass(frozen=True)
class Fire:
    """Run neurons.

    Args:
        node: Index in the graph.
        summands: Their input.
        out: Buffer of the spikes.
    """

    node: int
    summands: tuple[Summand, ...]
    out: int


@dataclass(frozen=True)
class Pool:
    """Pool a buffer into another one as node `node` of the graph says."""

    node: int
    source: int
    out: int


@dataclass(frozen=True)
class AddUp:
    """Add buffers up into another one.

    Args:
        sources: What is added.
        out: Buffer of the sum.
        scratch: Buffer in which spikes are made floats before they are added; None where there is no need.
    """

    sources: tuple[int, ...]
    out: int
    scratch: int | None


@dataclass(frozen=True)
class Drop:
    """Multiply a buffer by the mask of node `node` of the graph into another one."""

    node: int
    source: int
    out: int


@dataclass(frozen=True)
class ReadOut:
    """Evaluate a current as the logits."""

    current: int


@dataclass(frozen=True)
class LoadGradient:
    """Copy ∂L/∂logits into a buffer; the logits are a current."""

    current: int
    out: int


@dataclass(frozen=True)
class FireBack:
    """Go back through neurons, from ∂L/∂spikes to ∂L/∂input, which may be one buffer."""

    fire: Fire
    grad_out: int
    grad_x: int


@dataclass(frozen=True)
class SynapseBack:
    """Go back through a current, from ∂L/∂x to its weight and, where `grad_source` is no None, to its input."""

    current: int
    grad_x: int
    grad_source: int | None
    accumulate: bool


@dataclass(frozen=True)
class Add:
    """Add one gradient to another one, which begins as zero if `fresh`."""

    source: int
    into: int
    fresh: bool


@dataclass(frozen=True)
class PoolBack:
    """Go back through a pool."""

    pool: Pool
    grad_out: int
    grad_source: int
    accumulate: bool


@dataclass(frozen=True)
class DropBack:
    """Multiply a gradient by the mask of node `node`."""

    node: int
    grad_out: int
    grad_source: int
    accumulate: bool


@dataclass(frozen=True)
class UnloadGradient:
    """Copy the gradient of the network's input out."""

    source: int


Step = (
    Load
    | Measure
    | Fire
    | Pool
    | AddUp
    | Drop
    | ReadOut
    | LoadGradient
    | FireBack
    | SynapseBack
    | Add
    | PoolBack
    | DropBack
    | UnloadGradient
)


@dataclass(frozen=True)
class Program:
    """All steps of a pass, numbered from the first one forward to the last one back, and the place of every map.

    Args:
        buffers: The maps.
        offsets: Of each buffer, bytes into the arena; 0 for those with a base.
        nbytes: Size of the arena.
        currents: The synapses at work, in the order of the graph.
        forward: Steps of the forward pass.
        backward: Steps of the backward pass; none where no gradient is wanted.
        given_up: For each step the buffers that it is the last to use.
    """

    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]
    nbytes: int
    currents: tuple[CurrentPlan, ...]
    forward: tuple[Step, ...]
    backward: tuple[Step, ...]
    given_up: tuple[tuple[int, ...], ...]
