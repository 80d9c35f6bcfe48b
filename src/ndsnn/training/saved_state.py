"""What the JSON of a checkpoint must look like before anything goes by it.

A checksum tells that a file is as it was written, not who wrote it. The tensors and what belongs to one class
(optimizer, method) are checked where they are put to use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ndsnn.sparse.storage import header_problem
from ndsnn.training.progress import Progress
from ndsnn.training.run_directory import METRICS, TOPOLOGY

Check = Callable[[Any], bool]

_PRINTED = {
    "": ("test_accuracy", "initial_sparsity", "final_sparsity", "peak_memory_mb", "seconds", "epochs", "seed"),
    "images": ("test",),
    "costs": (
        *("test_firing_rate", "synaptic_operations_per_image", "analog_operations_per_image"),
        "memory_footprint_bytes",
    ),
    "machine": ("threads",),
}
"""Numbers of a summary that are printed, by section."""

_PRINTED_IF_KNOWN = {"": ("best_epoch", "best_test_accuracy"), "costs": ("relative_training_cost",)}


def state_problem(state: Mapping[str, Any]) -> str | None:
    """Say which part of a run's checkpoint is malformed; None if none is.

    Args:
        state: Of a `Checkpoint`.
    """
    for name, (needed, check) in _PARTS.items():
        if name in state:
            if not check(state[name]):
                return f"the manifest of step {state['step']} is malformed ({name})"
        elif needed:
            return f"the manifest of step {state['step']} has no {name}"
    return None


def summary_problem(summary: Mapping[str, Any]) -> str | None:
    """Say which part of a summary.json that is shown of a run is missing or malformed; None if none is."""
    layers = summary.get("layers")
    if not isinstance(layers, list) or not all(map(is_layer_row, layers)):
        return "the table of its layers"
    for table, optional in ((_PRINTED, False), (_PRINTED_IF_KNOWN, True)):
        for section, names in table.items():
            values = summary.get(section) if section else summary
            for name in names:
                value = values.get(name) if isinstance(values, dict) else None
                if not (_is_number(value) or (optional and value is None)):
                    return f"{section} {name}".strip()
    return None


def is_layer_row(row: Any) -> bool:
    """Say whether an entry of a table of layers has what is printed of it, of the types that are printed."""
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("shape"), list):
        return False
    counts = [row.get("weights"), row.get("alive"), row.get("sparsity")]
    figures = [row.get("firing_rate"), row.get("operations"), row.get("share_of_operations", 0.0)]
    return all(map(_is_number, counts)) and all(n is None or _is_number(n) for n in figures)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _mapping_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_progress(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {item.name for item in fields(Progress)}:
        return False
    counts = ("epoch", "batch", "step", "best_epoch")
    return all(map(_is_number, value.values())) and all(_is_count(value.get(name)) for name in counts)


def _is_meter(value: Any) -> bool:
    counts = _mapping_of(_mapping_of(lambda number: isinstance(number, int | float)))
    return isinstance(value, dict) and all(counts(value.get(name)) for name in ("neurons", "synapses"))


def _are_rows(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {METRICS, TOPOLOGY} and all(map(_is_written, value.values()))


def _is_written(value: Any) -> bool:
    return isinstance(value, dict) and _is_count(value.get("bytes")) and _is_text(value.get("sha256"))


_PARTS: dict[str, tuple[bool, Check]] = {
    "step": (True, _is_count),
    "progress": (True, _is_progress),
    "data": (True, _is_text),
    "network": (True, lambda header: isinstance(header, dict) and header_problem(header) is None),
    "layers": (True, _list_of(is_layer_row)),
    "meter": (True, _is_meter),
    "scale": (False, _mapping_of(_is_number)),
    "rows": (False, _are_rows),
    "made_by": (False, _mapping_of(_is_text)),
    "changes": (False, _list_of(lambda value: isinstance(value, dict))),
}
"""Parts of the state: whether there is no checkpoint without it, and what it must be."""
