"""The masked form of a sparse layer: a plain `weight` with true zeros and a boolean mask beside it.

The mask is a non-persistent buffer `sparsity_mask` of the layer's module: it follows `.to(device)` and `deepcopy`,
and the state dict keeps its plain keys. What is alive is told by the mask, never by weight ≠ 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ndsnn.errors import CheckpointError, NonFiniteError, NotSparsifiedError, SparsityError
from ndsnn.sparse.selection import largest

MASK = "sparsity_mask"

MASKABLE: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Layers whose weight can be sparse, subclasses included; batch norm and biases never are."""

_gradient_hooks = WeakIdKeyDictionary()

GrowthScore = Callable[[Tensor, Tensor | None], Tensor]
"""Scores of inactive places from their flat positions [m] and their gradients [m] (None where not needed)."""


class SparseLayer:
    """A handle on one sparse layer: what is alive, what its gradient says, and how it is rewired.

    Positions are flat indices into `weight` in C order, int64 and ascending.

    Args:
        name: Path of the module in the network.
        module: A module of a `MASKABLE` type whose mask has been attached.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self._dense_gradient: Tensor | None = None
        self._accumulated: tuple[Tensor, int] | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The dense parameter, zero at inactive places."""
        return weight_of(self.module)

    @property
    def mask(self) -> Tensor:
        """True where a connection is alive; same shape as `weight`.

        Raises:
            NotSparsifiedError: The mask has been removed.
        """
        if not has_mask(self.module):
            raise NotSparsifiedError(f"layer {self.name!r} has no mask any more (ndsnn.to_dense removed it)")
        return self.module.get_buffer(MASK)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight (n_out, n_in, *kernel)."""
        return tuple(self.weight.shape)

    @property
    def size(self) -> int:
        """Number of places for a weight, alive or not."""
        return math.prod(self.shape)

    @property
    def nnz(self) -> int:
        """Number of alive weights."""
        return int(self.mask.sum())

    def active_positions(self) -> Tensor:
        """Positions of the alive weights [nnz]."""
        return torch.nonzero(self.mask.flatten()).flatten()

    def active_values(self) -> Tensor:
        """Values of the alive weights [nnz], in the order of `active_positions`."""
        return self.weight.detach()[self.mask]

    def watch_gradient(self, wanted: Callable[[], bool]) -> None:
        """Let only alive weights receive gradient, and keep the dense one while `wanted()` is true.

        A second call takes the place of the first, so the newest training method owns the gradient.

        Raises:
            SparsityError: The weight is frozen.
        """
        if not self.weight.requires_grad:
            raise SparsityError(
                f"layer {self.name!r} is frozen (requires_grad=False); unfreeze it, "
                f"or sparsify only what is trained"
            )
        stop_watching(self.weight)

        def keep_alive_part(weight: Tensor) -> None:
            gradient = weight.grad
            if gradient is None:
                return
            if wanted():
                self._keep_dense(gradient)
            gradient.masked_fill_(~self.mask, 0)
            self._accumulated = (gradient, gradient._version)

        _gradient_hooks[self.weight] = self.weight.register_post_accumulate_grad_hook(keep_alive_part)

    def _keep_dense(self, gradient: Tensor) -> None:
        """Keep the dense gradient; micro-batches that accumulate into the same `grad` are summed.

        Accumulating changes `grad` once; `zero_grad` in between changes it once more and begins a new sum.
        """
        before, version = self._accumulated or (None, 0)
        if self._dense_gradient is not None and before is gradient and gradient._version == version + 1:
            # Alive places of `gradient` hold the running sum already, the others this micro-batch alone.
            self._dense_gradient = torch.where(self.mask, gradient, self._dense_gradient + gradient)
        else:
            self._dense_gradient = gradient.detach().clone()

    def require_finite_gradient(self) -> None:
        """Check that the dense gradient of this step is there and finite.

        Raises:
            SparsityError: No backward pass has filled it.
            NonFiniteError: It holds NaN or infinity.
        """
        if self._dense_gradient is None:
            raise SparsityError(
                f"layer {self.name!r} has no gradient at an update step; call loss.backward() and "
                f"optimizer.step() before .step(), and create the method before the first backward pass"
            )
        if not bool(torch.isfinite(self._dense_gradient).all()):
            raise NonFiniteError(f"the gradient of layer {self.name!r} is not finite; no connection was changed")

    def release_gradient(self) -> None:
        """Forget the dense gradient."""
        self._dense_gradient = self._accumulated = None

    def select_growth(self, count: int, score: GrowthScore, dropped: Tensor, reborn: bool) -> Tensor:
        """Return the positions of the `count` best inactive places, ties from the lowest position on.

        Args:
            count: How many.
            score: Called with candidate positions [m] and their gradients [m].
            dropped: Positions that die in this round.
            reborn: Whether those may be chosen again.
        """
        inactive = ~self.mask.flatten()
        if reborn:
            inactive[dropped] = True
        candidates = torch.nonzero(inactive).flatten()
        gradient = None if self._dense_gradient is None else self._dense_gradient.flatten()[candidates]
        return candidates[largest(score(candidates, gradient), count)]

    @torch.no_grad()
    def rewire(self, dropped: Tensor, grown: Tensor, optimizer: torch.optim.Optimizer) -> None:
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

    @torch.no_grad()
    def enforce(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put inactive weights and their optimizer state back to 0, whatever moved them."""
        inactive = ~self.mask
        for tensor in self._per_weight_tensors(optimizer):
            tensor.masked_fill_(inactive, 0)

    def _per_weight_tensors(self, optimizer: torch.optim.Optimizer | None) -> Iterator[Tensor]:
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


def stop_watching(weight: Tensor) -> None:
    """Remove the gradient hook of `SparseLayer.watch_gradient`, if there is one."""
    handle = _gradient_hooks.pop(weight, None)
    if handle is not None:
        handle.remove()


def maskable_modules(net: nn.Module) -> dict[str, nn.Module]:
    """Return every module of `net` whose weight can be sparse, by its path, a shared weight once.

    Raises:
        SparsityError: A weight is no plain parameter (a parametrization or `torch.nn.utils.prune` holds it).
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in net.named_modules():
        if not isinstance(module, MASKABLE):
            continue
        if "weight" not in module._parameters or module._parameters["weight"] is None:
            raise SparsityError(
                f"layer {name!r} has no plain `weight` parameter (a parametrization or torch pruning holds it); "
                f"make it permanent first"
            )
        if id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[name] = module
    return found


def sparse_layers(net: nn.Module) -> list[SparseLayer]:
    """Return handles on the layers of `net` that have a mask, in the order of its modules."""
    return [SparseLayer(name, module) for name, module in maskable_modules(net).items() if has_mask(module)]


def has_mask(module: nn.Module) -> bool:
    """Say whether `module` has been sparsified."""
    return MASK in module._buffers


def attach_mask(module: nn.Module, mask: Tensor) -> None:
    """Put `mask` beside the weight of `module`, and zeros where it is False."""
    weight = weight_of(module)
    module.register_buffer(MASK, mask.to(device=weight.device, dtype=torch.bool), persistent=False)
    with torch.no_grad():
        weight.masked_fill_(~mask.to(weight.device), 0)


def remove_mask(module: nn.Module) -> None:
    """Take the mask from beside the weight of `module`; its zeros stay until they are trained."""
    stop_watching(weight_of(module))
    delattr(module, MASK)


def pack_mask(mask: Tensor) -> Tensor:
    """Return a boolean mask as bits, eight places to a byte, the first place in the lowest bit [⌈n/8⌉] uint8."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy(), bitorder="little"))


def unpack_mask(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the boolean mask of `shape` that `pack_mask` packed.

    Raises:
        CheckpointError: The number of bytes does not fit the shape.
    """
    size = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != (size + 7) // 8:
        raise CheckpointError(f"a packed mask of shape {shape} has {bits.numel()} bytes, not {(size + 7) // 8}")
    flat = np.unpackbits(bits.cpu().numpy(), count=size, bitorder="little")
    return torch.from_numpy(flat.astype(bool)).view(shape)
