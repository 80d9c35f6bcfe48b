"""Sparse networks on disk: safetensors that hold alive values and where they stand, nothing of the zeros.

For each sparse weight `<key>` of the state dict the file has

    <key>.values      the alive values, in ascending order of flat position [nnz]
    <key>.bitmask     one bit per place, the first in the lowest bit of the first byte [⌈n/8⌉] uint8, or
    <key>.positions   the flat positions [nnz] int32 (int64 from 2³¹ places on), whichever of the two is smaller;
                      neither where every weight is alive

and every other tensor of the state dict under its own key. The file's metadata entry "ndsnn" is JSON: format,
version, layers, distribution and how the network was built, so that `load` can build it again, and the SHA-256 of
the file (`ndsnn.checksums`). No pickle.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ndsnn import models
from ndsnn.atomic import write_atomically
from ndsnn.checksums import seal_holds, sealed
from ndsnn.errors import CheckpointError, NdsnnError
from ndsnn.parsing import parse_json
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.packing import mask_of, pack_values, scatter, unpack_values
from ndsnn.sparse.sparsify import Distribution, record_distribution, recorded_distribution
from ndsnn.sparse.topology import is_sparse, make_plain, make_sparse, maskable_modules, sparse_layers

FORMAT = "ndsnn-sparse"
VERSION = 1

BROKEN_TENSORS = (safetensors.SafetensorError, ValueError, LookupError, TypeError, RuntimeError)
"""What reading a file raises that is no safetensors file, or has types or shapes that torch does not have."""


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

    def file(digits: str) -> bytes:
        return safetensors.torch.save(tensors, metadata={"ndsnn": json.dumps(header | {"sha256": digits})})

    try:
        write_atomically(Path(path), sealed(file))
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
    if net is None and header["architecture"] is None:
        raise CheckpointError(f"{path} does not say how its network is built; pass one: ndsnn.load(path, net)")
    try:
        contents = _parse(tensors, header)
        return _unpack(_build(header["architecture"], contents) if net is None else net, contents)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_sparse_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and header of a sparse file.

    Raises:
        CheckpointError: It is missing, broken or of another format, or its checksum does not agree.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = parse_json((file.metadata() or {}).get("ndsnn", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, *BROKEN_TENSORS) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no sparse network of ndsnn")
    if header.get("version") != VERSION:
        raise CheckpointError(f"{path} has format version {header.get('version')}; this ndsnn reads {VERSION}")
    if problem := header_problem(header):
        raise CheckpointError(f"{path}: its header is malformed ({problem})")
    if "sha256" in header and not seal_holds(_content(path), header["sha256"]):
        raise CheckpointError(f"{path} was altered after it was written; its checksum does not agree")
    return tensors, header


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def header_problem(header: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the entries of a header; None if nothing is."""
    layers = header.get("layers")
    if not isinstance(layers, dict):
        return "no layers"
    for key, entry in layers.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
            return f"the shape of {key!r}"
        alive = entry.get("alive")
        if type(alive) is not int or not 0 <= alive <= math.prod(shape):
            return f"the alive weights of {key!r}"
    for name in ("distribution", "architecture", "notes"):
        if not isinstance(header.get(name, None if name == "notes" else ""), dict | None):
            return f"its {name}"
    return None


def pack_network(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of `net` in the format above, the same for masked and compressed."""
    sparse = {weight_key(layer.name): layer for layer in sparse_layers(net)}
    compressed = compressed_modules(net)
    tensors: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        if key in sparse:
            layer = sparse[key]
            tensors |= pack_values(key, layer.active_values(), layer.active_positions(), layer.size)
        elif not _is_index(key, compressed):
            dense = value.view(compressed[key].dense_shape) if key in compressed else value
            tensors[key] = dense.detach().cpu().clone(memory_format=torch.contiguous_format)
    spread = recorded_distribution(net)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "layers": {key: {"shape": list(layer.shape), "alive": layer.nnz} for key, layer in sparse.items()},
        "distribution": None if spread is None else asdict(spread),
        "architecture": getattr(net, "build_config", None),
    }
    return tensors, header


def unpack_network(net: nn.Module, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> nn.Module:
    """Fill `net`, masked, compressed or dense, with tensors of the format above.

    All is checked before anything is changed.

    Raises:
        CheckpointError: Something is missing, malformed or belongs to another network.
    """
    return _unpack(net, _parse(tensors, header))


def build_network(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> nn.Module:
    """Build the network that a header of the format above describes, of the size that the tensors account for.

    Raises:
        CheckpointError: It cannot be built, is another one, or does not fit into the memory of this machine.
    """
    return _build(header["architecture"], _parse(tensors, header))


class _Contents(NamedTuple):
    """What a sparse file holds, checked by itself: tensors that are not sparse, and sparse layers."""

    plain: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    layers: dict[str, tuple[Tensor, Tensor | None]]
    distribution: Distribution

    def description(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return shape and dtype of each tensor of the dense state dict."""
        sparse = {key: (self.shapes[key], values.dtype) for key, (values, _) in self.layers.items()}
        return sparse | {key: (tuple(value.shape), value.dtype) for key, value in self.plain.items()}


def _parse(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> _Contents:
    try:
        shapes = {key: tuple(int(n) for n in entry["shape"]) for key, entry in header["layers"].items()}
        spread = header["distribution"] or asdict(Distribution())
        distribution = Distribution(str(spread["name"]), tuple(map(str, spread["dense_layers"])))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"its header is malformed ({error!r})") from error
    layers = {key: unpack_values(key, shape, tensors) for key, shape in shapes.items()}
    parts = {f"{key}.{part}" for key in layers for part in ("values", "bitmask", "positions")}
    plain = {key: value for key, value in tensors.items() if key not in parts}
    return _Contents(plain, shapes, layers, distribution)


def _build(architecture: Mapping[str, Any], contents: _Contents) -> nn.Module:
    """Build the network that a file describes, once it is known to be the one that the file fills.

    Raises:
        CheckpointError: It cannot be built, is another one, or does not fit into the memory of this machine.
    """
    described = contents.description()
    needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in described.values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise CheckpointError(f"its network has {needed / 1e9:,.1f} GB; this machine has {memory / 1e9:,.1f} GB")
    try:
        # Without memory first, so that nothing of a size that the file does not account for is ever allocated. A
        # user's own builder may not be able to do without.
        with contextlib.suppress(RuntimeError), torch.device("meta"):
            _require_same_tensors(_dense_description(models.build(architecture)), described)
        return models.build(architecture)
    except CheckpointError:
        raise
    except (NdsnnError, TypeError, LookupError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"it describes a network that cannot be built: {error}") from error


def _unpack(net: nn.Module, contents: _Contents) -> nn.Module:
    plain, shapes, layers, distribution = contents
    _require_same_tensors(_dense_description(net), contents.description())
    if unknown := sorted(layers.keys() - {weight_key(name) for name in maskable_modules(net)}):
        raise CheckpointError(f"it is of another architecture: {unknown[0]!r} cannot be sparse in the network")
    _fill(net, plain, shapes, layers)
    if layers:
        record_distribution(net, distribution)
    return net


def _fill(
    net: nn.Module,
    plain: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    layers: Mapping[str, tuple[Tensor, Tensor | None]],
) -> None:
    """Load tensors that are known to fit; layers of which only values and positions came become sparse."""
    compressed, modules = compressed_modules(net), maskable_modules(net)
    state = {key: value.flatten() if key in compressed else value for key, value in plain.items()}
    masks: dict[str, Tensor] = {}
    for key, (values, positions) in layers.items():
        if key in compressed:
            state[key] = values
            if positions is not None:
                state[f"{key.removesuffix('weight')}positions"] = positions
        else:
            masks[key] = mask_of(positions, shapes[key])
            state[key] = scatter(values, masks[key])
    net.load_state_dict(state)
    for name, module in modules.items():
        key = weight_key(name)
        if key in compressed and key in layers:
            compressed[key].sparse = True
        elif key in layers:
            make_sparse(module, masks[key])
        elif is_sparse(module):
            make_plain(module)


def weight_key(name: str) -> str:
    """Return the key of a layer's weight in the state dict of the network."""
    return f"{name}.weight" if name else "weight"


def compressed_modules(net: nn.Module) -> dict[str, CompressedModule]:
    """Return the compressed layers of `net` by the keys of their weights."""
    return {
        weight_key(name): module for name, module in net.named_modules() if isinstance(module, CompressedModule)
    }


def _is_index(key: str, compressed: Mapping[str, CompressedModule]) -> bool:
    """Say whether `key` of a state dict holds the positions of a compressed layer."""
    return key.endswith("positions") and f"{key.removesuffix('positions')}weight" in compressed


def _dense_description(net: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of each tensor of the state dict of `net`, as of a network that is not compressed."""
    compressed = compressed_modules(net)
    return {
        key: (compressed[key].dense_shape if key in compressed else tuple(value.shape), value.dtype)
        for key, value in net.state_dict().items()
        if not _is_index(key, compressed)
    }


def _require_same_tensors(
    mine: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    theirs: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    """Check that two networks have tensors of the same keys, shapes and dtypes."""
    for key in sorted(mine.keys() ^ theirs.keys()):
        where = "only in the network" if key in mine else "only in the file"
        raise CheckpointError(f"it is of another architecture: tensor {key!r} is {where}")
    for key, (shape, dtype) in mine.items():
        if (shape, dtype) != theirs[key]:
            raise CheckpointError(
                f"it is of another architecture: {key!r} is {theirs[key][1]} {theirs[key][0]} in the file, "
                f"{dtype} {shape} in the network"
            )
