"""Runs on recordings of events: the command line from official files to a summary, and bit-equal resume."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import elsewhere, on_engine, quiet, require_same_run

from ndsnn import data as nd
from ndsnn.cli import main
from ndsnn.config import DataConfig, EventConfig, MethodConfig, ModelConfig, TrainConfig
from ndsnn.config_parser import read_config
from ndsnn.errors import ConfigError
from ndsnn.evaluation.sweep.estimate import network_use, planned_images
from ndsnn.training.build import build_model, load_data, resolve
from ndsnn.training.inspect import evaluate_run
from ndsnn.training.run import train

sys.path.append(str(Path(__file__).parent.parent / "data"))
from event_files import make_nmnist, make_shd

ROOMS = Path(__file__).parent.parent.parent / "experiments" / "events"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    make_nmnist(folder, per_class=10, test_per_class=3, count=400)
    make_shd(folder, train=100, test=40)
    return folder


@pytest.fixture
def config(root, tmp_path):
    nd.prepare("nmnist", root, events=EventConfig(frames=3, downsample=2))
    return TrainConfig(
        data=DataConfig("nmnist", str(root), events=EventConfig(frames=3, downsample=2, shift=1, drop=0.1)),
        model=ModelConfig("mlp", time_steps=3, layers=(32,)),
        method=MethodConfig("ndsnn", 0.5, 0.7, update_every=4),
        epochs=8,
        batch_size=16,
        threads=1,
        output=str(tmp_path / "run"),
    )


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_learns(config, engine):
    summary = train(on_engine(replace(config, epochs=12), engine), quiet())
    assert summary["test_accuracy"] > 0.6  # ten classes
    assert summary["images"] == {"train": 90, "validation": 10, "test": 30}
    assert summary["layers"][0]["operation"] == "multiply-add"
    assert summary["config"]["data"]["events"]["split_by"] == "count"
    found = evaluate_run(Path(config.output), "last")
    assert found["accuracy"] == pytest.approx(summary["test_accuracy"])


def test_resume_is_bit_equal(config, run_until):
    config = on_engine(replace(config, epochs=2, method=MethodConfig("snip", None, 0.7)), "reference")
    run_until(config)
    stopped = elsewhere(config, "stopped")
    run_until(stopped, 3)
    run_until(replace(stopped, resume=True), 8)
    run_until(replace(stopped, resume=True))
    require_same_run(Path(config.output), Path(stopped.output))


def test_steps_must_be_those_of_the_network(config):
    other = replace(config, model=replace(config.model, time_steps=4))
    for call in (resolve, load_data):
        with pytest.raises(ConfigError, match=r"data\.events\.frames = 3 steps, but model\.time_steps is 4"):
            call(other)


def test_other_frames_are_another_run(config):
    from ndsnn.config import require_same_run as require_same_settings

    stored, asked = (
        resolve(config),
        resolve(replace(config, data=replace(config.data, events=EventConfig(frames=3)))),
    )
    with pytest.raises(ConfigError, match=r"data\.events\.downsample = 2, not 1"):
        require_same_settings(stored, asked)


def test_command_line_end_to_end(root, tmp_path, capsys):
    (tmp_path / "shd.yaml").write_text(
        "data:\n  name: shd\n  events:\n    frames: 20\n    per_frame: 70000\nmodel:\n  name: mlp\n"
        "  layers: [32]\n  time_steps: 20\n  neuron:\n    tau: 10.0\n    decay_input: false\n"
        "epochs: 8\nbatch_size: 8\nlr: 0.2\nthreads: 1\n"
    )
    recipe, where = ["--config", str(tmp_path / "shd.yaml")], ["--data.root", str(root)]
    assert main(["train", *recipe, *where, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    command = error.partition("run `ndsnn ")[2].partition("`")[0]
    assert command == f"data prepare shd --root {root} --data.events.frames 20 --data.events.per_frame 70000"
    assert main(command.split()) == 0
    assert "100 training and 40 test recordings in 20 frames of 70,000 µs" in capsys.readouterr().out
    assert main(["data", "prepare", "shd", "--root", str(root), *recipe]) == 0
    assert main(["data", "prepare", "nmnist", "--root", str(root), *recipe]) == 2
    assert "is a recipe for data set 'shd', not 'nmnist'" in capsys.readouterr().err
    assert main(["train", *recipe, *where, "--output", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["test_accuracy"] > 0.3  # twenty classes
    assert summary["method"] == "ndsnn"
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 40
    assert main(["data", "list", "--root", str(root), "--json"]) == 0
    assert {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}["shd"] == "ready"


def test_event_settings_of_images_are_refused(capsys):
    assert main(["train", "--data.events.roll", "2"]) == 2
    assert "data.events.roll is for event data, but 'digits' has images" in capsys.readouterr().err


def test_missing_files_say_where_to_get_them(tmp_path, capsys):
    assert main(["train", "--data.name", "shd", "--data.root", str(tmp_path), "--model.time_steps", "100"]) == 2
    error = capsys.readouterr().err
    assert "shd_train.h5, shd_test.h5 not found" in error
    assert "https://zenkelab.org" in error


@pytest.mark.parametrize("path", sorted(ROOMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_whole(path):
    config = resolve(read_config(path))
    about = planned_images(config)
    assert about.steps == config.model.time_steps == config.data.events.frames
    use = network_use(config.model, about.classes, about.channels, about.size, about.steps)
    assert use.neuron_steps > 0
    assert config.data.name in path.read_text()


def test_a_recording_costs_its_steps():
    config = TrainConfig(data=DataConfig("nmnist"), model=ModelConfig("vgg", time_steps=10, layers=(4,)))
    about = planned_images(config)
    assert (about.train, about.size, about.steps) == (54_000, (34, 34), 10)
    use = network_use(config.model, 10, 2, about.size, about.steps)
    assert use.layers["features.0"].uses == 10 * 34 * 34
    halved = replace(config, data=replace(config.data, events=EventConfig(downsample=2)))
    assert planned_images(halved).size == (17, 17)


def test_mlp_takes_its_size_from_the_data():
    net = build_model(ModelConfig("mlp", 5, 0.5, layers=(8,)), 4, 2, (3, 7))
    assert net.hidden[0].weight.shape == (4, 42)
    with pytest.raises(ConfigError, match="mlp has no norms"):
        build_model(ModelConfig("mlp", 5, norm="bn"), 4, 2, (3, 7))
    with pytest.raises(ConfigError, match="setting of model vgg or mlp"):
        build_model(ModelConfig("lenet5", 5, layers=(8,)), 4, 2, (3, 7))
