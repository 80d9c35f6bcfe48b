"""What computes a run, in enough detail to notice that a stopped run goes on with something else."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import ndsnn
from ndsnn.config import TrainConfig
from ndsnn.engine import library
from ndsnn.training.acceleration import Engine
from ndsnn.training.machine import machine, versions

ROUNDING = ("precision", "device", "amp", "channels_last", "compile")
"""Settings that a resumed run may change, and that change how it rounds."""

_DIGITS = 12
"""Hex digits of a checksum that are shown."""


def provenance(engine: Engine, config: TrainConfig, processes: int = 1) -> dict[str, str]:
    """Return everything that a resumed run may have otherwise than before, and on which its bits depend.

    Args:
        engine: What computes it.
        config: Its settings.
        processes: That train it together.
    """
    here = machine()
    found = (
        versions()
        | {
            "source": source_checksum(),
            "engine": engine.name,
            "processor": str(here["processor"]),
            "torch_instruction_set": str(here["cpu_capability"]),
            "processes": str(processes),
        }
        | {name: str(getattr(config, name)) for name in ROUNDING}
    )
    if engine.name == "native":
        # Any number of threads gives the same bits there.
        return found | {"native_build": _native_checksum(), "instruction_set": str(engine.instruction_set)}
    return found | {"threads": str(torch.get_num_threads())}


def changes(before: Mapping[str, str] | None, now: Mapping[str, str]) -> dict[str, list[str | None]]:
    """Return what differs, [before, now] by name; nothing where it is not known what there was before."""
    if before is None:
        return {}
    names = [*now, *(name for name in before if name not in now)]
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}


def describe_changes(step: int, changed: Mapping[str, list[Any]]) -> str:
    """Return a sentence for the user."""
    what = ", ".join(
        f"{name.replace('_', ' ')} {old or 'none'} → {new or 'none'}" for name, (old, new) in changed.items()
    )
    return (
        f"what computes this run has changed since step {step}: {what}; it goes on, but its bits may differ from "
        f"those of a run without a stop (noted in summary.json)"
    )


@functools.cache
def source_checksum() -> str:
    """Return the beginning of the SHA-256 of all Python files of ndsnn, by their names and in their order."""
    root = Path(ndsnn.__file__).parent
    hasher = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        hasher.update(f"{path.relative_to(root).as_posix()}\n".encode())
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:_DIGITS]


@functools.cache
def _native_checksum() -> str:
    file = library.load().__file__
    return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()[:_DIGITS]
