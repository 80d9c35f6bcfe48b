"""The values of a loop over time, as `ndsnn.engine.lowering.rolling` rolls it up, and the calls that it adds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from ndsnn.errors import ShapeError


@dataclass(frozen=True)
class Same:
    """A value that is the same at every step, or that has nothing to do with steps."""

    node: fx.Node


@dataclass(frozen=True)
class Step:
    """The value of `node` at step `t`."""

    node: fx.Node
    t: int


@dataclass(frozen=True)
class State:
    """What the neuron at `path` returned as its state at step `t`; `node` has those of all steps."""

    path: str
    node: fx.Node
    t: int


@dataclass(frozen=True)
class Fired:
    """What a neuron's call returns at step `t`: a tuple of spikes and state."""

    path: str
    node: fx.Node
    t: int


@dataclass(frozen=True)
class Begun:
    """A sum over the steps 0 … t of `node`."""

    node: fx.Node
    t: int


def first_steps(x: Tensor, steps: int) -> Tensor:
    """Return x[0], …, x[steps−1], which a loop reads one by one.

    Raises:
        ShapeError: There are fewer.
    """
    if x.ndim == 0 or len(x) < steps:
        raise ShapeError(f"the network reads {steps} steps of its input, got {list(x.shape)}")
    return x[:steps]


def repeat_steps(x: Tensor, steps: int) -> Tensor:
    """Return `x` at each of the steps, as a view."""
    return x.unsqueeze(0).expand(steps, *x.shape)
