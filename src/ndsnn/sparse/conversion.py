"""From plain or masked layers to compressed ones, and back to the very modules they were made from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ndsnn.errors import SparsityError
from ndsnn.models import layers
from ndsnn.sparse.compressed import CompressedConv2d, CompressedLinear, CompressedModule
from ndsnn.sparse.compressed_layer import stop_watching
from ndsnn.sparse.masked import MASK, attach_mask, has_mask, remove_mask, weight_of
from ndsnn.sparse.topology import RECORD, maskable_modules


def compress(net: nn.Module) -> nn.Module:
    """Replace every conv and linear layer of `net` by its compressed form, in place.

    Layers with a mask keep what is alive under it; those without are fully dense and not under sparse training.
    Weights become new parameters, so the optimizer is created afterwards; biases stay the parameters they are.

    Args:
        net: Any module whose conv and linear layers are `nn.Conv2d` and `nn.Linear` or subclasses of them that
            add no parameters. Compressed layers are left alone.

    Returns:
        The same `net`.

    Raises:
        SparsityError: A layer cannot be compressed; it is named, and nothing was changed.
    """
    modules = {
        path: module for path, module in maskable_modules(net).items() if not isinstance(module, CompressedModule)
    }
    _require_unshared(net, modules)
    for path, module in modules.items():
        _require_compressible(path, module)
    for path, module in modules.items():
        _replace(net, path, _compressed(module))
    return net


def decompress(net: nn.Module) -> nn.Module:
    """Put the modules back that `compress` replaced, in place, with their present weights.

    Layers under sparse training have a mask again. A compressed layer that was made as such becomes a
    `ndsnn.models.layers.Conv2d` or `Linear`. Training methods are created anew afterwards, as is the optimizer.

    Returns:
        The same `net`.

    Raises:
        SparsityError: `net` itself is a compressed layer, which cannot be replaced in place.
    """
    modules = [(path, module) for path, module in net.named_modules() if isinstance(module, CompressedModule)]
    for path, _ in modules:
        _require_inside(path)
    for path, module in modules:
        _replace(net, path, _decompressed(module))
    return net


def _compressed(module: nn.Module) -> CompressedModule:
    """Return the compressed form of a layer, and take weight, bias and mask out of the layer."""
    weight, sparse = weight_of(module), has_mask(module)
    positions = module.get_buffer(MASK).flatten().nonzero().flatten() if sparse else None
    flat = weight.detach().reshape(-1)
    values = nn.Parameter(flat.clone() if positions is None else flat[positions], weight.requires_grad)
    bias = module.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    compressed: CompressedModule
    if isinstance(module, nn.Conv2d):
        compressed = CompressedConv2d(
            module.in_channels,
            module.out_channels,
            (module.kernel_size[0], module.kernel_size[1]),
            values,
            positions,
            bias,
            stride=(module.stride[0], module.stride[1]),
            padding=_padding(module),
            sparse=sparse,
        )
    else:
        assert isinstance(module, nn.Linear)
        compressed = CompressedLinear(
            module.in_features, module.out_features, values, positions, bias, sparse=sparse
        )
    if sparse:
        remove_mask(module)
    if hasattr(module, RECORD):
        setattr(compressed, RECORD, getattr(module, RECORD))
    module._parameters["weight"] = module._parameters["bias"] = None
    compressed.origin = (module,)
    compressed.training = module.training
    return compressed


@torch.no_grad()
def _decompressed(compressed: CompressedModule) -> nn.Module:
    module = compressed.origin[0] if compressed.origin else _plain(compressed)
    dense = compressed.scatter(compressed.weight.detach().clone())
    module._parameters["weight"] = nn.Parameter(dense, compressed.weight.requires_grad)
    module._parameters["bias"] = compressed.bias
    module.training = compressed.training
    stop_watching(compressed)
    if compressed.sparse:
        attach_mask(module, compressed.mask())
    compressed.sparse = False
    return module


def _plain(compressed: CompressedModule) -> nn.Module:
    """Return a layer of ndsnn for a compressed one that was made as such; its parameters are yet to come."""
    if isinstance(compressed, CompressedConv2d):
        return layers.Conv2d(
            compressed.in_channels,
            compressed.out_channels,
            compressed.kernel_size,
            compressed.stride,
            compressed.padding,
            bias=False,
            device="meta",
        )
    assert isinstance(compressed, CompressedLinear)
    return layers.Linear(compressed.in_features, compressed.out_features, bias=False, device="meta")


def _require_unshared(net: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    owners = {id(module.weight): path for path, module in modules.items()}
    for path, module in net.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            owner = owners.get(id(parameter), path)
            if owner != path:
                raise SparsityError(f"layers {owner!r} and {path!r} share a weight, which cannot be compressed")


def _require_compressible(path: str, module: nn.Module) -> None:
    """Check that the compressed form can stand for a layer.

    Raises:
        SparsityError: It cannot.
    """
    _require_inside(path)
    name = f"layer {path!r}"
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        raise SparsityError(
            f"{name} is a {type(module).__name__}; only Conv2d and Linear layers have a compressed form"
        )
    own = [*(set(module._parameters) - {"weight", "bias"}), *(set(module._buffers) - {MASK}), *module._modules]
    if own:
        raise SparsityError(f"{name} ({type(module).__name__}) has {sorted(own)[0]!r} beside its weight and bias")
    if not isinstance(module, nn.Conv2d):
        return
    if module.groups != 1:
        raise SparsityError(f"{name} has groups={module.groups}; the compressed form has one group")
    if tuple(module.dilation) != (1, 1):
        raise SparsityError(f"{name} has dilation={module.dilation}; the compressed form has none")
    if module.padding_mode != "zeros":
        raise SparsityError(f"{name} has padding_mode={module.padding_mode!r}; the compressed form pads zeros")
    if module.padding == "same" and any(side % 2 == 0 for side in module.kernel_size):
        raise SparsityError(
            f"{name} has padding='same' with an even kernel {module.kernel_size}, which pads one side more than "
            f"the other; the compressed form pads both alike"
        )


def _require_inside(path: str) -> None:
    if not path:
        raise SparsityError("the network itself is a layer, which nothing can replace; put it in a Sequential")


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Return the zeros above and below, left and right."""
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        return (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    return (int(conv.padding[0]), int(conv.padding[1]))


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
