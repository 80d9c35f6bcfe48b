"""Spike functions: the Heaviside step going forward, a smooth stand-in for its derivative going back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ndsnn.errors import ConfigError, unknown_name


def atan_derivative(x: Tensor, alpha: float) -> Tensor:
    """Derivative of arctan(π/2·α·x)/π + 1/2: (α/2) / (1 + (π/2·α·x)²).

    With α = 2 it is 1 / (1 + π²x²), Eq. 3 of the NDSNN paper.

    Args:
        x: Distance of the membrane potential from the threshold, any shape.
        alpha: Steepness α.

    Returns:
        The derivative at every element of `x`, of the same shape and dtype.
    """
    return (alpha / 2) / (1 + (math.pi / 2 * alpha * x).square())


def sigmoid_derivative(x: Tensor, alpha: float) -> Tensor:
    """Derivative of the logistic function σ(αx): α·σ(αx)·(1 − σ(αx)).

    Args:
        x: Distance of the membrane potential from the threshold, any shape.
        alpha: Steepness α.

    Returns:
        The derivative at every element of `x`, of the same shape and dtype.
    """
    sigma = torch.sigmoid(alpha * x)
    return alpha * sigma * (1 - sigma)


def triangle_derivative(x: Tensor, alpha: float) -> Tensor:
    """A triangle of area 1: max(0, α − α²|x|), which is 0 from |x| = 1/α on.

    Args:
        x: Distance of the membrane potential from the threshold, any shape.
        alpha: Height α of the triangle.

    Returns:
        The derivative at every element of `x`, of the same shape and dtype.
    """
    return (alpha - alpha**2 * x.abs()).clamp(min=0)


def rectangle_derivative(x: Tensor, alpha: float) -> Tensor:
    """A rectangle of area 1: α where |x| < 1/(2α), else 0.

    Args:
        x: Distance of the membrane potential from the threshold, any shape.
        alpha: Height α of the rectangle.

    Returns:
        The derivative at every element of `x`, of the same shape and dtype.
    """
    return alpha * (x.abs() < 0.5 / alpha).to(x.dtype)


class Surrogate(NamedTuple):
    """A surrogate derivative `derivative(x, alpha)` and the steepness it has unless told otherwise."""

    derivative: Callable[[Tensor, float], Tensor]
    alpha: float


SURROGATES: Mapping[str, Surrogate] = MappingProxyType(
    {
        "atan": Surrogate(atan_derivative, 2.0),
        "sigmoid": Surrogate(sigmoid_derivative, 4.0),
        "triangle": Surrogate(triangle_derivative, 1.0),
        "rectangle": Surrogate(rectangle_derivative, 1.0),
    }
)
"""All surrogates by name."""


class _Spike(torch.autograd.Function):
    """u(x) forward, `derivative(x, alpha)` times the incoming gradient backward."""

    @staticmethod
    def forward(x: Tensor, derivative: Callable[[Tensor, float], Tensor], alpha: float) -> Tensor:
        return (x >= 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.derivative, ctx.alpha = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.derivative(x, ctx.alpha), None, None


def resolve_surrogate(name: str, alpha: float | None = None) -> Surrogate:
    """Look a surrogate up and put `alpha` in the place of its default.

    Args:
        name: A key of `SURROGATES`.
        alpha: Steepness, or None for the surrogate's own default.

    Returns:
        The derivative and the steepness to call it with.

    Raises:
        ConfigError: The name is unknown or `alpha` is not a finite number above 0.
    """
    if not isinstance(name, str) or name not in SURROGATES:
        raise ConfigError(unknown_name("surrogate", str(name), SURROGATES))
    surrogate = SURROGATES[name]
    if alpha is None:
        return surrogate
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ConfigError(f"the surrogate's alpha must be a finite number above 0, got {alpha!r}")
    return surrogate._replace(alpha=float(alpha))


def spike(x: Tensor, name: str = "atan", alpha: float | None = None) -> Tensor:
    """Fire where `x` has reached 0: u(x) = 1 for x ≥ 0, else 0 (NaN does not fire).

    The gradient is that of the named surrogate: ∂u/∂x ≈ `SURROGATES[name].derivative(x, alpha)`.

    Args:
        x: Membrane potential minus threshold, any shape, floating point.
        name: "atan", "sigmoid", "triangle" or "rectangle".
        alpha: Steepness of the surrogate; None takes its default (2, 4, 1 and 1).

    Returns:
        Zeros and ones of the shape and dtype of `x`.

    Raises:
        ConfigError: The name is unknown or `alpha` is not a finite number above 0.
    """
    surrogate = resolve_surrogate(name, alpha)
    return _Spike.apply(x, surrogate.derivative, surrogate.alpha)
