"""Checkpoints that survive a kill at any moment: safetensors with a JSON manifest, the previous good one kept.

A checkpoint is a pair: `NAME.safetensors` (tensors) and `NAME.json` (all else, with the SHA-256 of the tensors and
of itself). Both are written in full beside the old pair before any name changes. A reader takes any JSON and any
safetensors file of the directory whose checksums agree, newest first, so a kill between two renames loses nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ndsnn.atomic import sync_directory, write_temporary
from ndsnn.checksums import sha256
from ndsnn.errors import CheckpointError, SparsityError
from ndsnn.parsing import read_json
from ndsnn.ranks import Ranks
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.handle import parameters_of
from ndsnn.sparse.methods import SparseTraining
from ndsnn.sparse.storage import BROKEN_TENSORS, compressed_modules, pack_network, unpack_network
from ndsnn.sparse.topology import sparse_layers

FORMAT = "ndsnn-checkpoint"
VERSION = 1
NEW = ".tmp"
"""End of the name of a file that is being written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Args:
        tensors: All tensors by key.
        state: All else, JSON-able.
        path: The file it was read from.
        skipped: What was wrong with newer files that could not be used, a sentence each.
        unsettled: Whether a kill came before its files had their names.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path
    skipped: tuple[str, ...] = ()
    unsettled: bool = False


def save_checkpoint(directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write `last.safetensors` and `last.json`; what was last becomes `previous`.

    Returns:
        The path of the safetensors file.

    Raises:
        CheckpointError: It cannot be written; the old checkpoint is as it was.
    """
    data = safetensors.torch.save(dict(tensors))
    manifest = {"format": FORMAT, "version": VERSION, "sha256": sha256(data), "state": dict(state)}
    text = json.dumps(manifest | {"self": sha256(_canonical(manifest))}, indent=1).encode()
    last = directory / "last"
    new: list[Path] = []
    try:
        for suffix, content in ((".safetensors", data), (".json", text)):
            new.append(write_temporary(last.with_suffix(suffix), content))
        sync_directory(directory)
    except OSError as error:
        for temporary in new:
            temporary.unlink(missing_ok=True)
        kept = "the one before it is untouched: mend this and go on with --resume"
        if not directory.is_dir():
            kept = "the directory is gone, and the checkpoints in it with it"
        raise CheckpointError(
            f"cannot write a checkpoint in {directory}: {error.strerror or error}; {kept}"
        ) from error
    try:
        _exchange(directory)
    except OSError as error:
        raise CheckpointError(f"cannot rename a checkpoint in {directory}: {error.strerror or error}") from error
    return last.with_suffix(".safetensors")


def load_checkpoint(
    directory: Path, problem_of: Callable[[Mapping[str, Any]], str | None] = lambda state: None
) -> Checkpoint:
    """Read the newest checkpoint whose checksums agree.

    Args:
        directory: Where they are.
        problem_of: Says by its state why a checkpoint that is whole cannot be used; None where it can.

    Raises:
        CheckpointError: There is none.
    """
    problems: list[str] = []
    of_previous: list[str] = []  # of no interest where a newer one is good
    names = {f"last.json{NEW}": problems, "last.json": problems, "previous.json": of_previous}
    manifests = [(name, m) for name, notes in names.items() if (m := _manifest(directory / name, notes))]
    manifests.sort(key=lambda named: named[1]["state"]["step"], reverse=True)
    files: dict[str, tuple[Path, bytes]] = {}
    for path in _tensor_files(directory):
        try:
            data = path.read_bytes()
        except (OSError, MemoryError) as error:
            notes = of_previous if path.name.startswith("previous") else problems
            notes.append(f"{path.name} cannot be read ({getattr(error, 'strerror', None) or error!r})")
        else:
            files[sha256(data)] = (path, data)
    for name, manifest in manifests:
        state = manifest["state"]
        if name == "previous.json":
            problems += of_previous
        if manifest["sha256"] not in files:
            problems.append(
                f"no tensors in {directory} fit {name}, of step {state['step']} (truncated or altered)"
            )
        elif problem := problem_of(state):
            problems.append(problem)
        else:
            path, data = files[manifest["sha256"]]
            unsettled = name.endswith(NEW) or path.name.endswith(NEW)
            try:
                return Checkpoint(safetensors.torch.load(data), state, path, tuple(problems), unsettled)
            except BROKEN_TENSORS as error:
                problems.append(f"{path.name} is no safetensors file: {error}")
    problems += [note for note in of_previous if note not in problems]
    if not problems:
        raise CheckpointError(f"no usable checkpoint in {directory}: there is none")
    raise CheckpointError(
        f"no usable checkpoint in {directory}: {'; '.join(problems)}; bring these files back from a copy, or "
        f"begin the run again with --overwrite"
    )


def has_checkpoint(directory: Path) -> bool:
    """Say whether a checkpoint was ever completed in `directory`, usable still or not."""
    names = ("last.safetensors", "last.json", "previous.safetensors", "previous.json")
    return any((directory / name).is_file() for name in names)


def settle(directory: Path, good: Checkpoint) -> None:
    """Give the files of a checkpoint that was loaded their names, so that the next save does not push it out.

    What a kill has left half renamed is renamed; where `good` is the previous one, the pair `last` is set aside as
    `broken`.

    Raises:
        CheckpointError: They cannot be renamed.
    """
    try:
        if good.unsettled:
            _exchange(directory)
        elif good.path.name == "previous.safetensors":
            for suffix in (".json", ".safetensors"):
                last = directory / f"last{suffix}"
                if last.exists():
                    os.replace(last, directory / f"broken{suffix}")
        for half_written in directory.glob(f"last.*{NEW}"):
            half_written.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot rename a checkpoint in {directory}: {error.strerror or error}") from error


def _exchange(directory: Path) -> None:
    """Rename the pair `last` to `previous` and the new one to `last`; called again after a kill, it goes on."""
    new = [suffix for suffix in (".json", ".safetensors") if (directory / f"last{suffix}{NEW}").exists()]
    for suffix in new:
        if (directory / f"last{suffix}").exists():
            os.replace(directory / f"last{suffix}", directory / f"previous{suffix}")
    for suffix in reversed(new):
        os.replace(directory / f"last{suffix}{NEW}", directory / f"last{suffix}")
    sync_directory(directory)


def _tensor_files(directory: Path) -> Iterator[Path]:
    for name in (f"last.safetensors{NEW}", "previous.safetensors", "last.safetensors"):
        if (directory / name).is_file():
            yield directory / name


def _manifest(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Return a manifest that agrees with its own checksum, or None and a sentence in `problems`."""
    try:
        manifest = read_json(path)
        checksum = manifest.pop("self")
        intact = checksum == sha256(_canonical(manifest)) and type(manifest["state"]["step"]) is int
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if path.suffix != ".tmp":
            problems.append(f"{path.name} is truncated or altered ({type(error).__name__})")
        return None
    if not intact or manifest.get("format") != FORMAT:
        problems.append(f"{path.name} is truncated or altered (its checksum does not agree)")
        return None
    if not isinstance(manifest.get("sha256"), str):
        problems.append(f"{path.name} does not name its tensors")
        return None
    if manifest.get("version") != VERSION:
        problems.append(f"{path.name} has version {manifest.get('version')}; this ndsnn reads {VERSION}")
        return None
    return manifest


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


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
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this run: {error}") from error


def share_training(net: nn.Module, optimizer: torch.optim.Optimizer, method: SparseTraining, ranks: Ranks) -> None:
    """Bring network, masks, optimizer and method of every rank to rank 0's; all ranks call it.

    Raises:
        CheckpointError: A rank has another network, optimizer or method.
    """
    if ranks.alone:
        return
    tensors, state = pack_training(net, optimizer, method) if ranks.main else ({}, {})
    tensors, state = ranks.share_tensors(tensors), ranks.share(state)
    if not ranks.main:
        restore_training(Checkpoint(tensors, state, Path("the state of rank 0")), net, optimizer, method)


def share_network(net: nn.Module, ranks: Ranks) -> None:
    """Bring the network of every rank to rank 0's; all ranks call it.

    Raises:
        CheckpointError: A rank has another network.
    """
    if ranks.alone:
        return
    tensors, header = pack_network(net) if ranks.main else ({}, {})
    tensors, header = ranks.share_tensors(tensors), ranks.share(header)
    if not ranks.main:
        unpack_network(net, tensors, header)


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
