"""Names of a sweep's cells: readable, and decided by the cell alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ndsnn.config import TrainConfig

Item = TypeVar("Item")

IN_EVERY_NAME = frozenset(
    {
        "data.name",
        "model.name",
        "model.time_steps",
        "method.name",
        "method.initial_sparsity",
        "method.final_sparsity",
        "seed",
    }
)

LONGEST_VALUE = 24
"""Characters of a setting's value; longer ones are named by a hash."""


def cell_name(config: TrainConfig, own: Mapping[str, Any]) -> str:
    """Return data-model-tT-method-θi-θf-…-seedS.

    θi is left out where it is θf, and both for a dense run. Where a block sets anything else, that stands there
    too.

    Args:
        config: The cell's settings, sparsities resolved.
        own: What its block sets, by dotted name.
    """
    method = config.method
    initial, final = method.initial_sparsity, method.final_sparsity
    sparsities = [f"{value:g}" for value in dict.fromkeys((initial, final)) if value is not None]
    parts = [config.data.name, config.model.name, f"t{config.model.time_steps}", method.name.replace(":", ".")]
    parts += sparsities if final else []
    parts += [f"{key.rpartition('.')[2]}={_slug(value)}" for key, value in own.items() if key not in IN_EVERY_NAME]
    return "-".join([*parts, f"seed{config.seed}"])


def numbered(items: Sequence[Item], names: Sequence[str]) -> list[tuple[str, Item]]:
    """Return the items with their names; of equal names, the second becomes name-2, the third name-3."""
    seen: dict[str, int] = {}
    pairs = []
    for item, name in zip(items, names, strict=True):
        seen[name] = seen.get(name, 0) + 1
        pairs.append((name if seen[name] == 1 else f"{name}-{seen[name]}", item))
    return pairs


def _slug(value: Any) -> str:
    if isinstance(value, list):
        text = "-".join(str(part) for part in value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    text = re.sub(r"[^\w.+-]", "_", text)
    if len(text) <= LONGEST_VALUE:
        return text
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
