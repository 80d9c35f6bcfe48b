"""Backward passes through a layer, on either back end."""

from dataclasses import dataclass

import torch
from native_layers import Connected, whole_or_normal
from native_sides import assert_close, is_exact, shape_of
from torch import Tensor

AFFINES = ("none", "scale", "shift", "norm")


@dataclass(frozen=True)
class Way:
    """How a backward pass is asked for.

    Args:
        affine: Which of a, b and c are there: "none" is a = 1, "scale" a, "shift" a and c, "norm" all of them.
        source: Whether ∂L/∂source is wanted.
        accumulate: Whether it is added to what is there.
        dense: Whether there is a sink.
    """

    affine: str = "norm"
    source: bool = True
    accumulate: bool = False
    dense: bool = True

    def vectors(self, channels: int, whole: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = (whole_or_normal((channels,), whole, generator).double() for _ in range(3))
        zero = torch.zeros_like(a)
        return {
            "none": (torch.ones_like(a), zero, zero),
            "scale": (a, zero, zero),
            "shift": (a, zero, c),
            "norm": (a, b, c),
        }[self.affine]


@dataclass
class Back:
    """What a backward pass leaves: ∂L/∂values, ∂L/∂source (zero where not wanted) and the dense gradient."""

    values: Tensor
    source: Tensor
    dense: Tensor


def go_back(side, connected: Connected, way: Way, grad_x: Tensor, affine, before: Tensor, in_place=False) -> Back:
    current = connected.on(side)
    if connected.stored:
        side.backend.statistics(current)
    grad = side.floats(grad_x)
    into = grad if in_place else side.floats(before) if way.accumulate else side.empty(shape_of(connected.source))
    pieces = []
    values = side.backend.synapse_backward(
        current,
        grad,
        affine,
        into if way.source else None,
        way.accumulate,
        (lambda first, piece: pieces.append((first, piece.clone()))) if way.dense else None,
    )
    heights = [len(piece) for _, piece in pieces]
    assert [first for first, _ in pieces] == [sum(heights[:i]) for i in range(len(heights))]
    dense = torch.cat([piece for _, piece in pieces]) if way.dense else torch.zeros(0)
    return Back(values, side.backend.unload(into) if way.source else torch.zeros(0), dense)


def check(actual: Tensor, expected: Tensor, tolerance: float, terms: Tensor, whole: bool) -> None:
    """Compare a tensor; whole numbers must come out exactly."""
    if whole and is_exact(terms):
        assert torch.equal(actual.double(), expected)
    else:
        assert_close(actual, expected, tolerance, terms)
