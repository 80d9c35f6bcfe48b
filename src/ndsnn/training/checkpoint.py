"""Checkpoints that survive a kill at any moment: safetensors with a JSON manifest, the previous good one kept.

A checkpoint is a pair: `NAME.safetensors` (tensors) and `NAME.json` (all else, with the SHA-256 of the tensors and
of itself). Both are written in full beside the old pair before any name changes. A reader takes any JSON and any
safetensors file of the directory whose checksums agree, newest first, so a kill between two renames loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ndsnn.atomic import sync_directory, write_temporary
from ndsnn.errors import CheckpointError, SparsityError
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.handle import parameters_of
from ndsnn.sparse.methods import SparseTraining
from ndsnn.sparse.storage import compressed_modules, pack_network, unpack_network
from ndsnn.sparse.topology import sparse_layers

FORMAT = "ndsnn-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Args:
        tensors: All tensors by key.
        state: All else, JSON-able.
        path: The file it was read from.
        skipped: What was wrong with newer files that could not be used, a sentence each.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path
    skipped: tuple[str, ...] = ()


def save_checkpoint(directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write `last.safetensors` and `last.json`; what was last becomes `previous`.

    Returns:
        The path of the safetensors file.

    Raises:
        CheckpointError: It cannot be written; the old checkpoint is as it was.
    """
    data = safetensors.torch.save(dict(tensors))
    manifest = {"format": FORMAT, "version": VERSION, "sha256": _sha256(data), "state": dict(state)}
    text = json.dumps(manifest | {"self": _sha256(_canonical(manifest))}, indent=1).encode()
    last, previous = directory / "last", directory / "previous"
    new: list[Path] = []
    try:
        directory.mkdir(exist_ok=True)
        for suffix, content in ((".safetensors", data), (".json", text)):
            new.append(write_temporary(last.with_suffix(suffix), content))
        sync_directory(directory)
    except OSError as error:
        for temporary in new:
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write a checkpoint in {directory}: {error.strerror or error}; the one before it is untouched"
        ) from error
    try:
        for suffix in (".json", ".safetensors"):
            if last.with_suffix(suffix).exists():
                os.replace(last.with_suffix(suffix), previous.with_suffix(suffix))
        for temporary in new:
            os.replace(temporary, temporary.with_suffix(""))
        sync_directory(directory)
    except OSError as error:
        raise CheckpointError(f"cannot rename a checkpoint in {directory}: {error.strerror or error}") from error
    return last.with_suffix(".safetensors")


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read the newest checkpoint whose checksums agree.

    Raises:
        CheckpointError: There is none.
    """
    problems: list[str] = []
    manifests = [
        m
        for name in ("last.json.tmp", "last.json", "previous.json")
        if (m := _manifest(directory / name, problems))
    ]
    manifests.sort(key=lambda manifest: manifest["state"]["step"], reverse=True)
    files: dict[str, tuple[Path, bytes]] = {}
    for path in _tensor_files(directory):
        try:
            data = path.read_bytes()
        except OSError as error:
            problems.append(f"{path.name} cannot be read ({error.strerror or error})")
        else:
            files[_sha256(data)] = (path, data)
    for manifest in manifests:
        if manifest["sha256"] in files:
            path, data = files[manifest["sha256"]]
            tensors = safetensors.torch.load(data)
            return Checkpoint(tensors, manifest["state"], path, tuple(problems))
        problems.append(f"no tensors in {directory} fit the manifest of step {manifest['state']['step']}")
    raise CheckpointError(f"no usable checkpoint in {directory}: {'; '.join(problems) or 'there is none'}")


def has_checkpoint(directory: Path) -> bool:
    """Say whether a checkpoint was ever completed in `directory`, usable still or not."""
    names = ("last.safetensors", "last.json", "previous.safetensors", "previous.json")
    return any((directory / name).is_file() for name in names)


def set_aside_broken(directory: Path, good: Checkpoint) -> None:
    """Rename the pair `last` to `broken`, so that the next save does not push a good `previous` out by it."""
    if good.path.name == "previous.safetensors":
        for suffix in (".json", ".safetensors"):
            last = directory / f"last{suffix}"
            if last.exists():
                os.replace(last, directory / f"broken{suffix}")


def _tensor_files(directory: Path) -> Iterator[Path]:
    for name in ("last.safetensors.tmp", "previous.safetensors", "last.safetensors"):
        if (directory / name).is_file():
            yield directory / name


def _manifest(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Return a manifest that agrees with its own checksum, or None and a sentence in `problems`."""
    try:
        manifest = json.loads(path.read_bytes())
        checksum = manifest.pop("self")
        intact = checksum == _sha256(_canonical(manifest)) and isinstance(manifest["state"]["step"], int)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if path.suffix != ".tmp":
            problems.append(f"{path.name} is truncated or altered ({type(error).__name__})")
        return None
    if not intact or manifest.get("format") != FORMAT:
        problems.append(f"{path.name} is truncated or altered (its checksum does not agree)")
        return None
    if manifest["version"] != VERSION:
        problems.append(f"{path.name} has version {manifest['version']}; this ndsnn reads {VERSION}")
        return None
    return manifest


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack_training(
    net: nn.Module, optimizer: torch.optim.Optimizer, method: SparseTraining
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and JSON of network, optimizer and method; state per weight only for alive weights."""
    network, header = pack_network(net)
    tensors = {f"network/{key}": value for key, value in network.items()}
    layers = {id(layer.weight): layer for layer in sparse_layers(net)}
    flat = {id(module.weight): module for module in compressed_modules(net).values() if not module.sparse}
    parameters = parameters_of(optimizer)
    saved = optimizer.state_dict()
    per_weight: dict[str, list[str]] = {}
    for index, entries in saved["state"].items():
        parameter = parameters[index]
        for name, value in entries.items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                continue
            if id(parameter) in layers:
                entries = entries | {name: layers[id(parameter)].alive_part(value)}
                per_weight.setdefault(str(index), []).append(name)
            elif id(parameter) in flat:
                entries = entries | {name: value.view(flat[id(parameter)].dense_shape)}
        saved["state"][index] = entries
    own = method.state_dict()
    del own["masks"]  # they stand beside the alive values already
    state = {
        "network": header,
        "optimizer": split_tensors(saved, "optimizer", tensors),
        "optimizer_per_weight": per_weight,
        "method": split_tensors(own, "method", tensors),
        "random": split_tensors(torch.get_rng_state(), "random", tensors),
    }
    return tensors, state


def restore_training(
    checkpoint: Checkpoint, net: nn.Module, optimizer: torch.optim.Optimizer, method: SparseTraining
) -> None:
    """Put network, optimizer, method and random generator back to where the checkpoint has them.

    Raises:
        CheckpointError: It belongs to another network, optimizer or method.
    """
    tensors, state = checkpoint.tensors, checkpoint.state
    try:
        unpack_network(net, network_tensors(checkpoint), state["network"])
        layers = {id(layer.weight): layer for layer in sparse_layers(net)}
        parameters = parameters_of(optimizer)
        saved = join_tensors(state["optimizer"], tensors)
        saved["state"] = {int(index): entries for index, entries in saved["state"].items()}
        for index, names in state["optimizer_per_weight"].items():
            entries, layer = saved["state"][int(index)], layers[id(parameters[int(index)])]
            for name in names:
                entries[name] = layer.per_weight(entries[name])
        for module in compressed_modules(net).values():
            if not module.sparse:
                _flatten_state(saved["state"], parameters, module)
        optimizer.load_state_dict(saved)
        own = join_tensors(state["method"], tensors)
        own["masks"] = {layer.name: layer.packed_mask() for layer in method.layers}
        method.load_state_dict(own)
        torch.set_rng_state(join_tensors(state["random"], tensors))
    except (CheckpointError, SparsityError) as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this run: {error}") from error


def _flatten_state(
    state: Mapping[int, dict[str, Any]], parameters: list[nn.Parameter], module: CompressedModule
) -> None:
    """Bring the optimizer state of a compressed weight without zeros from the dense shape into the weight's."""
    for index, parameter in enumerate(parameters):
        if parameter is module.weight:
            for name, value in state.get(index, {}).items():
                if isinstance(value, Tensor) and tuple(value.shape) == module.dense_shape:
                    state[index][name] = value.flatten()


def network_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of the network in a checkpoint, by the keys of a sparse file."""
    prefix = "network/"
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def split_tensors(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` with its tensors moved into `tensors` under keys that begin with `key`."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().clone().contiguous()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {str(name): split_tensors(part, f"{key}/{name}", tensors) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [split_tensors(part, f"{key}/{index}", tensors) for index, part in enumerate(value)]
    return value


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `split_tensors` (tuples come back as lists)."""
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {name: join_tensors(part, tensors) for name, part in value.items()}
    if isinstance(value, list):
        return [join_tensors(part, tensors) for part in value]
    return value
