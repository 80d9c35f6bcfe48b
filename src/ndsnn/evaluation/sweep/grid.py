"""A grid of runs: a YAML file whose blocks list values of settings, and the cells that they span.

    name: table1
    directory: paper                # of the runs in runs/, shared by several grids; the name if left out
    base_file: recipe.yaml          # settings of ndsnn train, shared by several grids
    base: {model.time_steps: 5}     # of all cells; wins over base_file
    grids:                          # or `grid:` with one block
      - base: {epochs: 100}         # of the cells of this block
        method: [{name: set}, {name: ndsnn, initial_sparsity: 0.7}]
        method.final_sparsity: [0.9, 0.95]
        seed: [0, 1, 2]

A cell is one value of every list of a block. A value that is a mapping sets several settings together.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ndsnn.config import MACHINE_KEYS, TrainConfig, flatten
from ndsnn.config_parser import parse_settings
from ndsnn.errors import ConfigError, NdsnnError, unknown_name
from ndsnn.evaluation.sweep.cell_names import cell_name, numbered
from ndsnn.parsing import MOST_YAML, read_bytes, require_bounded_yaml
from ndsnn.sparse.methods import Dense
from ndsnn.training.build import method_settings, plan_epochs, resolve, resolve_method

GRID_KEYS = ("name", "directory", "base_file", "base", "grid", "grids")

SET_BY_SWEEP = frozenset({"output", "resume", "overwrite", "threads"})
"""Settings that a grid may not give."""

FREE_TO_DIFFER = (MACHINE_KEYS | {"dense_run"}) - {"engine", "precision"}
"""Settings in which a run may differ from the cell that it is taken for."""

LEAVES = frozenset(flatten(TrainConfig()))
SECTIONS = frozenset(leaf.rpartition(".")[0] for leaf in LEAVES if "." in leaf)
FREE_SECTION = "method.settings"

Flat = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Args:
        name: Of its directory; unique in the grid, and the same whatever other cells there are.
        config: Its settings, sparsities resolved, without output.
        dense: Name of the cell with the dense run of the same recipe and seed, if there is one.
    """

    name: str
    config: TrainConfig
    dense: str | None = None


@dataclass(frozen=True)
class Grid:
    """The cells of a grid file, each checked.

    Args:
        name: Of the sweep.
        directory: Name of the folder of its runs.
        cells: Dense ones first, else in the order of the file; each different from all others.
        source: The file's content, base files merged in.
    """

    name: str
    directory: str
    cells: tuple[Cell, ...]
    source: dict[str, Any]


def read_grid(path: Path) -> Grid:
    """Return the cells of a grid file.

    Raises:
        ConfigError: The file is missing or malformed, a key is unknown, or a cell's settings are wrong.
        SparsityError: The sparsities of a cell do not go with its method.
    """
    content = _read_mapping(path)
    for key in content:
        if key not in GRID_KEYS:
            raise ConfigError(f"{path}: {unknown_name('key of a grid', str(key), GRID_KEYS)}")
    if ("grid" in content) == ("grids" in content):
        raise ConfigError(f"{path}: a grid file has either grid (one block) or grids (a list of blocks)")
    base = _base_files(path, content) | flat_settings(content.get("base") or {}, f"{path}: base")
    blocks = content["grids"] if "grids" in content else [content["grid"]]
    if not isinstance(blocks, list) or not blocks:
        raise ConfigError(f"{path}: grids must be a list of blocks")
    name = content.get("name", path.stem)
    directory = content.get("directory", name)
    for key, text in {"name": name, "directory": directory}.items():
        if not isinstance(text, str) or not text or "/" in text or text.startswith("."):
            raise ConfigError(f"{path}: {key} {text!r} cannot be the name of a directory")
    cells: dict[str, Cell] = {}
    for number, block in enumerate(blocks, 1):
        for cell in _block_cells(base, block, f"{path}: block {number}"):
            cells.setdefault(identity(cell.config), cell)
    unique = numbered(list(cells.values()), [cell.name for cell in cells.values()])
    named = [Cell(label, cell.config) for label, cell in unique]
    source = {"name": name, "directory": directory, "base": base, "grids": blocks}
    return Grid(name, directory, with_dense_runs(named), source)


def with_dense_runs(cells: list[Cell]) -> tuple[Cell, ...]:
    """Return the dense cells, then the others, each with the name of the dense cell of its recipe and seed."""
    dense = {_recipe(cell.config): cell.name for cell in cells if is_dense(cell.config)}
    rest = [cell for cell in cells if not is_dense(cell.config)]
    found = [
        Cell(cell.name, cell.config, None if cell.config.dense_run else dense.get(_recipe(cell.config)))
        for cell in rest
    ]
    return (*(cell for cell in cells if is_dense(cell.config)), *found)


def is_dense(config: TrainConfig) -> bool:
    """Whether a configuration trains the dense network."""
    return issubclass(resolve_method(config.method.name), Dense)


def identity(config: TrainConfig) -> str:
    """Return a text that two configurations share if and only if the same run is meant."""
    return _text(flatten(config), FREE_TO_DIFFER)


def differences(stored: TrainConfig, asked: TrainConfig) -> list[str]:
    """Say in which settings that count a stored run differs from the cell that is asked for."""
    before, now = flatten(stored), flatten(asked)
    return [
        f"{key} = {before[key]}, not {now[key]}"
        for key in before
        if key not in FREE_TO_DIFFER and before[key] != now[key]
    ]


def flat_settings(settings: Any, where: str, prefix: str = "") -> Flat:
    """Return nested and dotted settings by their full dotted names.

    Raises:
        ConfigError: A name is no setting (the nearest is named), or one that a sweep sets itself.
    """
    if not isinstance(settings, Mapping):
        inside = f" {prefix[:-1]}" if prefix else ""
        raise ConfigError(f"{where}:{inside} must be a mapping of settings, not {settings!r}")
    flat: Flat = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in SET_BY_SWEEP:
            raise ConfigError(f"{where}: {name} is no setting of a grid; ndsnn sweep sets it (see its options)")
        if name == FREE_SECTION or name in SECTIONS:
            found = flat_settings({} if value is None else value, where, f"{name}.")
        elif name in LEAVES or name.startswith(f"{FREE_SECTION}."):
            found = {name: value}
        else:
            raise ConfigError(f"{where}: {unknown_name('setting', name, LEAVES)}")
        _require_apart(flat, found, where)
        flat |= found
    return flat


def nested_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted settings as nested mappings."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, leaf = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return nested


def _block_cells(base: Flat, block: Any, where: str) -> list[Cell]:
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where} must be a mapping of settings to lists of values, not {block!r}")
    own = flat_settings(block.get("base") or {}, f"{where}, base")
    axes = [_axis(key, values, where) for key, values in block.items() if key != "base"]
    cells = []
    for choice in itertools.product(*axes):
        chosen: Flat = {}
        for part in choice:
            _require_apart(chosen, part, where)
            chosen |= part
        settings = base | own | chosen
        cells.append(_checked_cell(settings, own | chosen, where))
    return cells


def _axis(key: str, values: Any, where: str) -> list[Flat]:
    """Return what each value of a list sets."""
    if not isinstance(values, list) or not values:
        flat_settings({key: values}, where)
        raise ConfigError(f"{where}: {key} must be a list of values, not {values!r}; put a single one into base")
    return [flat_settings({key: value}, where) for value in values]


def _checked_cell(settings: Flat, own: Flat, where: str) -> Cell:
    try:
        config = resolve(parse_settings(nested_settings(settings)))
        method_settings(config, resolve_method(config.method.name))
        plan_epochs(config)
    except NdsnnError as error:
        label = ", ".join(f"{key} {value}" for key, value in own.items())
        raise type(error)(f"{where}, cell {label}: {error}") from error
    return Cell(cell_name(config, own), config)


def _require_apart(first: Flat, second: Flat, where: str) -> None:
    for name in second:
        if name in first:
            raise ConfigError(f"{where}: {name} is set twice; say it in one place")


def _base_files(path: Path, content: Mapping[str, Any]) -> Flat:
    """Return the settings of all base files; later ones win."""
    named = content.get("base_file") or []
    flat: Flat = {}
    for name in named if isinstance(named, list) else [named]:
        file = path.parent / str(name)
        flat |= flat_settings(_read_mapping(file), str(file))
    return flat


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, MOST_YAML).decode()
        require_bounded_yaml(text)
        content = yaml.load(text, _UniqueKeys)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key that is given twice, which YAML would forget silently."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise yaml.YAMLError(f"key {key!r} stands twice in one mapping{node.start_mark}")
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _recipe(config: TrainConfig) -> str:
    """Return a text that a run shares with the dense run that it may be compared with."""
    flat = flatten(config)
    return _text(flat, MACHINE_KEYS | {"dense_run"} | {key for key in flat if key.startswith("method.")})


def _text(flat: Flat, left_out: frozenset[str]) -> str:
    return json.dumps({key: value for key, value in flat.items() if key not in left_out}, sort_keys=True)
