"""The masked form of a sparse layer: a plain `weight` with true zeros and a boolean mask beside it.

The mask is a non-persistent buffer `sparsity_mask` of the layer's module: it follows `.to(device)` and `deepcopy`,
and the state dict keeps its plain keys. What is alive is told by the mask, never by weight ≠ 0.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ndsnn.errors import NotSparsifiedError, SparsityError
from ndsnn.ranks import present_ranks
from ndsnn.sparse.bits import pack_mask
from ndsnn.sparse.handle import GrowthScore, SparseLayer, set_gradient_hook
from ndsnn.sparse.selection import largest

MASK = "sparsity_mask"


class MaskedLayer(SparseLayer):
    """A handle on a layer with a mask (see `SparseLayer`).

    Args:
        name: Path of the module in the network.
        module: A conv or linear module whose mask has been attached.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self._dense_gradient: Tensor | None = None
        self._accumulated: tuple[Tensor, int] | None = None
        self._averaged = False
        self._wanted: Callable[[], bool] = bool

    @property
    def weight(self) -> nn.Parameter:
        """The dense parameter, zero at inactive places."""
        return weight_of(self.module)

    @property
    def mask(self) -> Tensor:
        """The mask itself, not a copy (see `SparseLayer`)."""
        if not has_mask(self.module):
            raise NotSparsifiedError(
                f"layer {self.name!r} has no mask any more (ndsnn.to_dense removed it, or the weights were "
                f"compressed); create the method afterwards"
            )
        return self.module.get_buffer(MASK)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight (n_out, n_in, *kernel)."""
        return tuple(self.weight.shape)

    @property
    def nnz(self) -> int:
        """Number of alive weights."""
        return int(self.mask.sum())

    def active_positions(self) -> Tensor:
        """Positions of the alive weights [nnz]."""
        return torch.nonzero(self.mask.flatten()).flatten()

    def alive_part(self, tensor: Tensor) -> Tensor:
        """Return the entries under the mask [nnz]."""
        return tensor[self.mask]

    def per_weight(self, values: Tensor) -> Tensor:
        """Return a dense tensor with `values` [nnz] under the mask and 0 elsewhere."""
        if values.shape != (self.nnz,):
            raise SparsityError(f"layer {self.name!r} has {self.nnz} alive weights, not {values.numel()}")
        mask = self.mask.to(values.device)
        return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter_(mask, values)

    def packed_mask(self) -> Tensor:
        """Return the mask as bits [⌈size/8⌉] uint8."""
        return pack_mask(self.mask)

    def watch_gradient(self, wanted: Callable[[], bool], limit: Callable[[], int], score: GrowthScore) -> None:
        """Let only alive weights receive gradient, and keep the dense one while `wanted()` is true."""
        self._require_trained()
        self._wanted = wanted
        # Python's garbage collector can't see what a tensor's hook refers to.
        layer, module = weakref.ref(self), weakref.ref(self.module)

        def keep_alive_part(weight: Tensor) -> None:
            gradient, owner, masked = weight.grad, layer(), module()
            if gradient is None or masked is None:
                return
            dead = ~masked.get_buffer(MASK)
            if owner is None:
                gradient.masked_fill_(dead, 0)
            else:
                owner._take_gradient(gradient, dead)

        set_gradient_hook(self.weight, keep_alive_part)

    def _take_gradient(self, gradient: Tensor, dead: Tensor) -> None:
        """Keep the dense gradient if it is wanted, and the alive part in `grad`."""
        if self._wanted():
            self._keep_dense(gradient)
            if self.shows_overflow:
                dead &= gradient.isfinite()
        gradient.masked_fill_(dead, 0)
        self._accumulated = (gradient, gradient._version)

    def _keep_dense(self, gradient: Tensor) -> None:
        """Keep the dense gradient; micro-batches that accumulate into the same `grad` are summed.

        Accumulating changes `grad` once; `zero_grad` in between changes it once more and begins a new sum.
        """
        before, version = self._accumulated or (None, 0)
        self._averaged = False
        if self._dense_gradient is not None and before is gradient and gradient._version == version + 1:
            # Alive places of `gradient` hold the running sum already, the others this micro-batch alone.
            self._dense_gradient = torch.where(self.mask, gradient, self._dense_gradient + gradient)
        else:
            self._dense_gradient = gradient.detach().clone()

    def require_finite_gradient(self) -> None:
        """Check that the dense gradient of this step, the mean over all ranks, is there and finite."""
        if self._dense_gradient is None:
            raise self._no_gradient()
        if not self._averaged:
            self._dense_gradient = present_ranks().average_(self._dense_gradient.contiguous(), "growth")
            self._averaged = True
        if not bool(torch.isfinite(self._dense_gradient).all()):
            raise self._not_finite()

    def release_gradient(self) -> None:
        """Forget the dense gradient."""
        self._dense_gradient = self._accumulated = None

    def select_growth(self, count: int, score: GrowthScore, dropped: Tensor, reborn: bool) -> Tensor:
        """Return the positions of the `count` best inactive places, ties from the lowest position on."""
        inactive = ~self.mask.flatten()
        if reborn:
            inactive[dropped] = True
        candidates = torch.nonzero(inactive).flatten()
        gradient = None if self._dense_gradient is None else self._dense_gradient.flatten()[candidates]
        return candidates[largest(score(candidates, gradient), count)]

    @torch.no_grad()
    def rewire(self, dropped: Tensor, grown: Tensor, optimizer: Optimizer) -> None:
        """Kill `dropped` and give birth to `grown`; both start from 0, in weight and optimizer state."""
        mask = self.mask.flatten().clone()
        mask[dropped] = False
        mask[grown] = True
        self.mask.copy_(mask.view(self.shape))
        changed = torch.zeros_like(mask)
        changed[dropped] = True
        changed[grown] = True
        for tensor in self._per_weight_tensors(optimizer):
            tensor.masked_fill_(changed.view(self.shape), 0)

    def set_mask(self, mask: Tensor, optimizer: Optimizer) -> None:
        """Make alive what `mask` says; weights and optimizer state of other places are 0 afterwards."""
        self.mask.copy_(mask)
        self.enforce(optimizer)

    @torch.no_grad()
    def enforce(self, optimizer: Optimizer | None = None) -> None:
        """Put inactive weights and their optimizer state back to 0, whatever moved them."""
        inactive = ~self.mask
        for tensor in self._per_weight_tensors(optimizer):
            tensor.masked_fill_(inactive, 0)

    def _per_weight_tensors(self, optimizer: Optimizer | None) -> Iterator[Tensor]:
        """The weight and every optimizer state of its shape."""
        yield self.weight
        if optimizer is None:
            return
        for value in optimizer.state.get(self.weight, {}).values():
            if isinstance(value, Tensor) and value.shape == self.weight.shape:
                yield value


def weight_of(module: nn.Module) -> nn.Parameter:
    """Return the weight parameter of a maskable module."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def has_mask(module: nn.Module) -> bool:
    """Say whether `module` has a mask."""
    return MASK in module._buffers


def attach_mask(module: nn.Module, mask: Tensor) -> None:
    """Put `mask` beside the weight of `module`, and zeros where it is False."""
    weight = weight_of(module)
    module.register_buffer(MASK, mask.to(device=weight.device, dtype=torch.bool), persistent=False)
    with torch.no_grad():
        weight.masked_fill_(~mask.to(weight.device), 0)


def remove_mask(module: nn.Module) -> None:
    """Take the mask from beside the weight of `module`; its zeros stay until they are trained."""
    set_gradient_hook(weight_of(module), None)
    delattr(module, MASK)
