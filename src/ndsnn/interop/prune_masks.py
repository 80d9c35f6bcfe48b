"""Masks of `torch.nn.utils.prune` and `torch.ao.pruning`: taken over into a sparse network, and given back.

`torch.nn.utils.prune` holds a pruned weight as the parameter `weight_orig` and the buffer `weight_mask`, and
multiplies them in a hook before each forward; `torch.ao.pruning` holds it in a parametrization `FakeSparsity`.
Both leave −0.0 and NaN at pruned places, and both rename state-dict keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from ndsnn.errors import ConfigError, SparsityError, unknown_name
from ndsnn.sparse.distributions import DISTRIBUTIONS
from ndsnn.sparse.sparsify import Distribution, recorded_distribution, require_sparse_layers, set_masks, to_dense
from ndsnn.sparse.topology import MASKABLE, is_sparse, maskable_modules, weight_shape

_ORIGINAL, _MASK = "weight_orig", "weight_mask"


@dataclass
class _Pruned:
    """A layer whose weight torch holds.

    Args:
        name: Its path in the network.
        module: The layer.
        parameter: The weight, with whatever stands at pruned places.
        mask: True where a connection is alive.
        hooks: Keys of the forward pre-hooks that multiply by the mask; none for a parametrization.
    """

    name: str
    module: nn.Module
    parameter: nn.Parameter
    mask: Tensor
    hooks: list[int] = field(default_factory=list)


def from_prune(net: nn.Module, distribution: str = "erk") -> nn.Module:
    """Take over the masks of `torch.nn.utils.prune` and `torch.ao.pruning`, in place.

    Afterwards the network is as after `sparsify`: plain parameters `weight`, which are the same objects as before,
    so that an optimizer of them goes on, with true zeros where the masks say so. Hooks, parametrizations and their
    state-dict keys are gone. Layers that torch has no mask for stay dense, as `dense_layers` of `sparsify` do.

    Args:
        net: A network in which torch holds the weight of at least one conv or linear layer.
        distribution: How methods that change the number of alive weights spread them over the layers: "erk", "er"
            or "uniform". Methods of constant sparsity keep the imported number of each layer.

    Returns:
        The same `net`.

    Raises:
        SparsityError: There is no such mask; a mask is not of zeros and ones, leaves nothing alive or belongs to
            anything but the weight of a conv or linear layer; something else holds a weight, too; or the network
            is sparse already. Nothing was changed.
        ConfigError: Unknown distribution.
    """
    if distribution not in DISTRIBUTIONS:
        raise ConfigError(unknown_name("distribution", distribution, DISTRIBUTIONS))
    pruned = list(_find(net))
    if not pruned:
        raise SparsityError(
            "torch holds no mask in this network; where pruning was made permanent, give the masks themselves: "
            "ndsnn.sparse.set_masks(net, masks, ndsnn.sparse.Distribution())"
        )
    _require_one_mask_each(pruned)
    _require_others_plain(net, pruned)
    for layer in pruned:
        _release(layer)
    modules = maskable_modules(net)
    masks = {layer.name: layer.mask for layer in pruned if layer.name in modules}
    dense = tuple(name for name in modules if name not in masks)
    ones = {name: torch.ones(weight_shape(modules[name]), dtype=torch.bool) for name in dense}
    return set_masks(net, masks | ones, Distribution(distribution, dense))


def to_prune(net: nn.Module) -> nn.Module:
    """Give the masks of a sparse network to `torch.nn.utils.prune`, in place.

    Each sparse layer holds `weight_orig`, the parameter that was its `weight`, and `weight_mask`; layers in
    `dense_layers` stay plain. `from_prune` takes it back. Training methods of `net` end with this.

    Args:
        net: A sparse network.

    Returns:
        The same `net`; of an accelerated or compressed network a plain one, as `ndsnn.to_dense` gives it.

    Raises:
        NotSparsifiedError: The network is dense.
    """
    layers = require_sparse_layers(net)
    spread = recorded_distribution(net) or Distribution()
    dense = spread.dense_names(layer.name for layer in layers)
    masks = {layer.name: layer.mask.clone() for layer in layers if layer.name not in dense}
    net = to_dense(net)
    for name, mask in masks.items():
        prune.custom_from_mask(net.get_submodule(name), "weight", mask)
    return net


def _find(net: nn.Module) -> Iterator[_Pruned]:
    """Yield what torch has masked.

    Raises:
        SparsityError: It cannot be taken over.
    """
    for name, module in net.named_modules():
        if isinstance(module, MASKABLE) and _plain(module) and is_sparse(module):
            raise SparsityError(f"layer {name!r} is sparse already; call ndsnn.to_dense(net) first")
        hooks = {k: h for k, h in module._forward_pre_hooks.items() if isinstance(h, prune.BasePruningMethod)}
        for hook in hooks.values():
            _require_weight(name, module, hook._tensor_name)
        if hooks:
            original, mask = module._parameters[_ORIGINAL], module.get_buffer(_MASK)
            assert original is not None
            yield _Pruned(name, module, original, _alive(name, mask, original), list(hooks))
        if parametrize.is_parametrized(module):
            yield from _find_parametrized(name, module)


def _find_parametrized(name: str, module: nn.Module) -> Iterator[_Pruned]:
    from torch.ao.pruning import FakeSparsity

    for tensor, steps in module.parametrizations.items():  # type: ignore[operator, union-attr]
        if not any(isinstance(step, FakeSparsity) for step in steps):
            continue
        _require_weight(name, module, tensor)
        if len(steps) > 1:
            others = ", ".join(type(step).__name__ for step in steps if not isinstance(step, FakeSparsity))
            raise SparsityError(
                f"the weight of layer {name!r} has a mask and {others or 'another mask'} as parametrizations; "
                f"make all but one mask permanent first"
            )
        yield _Pruned(name, module, steps.original, _alive(name, steps[0].mask, steps.original))


def _plain(module: nn.Module) -> bool:
    return module._parameters.get("weight") is not None


def _require_weight(name: str, module: nn.Module, tensor: str) -> None:
    if tensor != "weight" or not isinstance(module, MASKABLE):
        raise SparsityError(
            f"torch has a mask for {tensor!r} of {name!r} ({type(module).__name__}), but only weights of conv and "
            f"linear layers are sparse here; make it permanent first, as torch.nn.utils.prune.remove does"
        )


def _alive(name: str, mask: Tensor, weight: Tensor) -> Tensor:
    """Return a mask of zeros and ones as booleans."""
    if mask.shape != weight.shape:
        raise SparsityError(f"the mask of layer {name!r} is {tuple(mask.shape)}, its weight {tuple(weight.shape)}")
    alive = mask.detach() == 1
    if not bool((alive | (mask == 0)).all()):
        raise SparsityError(f"the mask of layer {name!r} has values other than 0 and 1")
    if not bool(alive.any()):
        raise SparsityError(f"the mask of layer {name!r} leaves no weight alive; prune less of it")
    return alive


def _require_one_mask_each(pruned: list[_Pruned]) -> None:
    """Check that layers which share a weight share the mask too."""
    first: dict[int, _Pruned] = {}
    for layer in pruned:
        other = first.setdefault(id(layer.parameter), layer)
        if not torch.equal(layer.mask, other.mask):
            raise SparsityError(f"layers {other.name!r} and {layer.name!r} share a weight, but not a mask")


def _require_others_plain(net: nn.Module, pruned: list[_Pruned]) -> None:
    """Check that nothing else holds a weight, be it a masked one or that of a layer without mask."""
    owners = {id(layer.parameter): layer.name for layer in pruned}
    known = {id(layer.module) for layer in pruned}
    known |= {id(layer.module.parametrizations["weight"]) for layer in pruned if not layer.hooks}  # type: ignore[index]
    for name, module in net.named_modules():
        if id(module) in known:
            continue
        if isinstance(module, MASKABLE) and not _plain(module):
            raise SparsityError(
                f"layer {name!r} has neither a plain `weight` parameter nor a mask of torch (another "
                f"parametrization holds it, such as weight norm or structured pruning); make it permanent first"
            )
        for parameter in module._parameters.values():
            if id(parameter) in owners:
                raise SparsityError(
                    f"{name!r} shares the weight of layer {owners[id(parameter)]!r}, but not its mask; "
                    f"give both the same mask, or each a weight of its own"
                )


def _release(layer: _Pruned) -> None:
    """Make `weight` the plain parameter, where it was before torch took it."""
    module = layer.module
    if layer.hooks:
        for key in layer.hooks:
            del module._forward_pre_hooks[key]
        del module._parameters[_ORIGINAL], module._buffers[_MASK]
        module.__dict__.pop("weight", None)
    else:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        del module._parameters["weight"]
    others = dict(module._parameters)
    module._parameters.clear()
    module._parameters.update({"weight": layer.parameter} | others)
