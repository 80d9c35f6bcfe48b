"""Reading a `TrainConfig` from the command line and YAML, and writing it down again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse

from ndsnn.config import TrainConfig, default_output, flatten, from_plain, to_plain
from ndsnn.errors import ConfigError, RunError, unknown_name

CONFIG_FILE = "config.yaml"


@cache
def _settings_parser() -> jsonargparse.ArgumentParser:
    """Return a parser that keeps its defaults, for the many cells of a sweep."""
    return train_parser()


def train_parser() -> jsonargparse.ArgumentParser:
    """Return the parser of `ndsnn train`: every field of `TrainConfig` by its dotted name, and --config."""
    parser = jsonargparse.ArgumentParser(
        prog="ndsnn train",
        description="Train a sparse spiking network. Without options: NDSNN 0.7 → 0.95 on digits.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the same names; later options win.")
    parser.add_class_arguments(TrainConfig, None)
    return parser


def parse_train(arguments: Sequence[str]) -> TrainConfig:
    """Return the configuration that a command line asks for.

    With --resume, what is not given is taken from the run that is resumed.

    Raises:
        ConfigError: An option is unknown (the nearest is named), malformed or out of range.
    """
    arguments = _expand_flags(arguments)
    config = _parse(train_parser(), arguments)
    stored = Path(str(default_output(config).output)) / CONFIG_FILE
    if config.resume and stored.is_file():
        parser = train_parser()
        parser.set_defaults(to_plain(read_config(stored)))
        config = _parse(parser, arguments)
    return config


def parse_settings(settings: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that nested settings ask for; what is left out has its default.

    Raises:
        ConfigError: A setting is unknown (the nearest is named), malformed or out of range.
    """
    try:
        values = _settings_parser().parse_object(dict(settings)).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_explain(str(error))) from error
    values.pop("config", None)
    return from_plain(values)


def read_config(path: Path) -> TrainConfig:
    """Return the configuration that `config_to_yaml` wrote.

    Raises:
        RunError: The file is missing, altered or of another version.
    """
    try:
        return _parse(train_parser(), ["--config", str(path)])
    except ConfigError as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def config_to_yaml(config: TrainConfig) -> str:
    """Return the resolved configuration as YAML; a file to resume from says neither resume nor overwrite."""
    parser = train_parser()
    parser.set_defaults(to_plain(replace(config, resume=False, overwrite=False)))
    return str(parser.dump(parser.get_defaults(), skip_unset=False))


def _parse(parser: jsonargparse.ArgumentParser, arguments: Sequence[str]) -> TrainConfig:
    try:
        values = parser.parse_args(list(arguments)).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_explain(str(error))) from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"the configuration cannot be read: {error}") from error
    values.pop("config", None)
    return from_plain(values)


def _explain(message: str) -> str:
    """Return a parser's message in one line; for an unknown key, with the nearest known one."""
    known = ["config", *flatten(TrainConfig())]
    for pattern in (
        r"[Uu]nrecognized arguments: --(?P<key>[\w.]+)",
        r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'",
        r"Option '(?P<key>[\w.]+)' is not accepted",
        r'Key "(?P<key>[\w.]+)" is not expected',
    ):
        match = re.search(pattern, message)
        if match:
            found: dict[str, Any] = match.groupdict()
            key = f"{found['group']}.{found['key']}" if "group" in found else found["key"]
            return unknown_name("option", key, known)
    text = " ".join(message.split())
    return re.sub(r'^Parser key "([\w.]+)":', r"\1:", text)


def _expand_flags(arguments: Sequence[str]) -> list[str]:
    """Let `--resume` stand for `--resume true`, for every option that is true or false."""
    flags = {f"--{key}" for key, value in flatten(TrainConfig()).items() if isinstance(value, bool)}
    expanded: list[str] = []
    for position, argument in enumerate(arguments):
        expanded.append(argument)
        following = arguments[position + 1] if position + 1 < len(arguments) else "--"
        if argument in flags and following.startswith("--"):
            expanded.append("true")
    return expanded
