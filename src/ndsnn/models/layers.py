"""Layers that take one step or many: [N, *] or [T, N, *], with parameters named as torch names them.

Each is one leaf module: whatever depends on a tensor's shape happens inside it, so that `torch.fx` can trace the
networks built of them, with `LAYERS` and `ndsnn.neurons.LIF` as leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from ndsnn.errors import ConfigError, ShapeError
from ndsnn.models.norm_statistics import ranks_of, require_statistics, spread_batch_norm


def _per_step(
    layer: nn.Module, x: Tensor, axes: tuple[str | int, ...], call: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply `call` to `x` with its steps, if it has any, folded into the batch.

    Args:
        layer: The layer that calls, named in the error message.
        x: One step of shape `axes`, or [T, *axes].
        axes: Name of every axis of one step, or the size it must have.
        call: Maps a tensor of shape `axes` to one with the same first axis.

    Raises:
        ShapeError: `x` has other axes.
    """
    one_step = x.shape[-len(axes) :]
    fits = x.ndim in (len(axes), len(axes) + 1)
    if not fits or any(isinstance(a, int) and a != n for a, n in zip(axes, one_step, strict=True)):
        expected = ", ".join(map(str, axes))
        raise ShapeError(f"{type(layer).__name__} expects [{expected}] or [T, {expected}], got {list(x.shape)}")
    if x.ndim == len(axes):
        return call(x)
    return call(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` applied to every step: [N, C, H, W] or [T, N, C, H, W] → the same with new C, H, W."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; raises ShapeError if the input has other axes or channels."""
        return _per_step(self, x, ("N", self.in_channels, "H", "W"), super().forward)


class Linear(nn.Linear):
    """`torch.nn.Linear` applied to every step: [N, F] or [T, N, F] → the same with a new F."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weight; raises ShapeError if the input has other axes or features."""
        return _per_step(self, x, ("N", self.in_features), super().forward)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` of [N, C, H, W] or [T, N, C, H, W], with statistics over all axes but C.

    y = γ·x̂ + β with x̂ = (x − mean) / √(var + eps).
    """

    @property
    def gain(self) -> Tensor | None:
        """What x̂ is multiplied by [C]: γ."""
        return self.weight if self.affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; raises ShapeError for other axes, or in training if there is one value per channel."""
        if self.training and ranks_of(self).alone:
            require_statistics(self, x.numel() // self.num_features)
        return _per_step(self, x, ("N", self.num_features, "H", "W"), self._normalise)

    def _normalise(self, x: Tensor) -> Tensor:
        ranks = ranks_of(self)
        if self.training and not ranks.alone:
            return spread_batch_norm(x, self, self.gain, ranks)
        return self._normalise_alone(x)

    def _normalise_alone(self, x: Tensor) -> Tensor:
        return super().forward(x)


class ThresholdBatchNorm2d(BatchNorm2d):
    """Threshold-dependent batch norm, tdBN (Zheng et al., AAAI 2021): y = γ·α·ϑ·x̂ + β.

    With γ = 1 and β = 0, as at the start, the currents have standard deviation α·ϑ in every layer.

    Args:
        num_features: Channels C.
        alpha: α: 1, or 1/√2 in a branch that is added to another one.
        v_threshold: Threshold ϑ of the neurons behind.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.

    Raises:
        ConfigError: `alpha` or `v_threshold` is not a finite number above 0.
    """

    def __init__(
        self,
        num_features: int,
        alpha: float = 1.0,
        v_threshold: float = 1.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        for name, value in (("alpha", alpha), ("v_threshold", v_threshold)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} of a threshold-dependent batch norm must be above 0, got {value!r}")
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.alpha = float(alpha)
        self.v_threshold = float(v_threshold)

    @property
    def gain(self) -> Tensor:
        """What x̂ is multiplied by [C]: γ·α·ϑ."""
        return self.weight * (self.alpha * self.v_threshold)

    def _normalise_alone(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum or 0.0
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.gain, self.bias, self.training, momentum, self.eps
        )

    def extra_repr(self) -> str:
        """Return the settings for `print(net)`."""
        return f"{super().extra_repr()}, alpha={self.alpha:.4g}, v_threshold={self.v_threshold:.4g}"


class MaxPool2d(nn.MaxPool2d):
    """Max-pool over square windows side by side; a rest that fills no window is left out.

    An axis of the map that is shorter than the window is taken as one window, so that a map never vanishes.

    Args:
        kernel_size: Side of the window, which is the stride too.
    """

    def __init__(self, kernel_size: int = 2) -> None:
        super().__init__(kernel_size)
        self.side = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Pool [N, C, H, W] or [T, N, C, H, W]; raises ShapeError for other axes."""
        return _per_step(self, x, ("N", "C", "H", "W"), self._pool)

    def _pool(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return functional.max_pool2d(x, (min(self.side, height), min(self.side, width)), self.side)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d` applied to every step of [N, C, H, W] or [T, N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool to the output size; raises ShapeError for other axes."""
        return _per_step(self, x, ("N", "C", "H", "W"), super().forward)


class Flatten(nn.Module):
    """[N, C, H, W] → [N, C·H·W], or [T, N, C, H, W] → [T, N, C·H·W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten the last three axes; raises ShapeError for other axes."""
        return _per_step(self, x, ("N", "C", "H", "W"), lambda step: step.flatten(1))


class ZeroPad(nn.Module):
    """Zero-pad a map centrally to `size` × `size`; an axis that is long enough is left alone.

    LeCun et al. (1998) brought 28×28 digits to 32×32 so. Of an odd number of zeros the larger part goes to the
    right or below.

    Args:
        size: Smallest height and width to hand on.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Pad [N, C, H, W] or [T, N, C, H, W]; raises ShapeError for other axes."""
        return _per_step(self, x, ("N", "C", "H", "W"), self._pad)

    def _pad(self, x: Tensor) -> Tensor:
        height, width = (max(self.size - n, 0) for n in x.shape[-2:])
        if not height and not width:
            return x
        return functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def extra_repr(self) -> str:
        """Return the size for `print(net)`."""
        return f"size={self.size}"


class RepeatOverTime(nn.Module):
    """Direct encoding: [N, C, H, W] → [T, N, C, H, W], the same at every step, as a view that copies nothing.

    Standing behind the first convolution and its norm, it makes these run once per image. An input that has steps
    already (events) passes through.

    Args:
        time_steps: Number of steps T.
    """

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        """Repeat or pass on.

        Raises:
            ShapeError: `x` has other axes, or another number of steps than `time_steps`.
        """
        if x.ndim == 4:
            return x.unsqueeze(0).expand(self.time_steps, *x.shape)
        if x.ndim != 5:
            raise ShapeError(f"RepeatOverTime expects [N, C, H, W] or [T, N, C, H, W], got {list(x.shape)}")
        if x.shape[0] != self.time_steps:
            raise ShapeError(
                f"the network was built with time_steps={self.time_steps}, but the input [T, N, C, H, W] "
                f"has {x.shape[0]} steps"
            )
        return x

    def extra_repr(self) -> str:
        """Return the number of steps for `print(net)`."""
        return f"time_steps={self.time_steps}"


LAYERS: tuple[type[nn.Module], ...] = (
    Conv2d,
    Linear,
    BatchNorm2d,
    MaxPool2d,
    AdaptiveAvgPool2d,
    Flatten,
    ZeroPad,
    RepeatOverTime,
)
"""All layer classes of this module (ThresholdBatchNorm2d is a BatchNorm2d): the leaves of a trace, besides LIF."""
