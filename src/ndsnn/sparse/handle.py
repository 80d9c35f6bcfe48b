"""The handle on a sparse layer that the training methods work with, whatever form its weights are held in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from ndsnn.errors import NonFiniteError, SparsityError

GrowthScore = Callable[[Tensor, Tensor | None], Tensor]
"""Scores of inactive places from their flat positions [m] and their gradients [m] (None where not needed)."""

_gradient_hooks = WeakIdKeyDictionary()


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return all parameters of an optimizer, in the order in which its state dict numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class SparseLayer(ABC):
    """A handle on one sparse layer: what is alive, what its gradient says, and how it is rewired.

    Positions are flat indices into the dense weight in C order, int64 and ascending. A *per-weight tensor* has the
    shape of `weight`, as the optimizer's momentum has.

    Args:
        name: Path of the module in the network.
        module: The module.

    Attributes:
        shows_overflow: Whether `weight.grad` is not finite where the dense gradient of an update step is not, so
            that whoever checks gradients, such as a gradient scaler, sees it.
    """

    shows_overflow = False

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module

    @property
    @abstractmethod
    def weight(self) -> nn.Parameter:
        """The parameter that is trained."""

    @property
    @abstractmethod
    def mask(self) -> Tensor:
        """True where a connection is alive; of shape `shape`.

        Raises:
            NotSparsifiedError: The layer is not sparse any more.
        """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense weight (n_out, n_in, *kernel)."""

    @property
    def size(self) -> int:
        """Number of places for a weight, alive or not."""
        return math.prod(self.shape)

    @property
    @abstractmethod
    def nnz(self) -> int:
        """Number of alive weights."""

    @abstractmethod
    def active_positions(self) -> Tensor:
        """Positions of the alive weights [nnz]."""

    def active_values(self) -> Tensor:
        """Values of the alive weights [nnz], in the order of `active_positions`."""
        return self.alive_part(self.weight.detach())

    @abstractmethod
    def alive_part(self, tensor: Tensor) -> Tensor:
        """Return the entries of a per-weight tensor that belong to alive weights [nnz]."""

    @abstractmethod
    def per_weight(self, values: Tensor) -> Tensor:
        """Return the per-weight tensor that has `values` [nnz] at the alive weights.

        Raises:
            SparsityError: There are more or fewer values than alive weights.
        """

    @abstractmethod
    def packed_mask(self) -> Tensor:
        """Return the mask as bits (see `ndsnn.sparse.bits`) [⌈size/8⌉] uint8."""

    @abstractmethod
    def watch_gradient(self, wanted: Callable[[], bool], limit: Callable[[], int], score: GrowthScore) -> None:
        """Let only alive weights receive gradient, and look at the dense one while `wanted()` is true.

        A second call takes the place of the first, so the newest training method owns the gradient.

        Args:
            wanted: Whether the step under way is an update step that grows by gradient.
            limit: The most that this update step can grow.
            score: Scores places during the backward pass, where the dense gradient is not kept until the step.

        Raises:
            SparsityError: The weight is frozen, or sharded over processes.
        """

    @abstractmethod
    def require_finite_gradient(self) -> None:
        """Check that the dense gradient of this step is there and finite; of several ranks it is their mean.

        Raises:
            SparsityError: No backward pass has filled it.
            NonFiniteError: It holds NaN or infinity.
        """

    @abstractmethod
    def release_gradient(self) -> None:
        """Forget the dense gradient."""

    @abstractmethod
    def select_growth(self, count: int, score: GrowthScore, dropped: Tensor, reborn: bool) -> Tensor:
        """Return the positions of the `count` best inactive places, ties from the lowest position on.

        Args:
            count: How many.
            score: Called with candidate positions [m] and their gradients [m].
            dropped: Positions that die in this round.
            reborn: Whether those may be chosen again.
        """

    @abstractmethod
    def rewire(self, dropped: Tensor, grown: Tensor, optimizer: Optimizer) -> None:
        """Kill `dropped` and give birth to `grown`; both start from 0, in weight and optimizer state."""

    @abstractmethod
    def set_mask(self, mask: Tensor, optimizer: Optimizer) -> None:
        """Make alive what `mask` says; weights and optimizer state of other places are 0 afterwards."""

    @abstractmethod
    def enforce(self, optimizer: Optimizer | None = None) -> None:
        """Put inactive weights and their optimizer state back to 0, whatever moved them."""

    def _require_trained(self) -> None:
        if hasattr(self.weight, "device_mesh"):
            raise SparsityError(
                f"the weight of layer {self.name!r} is sharded over processes (a DTensor), and a topology update "
                f"needs all of it; train with data parallelism (DistributedDataParallel, or ndsnn train)"
            )
        if not self.weight.requires_grad:
            raise SparsityError(
                f"layer {self.name!r} is frozen (requires_grad=False); unfreeze it, "
                f"or sparsify only what is trained"
            )

    def _no_gradient(self) -> SparsityError:
        return SparsityError(
            f"layer {self.name!r} has no gradient at an update step; call loss.backward() and "
            f"optimizer.step() before .step(), and create the method before the first backward pass"
        )

    def _not_finite(self) -> NonFiniteError:
        return NonFiniteError(f"the gradient of layer {self.name!r} is not finite; no connection was changed")


def set_gradient_hook(weight: Tensor, hook: Callable[[Tensor], None] | None) -> None:
    """Let `hook(weight)` be what is called whenever a gradient was added to `weight.grad`; None for nothing."""
    before = _gradient_hooks.pop(weight, None)
    if before is not None:
        before.remove()
    if hook is not None:
        _gradient_hooks[weight] = weight.register_post_accumulate_grad_hook(hook)
