"""Settings: parsing, checking, writing down."""

from dataclasses import fields, is_dataclass, replace

import pytest

from ndsnn.config import (
    MACHINE_KEYS,
    MethodConfig,
    ModelConfig,
    TrainConfig,
    flatten,
    from_plain,
    require_same_run,
    to_plain,
)
from ndsnn.config_parser import config_to_yaml, parse_train, read_config
from ndsnn.errors import ConfigError, RunError
from ndsnn.neurons import LIFParameters


def test_defaults_are_the_demo():
    config = parse_train([])
    assert config == TrainConfig()
    assert (config.method.name, config.data.name) == ("ndsnn", "digits")


def test_yaml_round_trip(tmp_path):
    config = TrainConfig(
        model=ModelConfig("vgg", 3, 0.5, (8, "M", 16), "tdbn", LIFParameters(2.0, v_reset=None)),
        method=MethodConfig("dst-ee", dense_layers=("features.0", "class*"), settings={"exploration": 0.5}),
        output="there",
    )
    (tmp_path / "c.yaml").write_text(config_to_yaml(config))
    assert read_config(tmp_path / "c.yaml") == config
    assert from_plain(to_plain(config)) == config


def test_command_line_wins_over_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: 7\nlr: 0.5\nmodel:\n  time_steps: 3\n  neuron:\n    v_reset: null\n")
    config = parse_train(["--config", str(tmp_path / "c.yaml"), "--lr", "0.25", "--model.layers", "[8,M,16]"])
    assert (config.epochs, config.lr, config.model.time_steps) == (7, 0.25, 3)
    assert config.model.neuron.v_reset is None
    assert config.model.layers == (8, "M", 16)


def test_flags_need_no_value():
    assert parse_train(["--overwrite", "--epochs", "3"]).overwrite
    assert parse_train(["--overwrite"]).overwrite
    assert not parse_train(["--overwrite", "false"]).overwrite


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochz", "3"], "unknown option 'epochz'; did you mean 'epochs'"),
        (["--method.final_sparsty=0.9"], "did you mean 'method.final_sparsity'"),
        (["--model.neuron.taw", "2"], "did you mean 'model.neuron.tau'"),
        (["--epochs", "many"], "epochs: Expected"),
        (["--epochs", "1.5"], "epochs: Expected"),
        (["--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["--model.time_steps", "0"], "model.time_steps is 0"),
        (["--batch_size", "-4"], "batch_size is -4"),
        (["--lr", "0"], "lr is 0"),
        (["--lr", "nan"], "Got value: nan"),
        (["--weight_decay", "-1"], "weight_decay is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--optimizer", "sdg"], "optimizer"),
        (["--optimizer", "adam", "--momentum", "0.5"], "momentum is a setting of optimizer sgd"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--engine", "fast"], "engine"),
        (["--engine", "reference", "--memory", "recompute"], "recompute needs the native engine"),
        (["--engine", "reference", "--precision", "mixed"], "mixed needs the native engine"),
        (["--config", "/nowhere.yaml"], "does not exist"),
        (["stray"], "stray"),
    ],
)
def test_bad_settings(arguments, words):
    with pytest.raises(ConfigError) as error:
        parse_train(arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("epochz: 3\n", "did you mean 'epochs'"),
        ("method:\n  final_sparsty: 0.9\n", "did you mean 'method.final_sparsity'"),
        ("methd:\n  name: set\n", "'methd"),
        ("method: [1\n", "parsing"),
        ("epochs: soon\n", "epochs"),
        ("method: null\n", "method"),
        ("method:\n  dense_layers: null\n", "dense_layers"),
        ("model:\n  neuron: null\n", "neuron"),
    ],
)
def test_bad_yaml(tmp_path, yaml, words):
    (tmp_path / "c.yaml").write_text(yaml)
    with pytest.raises(ConfigError) as error:
        parse_train(["--config", str(tmp_path / "c.yaml")])
    assert words in str(error.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00epochs")
    with pytest.raises(ConfigError):
        parse_train(["--config", str(tmp_path / "c.yaml")])


def test_an_altered_config_of_a_run_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: [")
    with pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        read_config(tmp_path / "config.yaml")


def test_resume_takes_what_is_not_given_from_the_run(tmp_path):
    neuron = LIFParameters(v_reset=None)
    config = TrainConfig(model=ModelConfig(neuron=neuron), epochs=5, lr=0.03, output=str(tmp_path))
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert parse_train(["--output", str(tmp_path), "--resume"]) == replace(config, resume=True)
    changed = parse_train(["--output", str(tmp_path), "--resume", "--lr", "0.5"])
    with pytest.raises(ConfigError, match=r"lr = 0\.03, not 0\.5"):
        require_same_run(config, changed)
    require_same_run(config, parse_train(["--output", str(tmp_path), "--resume", "--threads", "1"]))


def test_every_field_is_documented():
    def check(cls):
        for field in fields(cls):
            assert f"{field.name}: " in cls.__doc__, (cls, field.name)

    defaults = TrainConfig()
    for part in (defaults, defaults.data, defaults.model, defaults.model.neuron, defaults.method):
        assert is_dataclass(part)
        check(type(part))
    assert set(flatten(defaults)) >= MACHINE_KEYS
