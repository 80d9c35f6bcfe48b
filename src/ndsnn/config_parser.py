"""Reading a `TrainConfig` from the command line and YAML, and writing it down again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from ndsnn.checksums import seal_holds, sealed
from ndsnn.config import TrainConfig, default_output, flatten, from_plain, to_plain
from ndsnn.errors import ConfigError, RunError, unknown_name
from ndsnn.parsing import MOST_YAML, read_bytes, require_bounded_yaml

CONFIG_FILE = "config.yaml"
SEAL = "# sha256 "
"""Beginning of the first line of a run's configuration; after it stands the checksum of the file."""
_MODE = "ndsnn-yaml"
_LONGEST = 1000


def _load_yaml(text: str) -> Any:
    """Return the plain values of a YAML text as jsonargparse takes them, once it is known what they grow to."""
    require_bounded_yaml(text)
    try:
        value = jsonargparse.get_loader("yaml")(text)
    except (TypeError, ValueError, AttributeError) as error:
        raise yaml.YAMLError(f"a key or a value cannot be read: {error}") from error
    if _names_class(value):
        raise yaml.YAMLError("class_path is no setting, and nothing that it names is imported")
    if isinstance(value, Mapping) and (section := _text_for_section(value)):
        raise yaml.YAMLError(f"{section} is no mapping of settings, and no file or class that it names is read")
    return value


def _text_for_section(content: Mapping[str, Any], prefix: str = "") -> str | None:
    """Return the section that is given as a text, which jsonargparse takes for a file or a class to import."""
    sections = {key.rpartition(".")[0] for key in flatten(TrainConfig())} - {""}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if found := _text_for_section(value, f"{name}."):
                return found
        elif name in sections and value is not None:
            return name
    return None


def _names_class(value: Any) -> bool:
    """Say whether jsonargparse would import a class for `value`, which it does even where it then refuses it."""
    if isinstance(value, Mapping):
        return "class_path" in value or any(map(_names_class, value.values()))
    return isinstance(value, list) and any(map(_names_class, value))


jsonargparse.set_loader(_MODE, _load_yaml, exceptions=(yaml.YAMLError,))


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
        parser_mode=_MODE,
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
    if _names_class(settings):
        raise ConfigError("class_path is no setting; leave it out")
    try:
        values = _settings_parser().parse_object(dict(settings)).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_explain(str(error))) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"the settings cannot be read: {error}") from error
    values.pop("config", None)
    return from_plain(values)


def read_config(path: Path) -> TrainConfig:
    """Return the configuration of a run or of a sweep's cell.

    Raises:
        RunError: The file is missing, truncated, altered or of another version.
    """
    try:
        data = read_bytes(path, MOST_YAML)
        _require_intact(path, data)
        content = _load_yaml(data.decode())
        if not isinstance(content, dict):
            raise ConfigError("it holds no settings")
        if "config" in content:
            raise ConfigError("it names another file by config, which only a recipe to train from may do")
        return parse_settings(content)
    except (ConfigError, yaml.YAMLError, OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {_one_line(str(error))}") from error


def config_to_yaml(config: TrainConfig) -> str:
    """Return the resolved configuration as YAML; a file to resume from says neither resume nor overwrite."""
    parser = train_parser()
    parser.set_defaults(to_plain(replace(config, resume=False, overwrite=False)))
    return str(parser.dump(parser.get_defaults(), skip_unset=False))


def sealed_config(text: str) -> bytes:
    """Return the bytes of a run's configuration: `text` below a line with the checksum of the file."""
    return sealed(lambda digits: f"{SEAL}{digits}\n{text}".encode())


def _require_intact(path: Path, data: bytes) -> None:
    """Check the checksum of a run's configuration; one of an earlier version, or a recipe, has none.

    Raises:
        RunError: It does not agree.
    """
    first = data.split(b"\n", 1)[0]
    if first.startswith(SEAL.encode()) and not seal_holds(data, first[len(SEAL) :].decode("utf-8", "replace")):
        raise RunError(f"{path} was altered after it was written; its checksum does not agree")


def _parse(parser: jsonargparse.ArgumentParser, arguments: Sequence[str]) -> TrainConfig:
    try:
        values = parser.parse_args(list(arguments)).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_explain(str(error))) from error
    except (ValueError, TypeError, OSError, RecursionError) as error:
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
    return re.sub(r'^Parser key "([\w.]+)":', r"\1:", _one_line(message))


def _one_line(message: str) -> str:
    """Return a message in one line, without most of what it quotes from a file where that is long."""
    text = " ".join(message[: 4 * _LONGEST].split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


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
