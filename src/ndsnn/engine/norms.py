"""The norm behind a synapse as an affine map per channel, and its way back from per-channel sums.

With y the current without bias, b the bias, k = α·ϑ of a threshold-dependent norm (else 1) and g = k·γ:

    ŷ = (y − m) / √(v + eps),    x = g·ŷ + β = scale·y + shift

m and v are mean and variance of y over all n values of a channel in training; in evaluation running_mean − b and
running_var, constants to the gradient. All vectors here are float64.

Where the batch of a norm is spread over several processes, the sums behind m and v, and those of the way back
that ∂L/∂y depends on, are of all of them; ∂L/∂γ and ∂L/∂β are of its own samples, as for all parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ndsnn.engine.ops import Affine
from ndsnn.models.layers import ThresholdBatchNorm2d
from ndsnn.models.norm_statistics import move_running_statistics, ranks_of, require_statistics
from ndsnn.ranks import ALONE, Ranks


@dataclass(frozen=True)
class SynapseGradient:
    """What the backward pass of a norm and bias leaves.

    Args:
        affine: a, b, c [C] of ∂L/∂y = a·∂L/∂x + b·y + c.
        gamma: ∂L/∂γ [C], or None without a norm.
        beta: ∂L/∂β [C], or None without a norm.
        bias: ∂L/∂(bias of the layer) [C].
    """

    affine: tuple[Tensor, Tensor, Tensor]
    gamma: Tensor | None
    beta: Tensor | None
    bias: Tensor


@dataclass(frozen=True)
class PlainSynapse:
    """A synapse without norm: x = y + bias.

    Args:
        affine: scale 1 and shift bias.
    """

    affine: Affine

    @classmethod
    def of(cls, channels: int, bias: Tensor | None) -> PlainSynapse:
        """Make one of `channels` channels with the layer's bias [C], if it has one."""
        return cls(Affine(torch.ones(channels, dtype=torch.float64), _float64(bias, channels, 0.0)))

    def backward(self, sum_gx: Tensor, sum_gx_y: Tensor | None) -> SynapseGradient:
        """∂L/∂y = ∂L/∂x; ∂L/∂bias = Σ ∂L/∂x."""
        zero = torch.zeros_like(sum_gx)
        return SynapseGradient((torch.ones_like(sum_gx), zero, zero), None, None, sum_gx)


@dataclass(frozen=True)
class NormedSynapse:
    """A synapse with a norm behind it.

    Args:
        mean: m [C].
        inverse_std: 1/√(v + eps) [C].
        gain: g [C].
        beta: β [C].
        factor: k.
        values: n where m and v are those of the batch, None where they are constants.
        ranks: The processes that the batch is spread over.
    """

    mean: Tensor
    inverse_std: Tensor
    gain: Tensor
    beta: Tensor
    factor: float
    values: int | None
    ranks: Ranks = ALONE

    @property
    def affine(self) -> Affine:
        """The map from y to x."""
        scale = self.gain * self.inverse_std
        return Affine(scale, self.beta - scale * self.mean)

    def backward(self, sum_gx: Tensor, sum_gx_y: Tensor | None) -> SynapseGradient:
        """Go back through the norm.

            ∂L/∂γ = k·Σ ∂L/∂x·ŷ,    ∂L/∂β = Σ ∂L/∂x
            batch:    ∂L/∂y = scale·(∂L/∂x − Σ ∂L/∂x / n − ŷ·Σ(∂L/∂x·ŷ) / n),    ∂L/∂bias = 0
            constant: ∂L/∂y = scale·∂L/∂x,                                       ∂L/∂bias = scale·Σ ∂L/∂x

        Args:
            sum_gx: Σ ∂L/∂x [C].
            sum_gx_y: Σ ∂L/∂x·y [C].
        """
        assert sum_gx_y is not None
        sum_gx_normed = (sum_gx_y - self.mean * sum_gx) * self.inverse_std
        scale, zero = self.gain * self.inverse_std, torch.zeros_like(sum_gx)
        if self.values is None:
            affine, bias = (scale, zero, zero), scale * sum_gx
        else:
            all_gx, all_gx_normed = self._over_ranks(sum_gx, sum_gx_normed)
            by_y = -scale * self.inverse_std * all_gx_normed / self.values
            affine, bias = (scale, by_y, -scale * all_gx / self.values - by_y * self.mean), zero
        return SynapseGradient(affine, self.factor * sum_gx_normed, sum_gx, bias)

    def _over_ranks(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """Return sums [C] each over the samples of all processes."""
        if self.ranks.alone:
            return sums
        return self.ranks.sum_(torch.stack(sums), "norms").unbind(0)


def uses_batch_statistics(norm: nn.Module) -> bool:
    """Say whether `norm` takes the statistics of the batch in its present mode."""
    assert isinstance(norm, _BatchNorm)
    return norm.training or norm.running_mean is None


def normed_by_batch(
    norm: nn.Module, bias: Tensor | None, sum_y: Tensor, sum_y2: Tensor, values: int
) -> NormedSynapse:
    """Normalise by the batch, and move the running statistics if the norm is in training mode and has them.

    Args:
        norm: A batch norm of torch or ndsnn.
        bias: Of the layer in front [C], or None; it is no part of y.
        sum_y: Σ y [C].
        sum_y2: Σ y² [C].
        values: n, the values of a channel.

    Raises:
        ShapeError: There is one value per channel.
    """
    assert isinstance(norm, _BatchNorm)
    ranks = ranks_of(norm)
    if not ranks.alone:
        own = torch.tensor([float(values)], dtype=torch.float64)
        whole = ranks.sum_(torch.cat([sum_y, sum_y2, own]), "norms")
        (sum_y, sum_y2), values = whole[:-1].view(2, -1).unbind(0), int(whole[-1])
    require_statistics(norm, values)
    mean = sum_y / values
    variance = (sum_y2 / values - mean.square()).clamp(min=0)
    if norm.training and norm.running_mean is not None:
        move_running_statistics(norm, mean + _float64(bias, len(mean), 0.0), variance * (values / (values - 1)))
    return _normed(norm, mean, variance, values, ranks)


def normed_by_constants(norm: nn.Module, bias: Tensor | None) -> NormedSynapse:
    """Normalise by the running statistics; `bias` [C] of the layer in front is taken into the mean."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = norm.running_mean.double() - _float64(bias, norm.num_features, 0.0)
    return _normed(norm, mean, norm.running_var.double(), None)


def _normed(
    norm: _BatchNorm, mean: Tensor, variance: Tensor, values: int | None, ranks: Ranks = ALONE
) -> NormedSynapse:
    factor = norm.alpha * norm.v_threshold if isinstance(norm, ThresholdBatchNorm2d) else 1.0
    gamma, beta = (norm.weight, norm.bias) if norm.affine else (None, None)
    gain = factor * _float64(gamma, len(mean), 1.0)
    inverse_std, shift = (variance + norm.eps).rsqrt(), _float64(beta, len(mean), 0.0)
    return NormedSynapse(mean, inverse_std, gain, shift, factor, values, ranks)


def _float64(vector: Tensor | None, channels: int, otherwise: float) -> Tensor:
    """Return a detached float64 copy of `vector` [C], or `otherwise` everywhere."""
    if vector is None:
        return torch.full((channels,), otherwise, dtype=torch.float64)
    return vector.detach().to(torch.float64, copy=True)
