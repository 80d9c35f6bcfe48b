"""Sparse networks on disk: safetensors that hold alive values and where they stand, nothing of the zeros.

For each sparse weight `<key>` of the state dict the file has

    <key>.values      the alive values, in ascending order of flat position [nnz]
    <key>.bitmask     one bit per place, the first in the lowest bit of the first byte [⌈n/8⌉] uint8, or
    <key>.positions   the flat positions [nnz] int32 (int64 from 2³¹ places on), whichever of the two is smaller;
                      neither where every weight is alive

and every other tensor of the state dict under its own key. The file's metadata entry "ndsnn" is JSON: format,
version, layers, distribution and how the network was built, so that `load` can build it again. No pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ndsnn import models
from ndsnn.atomic import write_atomically
from ndsnn.errors import CheckpointError, NdsnnError
from ndsnn.sparse.sparsify import Distribution, recorded_distribution, set_masks
from ndsnn.sparse.topology import pack_mask, remove_mask, sparse_layers, unpack_mask

FORMAT = "ndsnn-sparse"
VERSION = 1


def save(net: nn.Module, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write a network to a safetensors file; alive weights only.

    Args:
        net: A network, sparse or not.
        path: Where to; an existing file is replaced in one step.
        notes: Anything JSON-able to keep beside the network, in the header's "notes"; `load` does not read it.

    Raises:
        CheckpointError: The file cannot be written.
    """
    tensors, header = pack_network(net)
    header["notes"] = dict(notes or {})
    data = safetensors.torch.save(tensors, metadata={"ndsnn": json.dumps(header)})
    try:
        write_atomically(Path(path), data)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def load(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """Read a network that `save` wrote.

    Args:
        path: The file.
        net: A network of the same layers to fill; None builds the one the file describes, which works for
            networks of `ndsnn.models`.

    Returns:
        The network with its weights and masks, in training mode like any new module.

    Raises:
        CheckpointError: The file is missing, broken, of another network, or does not say how to build it.
    """
    tensors, header = read_sparse_file(Path(path))
    if net is None:
        if header["architecture"] is None:
            raise CheckpointError(f"{path} does not say how its network is built; pass one: ndsnn.load(path, net)")
        try:
            net = models.build(header["architecture"])
        except (NdsnnError, TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} describes a network that cannot be built: {error}") from error
    try:
        return unpack_network(net, tensors, header)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_sparse_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and header of a sparse file.

    Raises:
        CheckpointError: It is missing, broken or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ndsnn", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no sparse network of ndsnn")
    if header.get("version") != VERSION:
        raise CheckpointError(f"{path} has format version {header.get('version')}; this ndsnn reads {VERSION}")
    return tensors, header


def pack_network(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of `net` in the format above."""
    masked = {f"{layer.name}.weight" if layer.name else "weight": layer for layer in sparse_layers(net)}
    tensors: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        if key in masked:
            tensors |= pack_weight(key, value, masked[key].mask)
        else:
            tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    spread = recorded_distribution(net)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "layers": {key: {"shape": list(layer.shape), "alive": layer.nnz} for key, layer in masked.items()},
        "distribution": None if spread is None else asdict(spread),
        "architecture": getattr(net, "build_config", None),
    }
    return tensors, header


def unpack_network(net: nn.Module, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> nn.Module:
    """Fill `net` with tensors of the format above; all is checked before anything is changed.

    Raises:
        CheckpointError: Something is missing, malformed or belongs to another network.
    """
    try:
        layers = {key: tuple(int(n) for n in entry["shape"]) for key, entry in header["layers"].items()}
        spread = header["distribution"] or asdict(Distribution())
        distribution = Distribution(str(spread["name"]), tuple(map(str, spread["dense_layers"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"its header is malformed ({error!r})") from error
    state: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for key, shape in layers.items():
        name = key.removesuffix("weight").removesuffix(".")
        state[key], masks[name] = unpack_weight(key, shape, tensors)
    parts = {f"{key}.{part}" for key in layers for part in ("values", "bitmask", "positions")}
    state |= {key: value for key, value in tensors.items() if key not in parts}
    _require_same_tensors(net.state_dict(), state)
    net.load_state_dict(state)
    for layer in sparse_layers(net):
        if layer.name not in masks:
            remove_mask(layer.module)
    if masks:
        set_masks(net, masks, distribution)
    return net


def pack_weight(key: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the alive values of a per-weight tensor and, where some are not alive, their places."""
    tensors = {f"{key}.values": weight.detach()[mask].cpu()}
    alive, size = tensors[f"{key}.values"].numel(), mask.numel()
    wide = size >= 2**31
    if alive == size:
        return tensors
    if alive * (8 if wide else 4) < (size + 7) // 8:
        positions = torch.nonzero(mask.flatten().cpu()).flatten()
        tensors[f"{key}.positions"] = positions if wide else positions.to(torch.int32)
    else:
        tensors[f"{key}.bitmask"] = pack_mask(mask)
    return tensors


def unpack_weight(key: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the dense weight and the mask of `shape` that `pack_weight` packed.

    Raises:
        CheckpointError: Parts are missing or contradict each other.
    """
    values = tensors.get(f"{key}.values")
    if values is None or values.ndim != 1 or any(n < 0 for n in shape):
        raise CheckpointError(f"the alive values of {key!r} are missing or malformed")
    size = math.prod(shape)
    mask = _unpack_places(key, shape, size, tensors)
    if int(mask.sum()) != values.numel():
        raise CheckpointError(f"{key!r} has {values.numel()} values for {int(mask.sum())} alive places")
    return scatter(values, mask), mask


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Return a dense tensor with `values` [nnz] where `mask` is true and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter_(mask, values)


def _unpack_places(key: str, shape: tuple[int, ...], size: int, tensors: Mapping[str, Tensor]) -> Tensor:
    positions, bits = tensors.get(f"{key}.positions"), tensors.get(f"{key}.bitmask")
    if bits is not None:
        return unpack_mask(bits, shape)
    if positions is None:
        return torch.ones(shape, dtype=torch.bool)
    if positions.ndim != 1 or positions.dtype not in (torch.int32, torch.int64):
        raise CheckpointError(f"the positions of {key!r} are malformed")
    places = positions.to(torch.int64)
    if places.numel() and (
        int(places[0]) < 0 or int(places[-1]) >= size or bool((places[1:] <= places[:-1]).any())
    ):
        raise CheckpointError(f"the positions of {key!r} are not ascending places of a weight of shape {shape}")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[places] = True
    return mask.view(shape)


def _require_same_tensors(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Check that two state dicts have the same keys, shapes and dtypes."""
    for key in sorted(mine.keys() ^ theirs.keys()):
        where = "only in the network" if key in mine else "only in the file"
        raise CheckpointError(f"it is of another architecture: tensor {key!r} is {where}")
    for key, value in mine.items():
        if value.shape != theirs[key].shape or value.dtype != theirs[key].dtype:
            raise CheckpointError(
                f"it is of another architecture: {key!r} is {theirs[key].dtype} {tuple(theirs[key].shape)} in the "
                f"file, {value.dtype} {tuple(value.shape)} in the network"
            )
