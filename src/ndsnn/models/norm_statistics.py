"""The statistics of batch norms: how they move, and how they are taken of a batch spread over several processes.

With S₁ = Σ x, S₂ = Σ x² and n over all values of a channel in all processes,

    m = S₁/n,   v = S₂/n − m²,   x̂ = (x − m)/√(v + eps),   y = γ·x̂ + β
    ∂L/∂x = γ/√(v + eps) · (∂L/∂y − Σ ∂L/∂y / n − x̂·Σ(∂L/∂y·x̂) / n),   sums over all processes too
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from ndsnn.errors import ShapeError
from ndsnn.ranks import ALONE, Ranks

_ATTRIBUTE = "spread_over"


def spread_norms(net: nn.Module, ranks: Ranks) -> None:
    """Let every batch norm of `net` take the statistics of the batches of all ranks together in training.

    The engine does so for all batch norms, the masked form for those of `ndsnn.models`.

    Args:
        net: The network, plain or accelerated.
        ranks: Those that compute parts of the same batch; `ALONE` undoes it.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            if ranks.alone:
                module.__dict__.pop(_ATTRIBUTE, None)
            else:
                module.__dict__[_ATTRIBUTE] = ranks


def ranks_of(norm: nn.Module) -> Ranks:
    """Return the ranks over which the present batch of a norm is spread."""
    ranks: Ranks = getattr(norm, _ATTRIBUTE, ALONE)
    return ALONE if ranks.duplicated else ranks


def spread_batch_norm(x: Tensor, norm: _BatchNorm, gain: Tensor | None, ranks: Ranks) -> Tensor:
    """Normalise by the whole batch and move the running statistics.

    Args:
        x: This process's part [N, C, H, W].
        norm: Whose β, running statistics, momentum and eps count.
        gain: What x̂ is multiplied by [C], or None.
        ranks: Which hold the other parts.

    Raises:
        ShapeError: All parts together have one value per channel.
    """
    axes, wide = (0, 2, 3), torch.promote_types(x.dtype, torch.float32)
    values = x.detach().to(wide)
    local = torch.stack([values.sum(axes, dtype=torch.float64), values.square().sum(axes, dtype=torch.float64)])
    count = torch.tensor([x.numel() // x.shape[1]], dtype=torch.float64, device=x.device)
    whole = ranks.sum_(torch.cat([local.flatten(), count]), "norms")
    (sum_x, sum_x2), n = whole[:-1].view(2, -1).unbind(0), whole[-1]
    require_statistics(norm, int(n))
    mean = sum_x / n
    variance = (sum_x2 / n - mean.square()).clamp(min=0)
    if norm.running_mean is not None:
        move_running_statistics(norm, mean, variance * (n / (n - 1)))
    inverse_std = (variance + norm.eps).rsqrt()
    normed: Tensor = _Normalise.apply(x.to(wide), mean.to(wide), inverse_std.to(wide), float(n), ranks)
    if gain is not None:
        normed = normed * gain.view(1, -1, 1, 1)
    if norm.affine:
        normed = normed + norm.bias.view(1, -1, 1, 1)
    return normed.to(x.dtype)


def require_statistics(norm: nn.Module, values: int) -> None:
    """Check that a batch of `values` values per channel has a variance.

    Raises:
        ShapeError: It has not.
    """
    if values == 1:
        raise ShapeError(
            f"{type(norm).__name__} cannot take statistics of one value per channel; "
            "train with a larger batch, or call eval() first"
        )


@torch.no_grad()
def move_running_statistics(norm: _BatchNorm, mean: Tensor, unbiased_variance: Tensor) -> None:
    """Do running += momentum·(new − running); without a momentum, keep the mean over all batches.

    Args:
        norm: A batch norm that has running statistics.
        mean: Of the batch [C].
        unbiased_variance: Of the batch [C].
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1 / int(norm.num_batches_tracked)
    weight = momentum or 0.0
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
    norm.running_var.lerp_(unbiased_variance.to(norm.running_var.dtype), weight)


class _Normalise(torch.autograd.Function):
    """x̂ of [N, C, H, W], with the gradient that goes through the statistics of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse_std: Tensor, n: float, ranks: Ranks) -> Tensor:
        normed = (x - mean.view(1, -1, 1, 1)) * inverse_std.view(1, -1, 1, 1)
        ctx.save_for_backward(normed, inverse_std)
        ctx.n, ctx.ranks = n, ranks
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        normed, inverse_std = ctx.saved_tensors
        axes = (0, 2, 3)
        local = torch.stack(
            [gradient.sum(axes, dtype=torch.float64), (gradient * normed).sum(axes, dtype=torch.float64)]
        )
        shares = (ctx.ranks.sum_(local, "norms") / ctx.n).to(gradient.dtype)
        by_mean, by_spread = (share.view(1, -1, 1, 1) for share in shares)
        return (gradient - by_mean - normed * by_spread) * inverse_std.view(1, -1, 1, 1), None, None, None, None
