"""The layers of a network that can be sparse, and the handles on those that are, masked or compressed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ndsnn.errors import SparsityError
from ndsnn.sparse.bits import pack_mask, unpack_mask
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.compressed_layer import CompressedLayer, stop_watching
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.masked import MASK, MaskedLayer, attach_mask, has_mask, remove_mask, weight_of

__all__ = [
    "MASK",
    "MASKABLE",
    "RECORD",
    "SparseLayer",
    "alive_count",
    "alive_mask",
    "has_mask",
    "is_sparse",
    "make_plain",
    "make_sparse",
    "maskable_modules",
    "pack_mask",
    "sparse_layers",
    "unpack_mask",
    "weight_of",
    "weight_shape",
]

RECORD = "_ndsnn_distribution"
"""Attribute of a network that says how its alive weights are spread over its layers."""

MASKABLE: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    CompressedModule,
)
"""Layers whose weight can be sparse, subclasses included; batch norm and biases never are."""


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
                f"call ndsnn.from_prune(net) if it is a mask of torch, else make it permanent first"
            )
        if id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[name] = module
    return found


def sparse_layers(net: nn.Module) -> list[SparseLayer]:
    """Return handles on the sparse layers of `net`, masked or compressed, in the order of its modules."""
    return [
        CompressedLayer(name, module) if isinstance(module, CompressedModule) else MaskedLayer(name, module)
        for name, module in maskable_modules(net).items()
        if is_sparse(module)
    ]


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Return the shape (n_out, n_in, *kernel) of the dense weight of a maskable module."""
    return module.dense_shape if isinstance(module, CompressedModule) else tuple(weight_of(module).shape)


def alive_mask(module: nn.Module) -> Tensor:
    """Return the mask of a maskable module in the shape of the dense weight; all true where it has none."""
    if isinstance(module, CompressedModule):
        return module.mask()
    if has_mask(module):
        return module.get_buffer(MASK)
    return torch.ones_like(weight_of(module), dtype=torch.bool)


def alive_count(module: nn.Module) -> int:
    """Return how many weights of a maskable module are alive; all of them where it has no mask."""
    # A compressed layer holds nothing else.
    return int(module.get_buffer(MASK).sum()) if has_mask(module) else weight_of(module).numel()


def is_sparse(module: nn.Module) -> bool:
    """Say whether a maskable module is under sparse training, be all its weights alive or not."""
    return module.sparse if isinstance(module, CompressedModule) else has_mask(module)


def make_sparse(module: nn.Module, mask: Tensor) -> None:
    """Let the connections of `mask` [weight_shape] be the alive ones of a maskable module; what dies is 0."""
    if isinstance(module, CompressedModule):
        module.rearrange(mask.flatten().nonzero().flatten().to(module.weight.device))
        module.sparse = True
    else:
        attach_mask(module, mask)


def make_plain(module: nn.Module) -> None:
    """Take a module out of sparse training; its zeros may grow again.

    Raises:
        SparsityError: It is a compressed layer that has zeros.
    """
    if not isinstance(module, CompressedModule):
        remove_mask(module)
        return
    if module.positions is not None:
        raise SparsityError("a compressed layer with zeros cannot be trained dense; decompress it first")
    stop_watching(module)
    module.sparse = False
