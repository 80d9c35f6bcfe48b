"""Losses and the prediction of a network that returns logits at every time step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional

from ndsnn.errors import ShapeError


def _check(logits_tnk: Tensor, y: Tensor | None = None) -> None:
    if logits_tnk.ndim != 3 or logits_tnk.shape[0] < 1:
        raise ShapeError(f"expected logits [T, N, classes] with T >= 1, got {list(logits_tnk.shape)}")
    if y is not None and y.shape != logits_tnk.shape[1:2]:
        raise ShapeError(
            f"expected one label per sample, [{logits_tnk.shape[1]}], got {list(y.shape)} "
            f"for logits [T, N, classes] of shape {list(logits_tnk.shape)}"
        )


def mean_step_cross_entropy(logits_tnk: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the steps of each step's cross-entropy: (1/T) Σ_t CE(logits[t], y).

    Args:
        logits_tnk: Logits of every step, [T, N, classes].
        y: Class numbers, [N], int64.
        label_smoothing: Share of each target spread evenly over all classes, 0 to 1.

    Returns:
        The loss, averaged over steps and samples, a scalar.

    Raises:
        ShapeError: The logits are not [T, N, classes] or the labels not [N].
    """
    _check(logits_tnk, y)
    y_tn = y.expand(logits_tnk.shape[0], -1)
    return functional.cross_entropy(logits_tnk.flatten(0, 1), y_tn.reshape(-1), label_smoothing=label_smoothing)


def cross_entropy_of_mean_logits(logits_tnk: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the logits averaged over the steps: CE((1/T) Σ_t logits[t], y).

    Args:
        logits_tnk: Logits of every step, [T, N, classes].
        y: Class numbers, [N], int64.
        label_smoothing: Share of each target spread evenly over all classes, 0 to 1.

    Returns:
        The loss, averaged over samples, a scalar.

    Raises:
        ShapeError: The logits are not [T, N, classes] or the labels not [N].
    """
    _check(logits_tnk, y)
    return functional.cross_entropy(logits_tnk.mean(0), y, label_smoothing=label_smoothing)


def temporal_efficient_training(
    logits_tnk: Tensor, y: Tensor, label_smoothing: float = 0.0, weight: float = 0.05, level: float = 1.0
) -> Tensor:
    """Cross-entropy of every step, and a pull of all logits towards one level: (1/T) Σ_t [(1 − λ)·CE_t + λ·MSE_t].

    CE_t = CE(logits[t], y) and MSE_t = mean((logits[t] − φ)²), which keeps single steps from running away (Deng et
    al., "Temporal Efficient Training of Spiking Neural Network via Gradient Re-weighting", ICLR 2022).

    Args:
        logits_tnk: Logits of every step, [T, N, classes].
        y: Class numbers, [N], int64.
        label_smoothing: Share of each target spread evenly over all classes, 0 to 1.
        weight: λ, 0 to 1; 0 gives `mean_step_cross_entropy`.
        level: φ; the authors take the threshold of the neurons.

    Returns:
        The loss, averaged over steps and samples, a scalar.

    Raises:
        ShapeError: The logits are not [T, N, classes] or the labels not [N].
    """
    cross_entropy = mean_step_cross_entropy(logits_tnk, y, label_smoothing)
    return (1 - weight) * cross_entropy + weight * (logits_tnk - level).square().mean()


def predict(logits_tnk: Tensor) -> Tensor:
    """Return the predicted classes argmax_k Σ_t logits[t, n, k].

    Args:
        logits_tnk: Logits of every step, [T, N, classes].

    Returns:
        Class numbers, [N], int64.

    Raises:
        ShapeError: The logits are not [T, N, classes].
    """
    _check(logits_tnk)
    return logits_tnk.sum(0).argmax(-1)


LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "mean_step": mean_step_cross_entropy,
        "mean_logits": cross_entropy_of_mean_logits,
        "tet": temporal_efficient_training,
    }
)
"""All losses by name, each `(logits_tnk, y, label_smoothing=0.0) -> scalar`."""
