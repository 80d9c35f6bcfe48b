"""YAML that runs code, includes other files, or grows: recipes, grids, and the settings of a run."""

import json

import pytest
from attack_watch import refused

from ndsnn.cli import main
from ndsnn.config_parser import parse_train, read_config
from ndsnn.errors import ConfigError, RunError
from ndsnn.evaluation.sweep.directory import EVENTS, SweepDirectory, digest
from ndsnn.evaluation.sweep.grid import read_grid


def laughs(levels, width=9):
    """A list of which each level is `width` times the level before it, by aliases."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


ATTACKS = {
    "a call": "!!python/object/apply:os.mkdir [witness]",
    "a call in a value": "lr: !!python/object/apply:os.mkdir [witness]",
    "a new object": "data: !!python/object/new:os.mkdir [witness]",
    "a module": "data: !!python/module:attack_trap",
    "a name": "data: !!python/name:os.system",
    "a class path": "model: {class_path: attack_trap.Trap, init_args: {}}",
    "a class path of a text": "data: attack_trap.Trap",
    "billion laughs": laughs(9),
    "billion laughs in a setting": f"method: {{settings: {{{laughs(9).replace(chr(10), ', ')}}}}}",
    "quadratic": f"a: &a [{', '.join(['x'] * 2000)}]\nb: [{', '.join(['*a'] * 2000)}]",
    "an alias of itself": "data: &a [*a]",
    "an alias of itself in a mapping": "method: &a {settings: *a}",
    "deep lists": f"data: {'[' * 5000}",
    "deep mappings": f"method: {{settings: {'{a: ' * 500}1{'}' * 500}}}",
    "deep blocks": "".join(" " * n + f"a{n}:\n" for n in range(500)),
    "a huge number": f"epochs: {'9' * 5000}",
    "keys that are no text": "1: null\n2.5: x\n",
    "a list for a key": "? [a, b]\n: 1",
    "two documents": "--- {epochs: 1}\n--- {epochs: 2}",
    "no text": b"\xff\xfe\x00\x01",
    "control characters": "epochs: 1\x07\x1b[2J",
    "not a number": "lr: .nan",
    "infinite": "epochs: .inf",
    "a mapping for a number": "epochs: {a: 1}",
    "merge keys": "<<: {lr: -1}",
    "an unknown anchor": "lr: *nowhere",
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A function that writes a file into a folder that also has a module that must not be imported."""
    (tmp_path / "attack_trap.py").write_text("class Trap:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(content, name="config.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("content", ATTACKS.values(), ids=ATTACKS.keys())
def test_settings(file, content):
    path = file(content)
    with refused(RunError, "config.yaml cannot be read", trap="attack_trap"):
        read_config(path)
    with refused(ConfigError, r".", trap="attack_trap"):
        parse_train(["--config", str(path)])
    assert not (path.parent / "witness").exists()


@pytest.mark.parametrize("content", ATTACKS.values(), ids=ATTACKS.keys())
def test_grids(file, content):
    text = content if isinstance(content, bytes) else f"name: x\ngrid:\n  base: {{}}\n  seed: [0]\n{content}"
    path = file(text, "grid.yaml")
    with refused(ConfigError, r"grid\.yaml", trap="attack_trap"):
        read_grid(path)


@pytest.mark.parametrize("content", ["[" * 5000, "{a: " * 500, '"!!python/name:os.system"', "&a [*a]"])
def test_values_on_the_command_line(file, content):
    with refused(ConfigError, r".", trap="attack_trap"):
        parse_train([f"--method.settings={content}"])


@pytest.mark.parametrize(
    "text", ["data: other.yaml", "data: {events: other.yaml}", "model: [other.yaml]", "config: other.yaml"]
)
def test_the_settings_of_a_run_lead_to_no_other_file(file, text):
    file("name: cifar10\n", "other.yaml")
    path = file(text)
    with refused(RunError, "is no mapping of settings|names another file"):
        read_config(path)
    if "config" not in text:
        with refused(ConfigError, "is no mapping of settings"):
            parse_train(["--config", str(path)])


def test_a_long_message_is_cut(file):
    path = file(f"epochs: [{', '.join(['x' * 50] * 2000)}]")
    with pytest.raises(RunError) as caught:
        read_config(path)
    assert len(str(caught.value)) < 1500


GRID = "name: x\ngrid:\n  base: {epochs: 1, model.layers: [2], method.name: dense}\n  seed: [0]\n"


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "..", ".hidden", "", "a\\b", "a\x1b[2J"])
def test_cells_of_a_sweep_do_not_lead_outside(file, tmp_path, name):
    """The record of a sweep says under which name a cell was begun."""
    grid = read_grid(file(GRID, "grid.yaml"))
    sweep = SweepDirectory(tmp_path / "sweep")
    sweep.path.mkdir()
    row = {"cell": name, "event": "started", "identity": digest(grid.cells[0].config)}
    (sweep.path / EVENTS).write_text(json.dumps(row) + "\n")
    with refused(RunError, "no name of a run directory"):
        sweep.with_known_names(grid)


def test_records_of_a_sweep_that_are_none(file, tmp_path):
    grid = read_grid(file(GRID, "grid.yaml"))
    sweep = SweepDirectory(tmp_path / "sweep")
    sweep.path.mkdir()
    (sweep.path / EVENTS).write_text('{"cell": 3}\n{"identity": []}\n[1]\n{"event": {}}\n' + "[" * 5000 + "\n{}\n")
    assert sweep.with_known_names(grid) == grid
    assert sweep.failures() == {}


@pytest.mark.parametrize("name", ["../evil", "a/b", ".x", ""])
def test_a_grid_names_no_place_outside(file, name):
    path = file(GRID.replace("name: x", f"name: {name!r}"), "grid.yaml")
    with refused(ConfigError, "cannot be the name of a directory"):
        read_grid(path)


@pytest.mark.parametrize("arguments", [["sweep", "grid.yaml", "--dry-run"], ["train", "--config", "grid.yaml"]])
def test_commands_say_it_in_one_line(file, capsys, arguments):
    file("!!python/object/apply:os.mkdir [witness]", "grid.yaml")
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
