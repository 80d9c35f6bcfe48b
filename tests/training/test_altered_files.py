"""Files of a run that are cut off or have a flipped bit: noticed, or without effect, whatever reads them.

NDSNN_FAULTS sets the number of flipped bits, 120 where nothing says otherwise, and takes a network whose files are
larger, some 100 KiB each, so that they can be cut off at more places.
"""

import hashlib
import json
import os
import random
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_runs import quiet

from ndsnn.config import DataConfig, MethodConfig, ModelConfig, TrainConfig
from ndsnn.config_parser import read_config
from ndsnn.errors import CheckpointError, NdsnnError, RunError
from ndsnn.evaluation.report.records import read_runs
from ndsnn.sparse.storage import load
from ndsnn.training import checkpoint as checkpoints
from ndsnn.training.build import build, build_model
from ndsnn.training.inspect import inspect_path
from ndsnn.training.loop import Trainer
from ndsnn.training.run import read_dense_rates, require_resumable, train
from ndsnn.training.run_directory import RunDirectory
from ndsnn.training.signals import RunInterrupted

FLIPS = int(os.environ.get("NDSNN_FAULTS", "120"))
LAYERS = (64, "M", 64, "M") if "NDSNN_FAULTS" in os.environ else (8, "M", 16, "M")
UNREAD = (".lock",)


class Kept:
    """A run directory, and what was in it."""

    def __init__(self, path):
        self.path = path
        self.content = {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name not in UNREAD}

    def restore(self):
        for path in self.path.rglob("*"):
            if path.is_file() and path not in self.content and path.name not in UNREAD:
                path.unlink()
        for path, data in self.content.items():
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)

    def truncated(self):
        """Cut each file off at every 4 KiB, in the middle and before its last byte."""
        for path, data in self.content.items():
            for length in sorted({*range(0, len(data), 4096), len(data) // 2, max(len(data) - 1, 0)}):
                yield f"{path.name} cut off at {length}", path, data[:length]

    def flipped(self, count, seed):
        """Flip a random bit of a random file."""
        generator = random.Random(seed)
        files = [path for path, data in self.content.items() if data]
        for _ in range(count):
            path = generator.choice(files)
            changed = bytearray(self.content[path])
            place, bit = generator.randrange(len(changed)), generator.randrange(8)
            changed[place] ^= 1 << bit
            yield f"{path.name}: bit {bit} of byte {place}", path, bytes(changed)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A run whose best network may be that of any epoch, with files of more than 4 KiB."""
    return TrainConfig(
        data=DataConfig("digits", image_size=8),
        model=ModelConfig("vgg", time_steps=2, layers=LAYERS),
        method=MethodConfig("set", 0.5, 0.5, update_every=4),
        epochs=2,
        batch_size=128,
        engine="reference",
        threads=1,
        checkpoint_every=3,
        output=str(tmp_path_factory.mktemp("altered") / "run"),
    )


@pytest.fixture(scope="module")
def trained(recipe):
    """The same run, stopped by a signal in its second epoch, and gone to its end."""
    original = Trainer._step

    def stepping(trainer, *batch):
        result = original(trainer, *batch)
        if trainer.progress.step == 17:
            signal.raise_signal(signal.SIGTERM)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", stepping)
        with pytest.raises(RunInterrupted):
            train(recipe, quiet())
    stopped = Kept(Path(recipe.output))
    train(replace(recipe, resume=True), quiet())
    return stopped, Kept(Path(recipe.output))


@pytest.fixture
def stopped(trained):
    """The directory of the stopped run."""
    trained[0].restore()
    return trained[0]


@pytest.fixture
def finished(trained):
    """The directory of the finished run."""
    trained[1].restore()
    return trained[1]


def bits_of(trainer):
    """A checksum of all that a run goes on from."""
    tensors, state = checkpoints.pack_training(trainer.net, trainer.optimizer, trainer.method)
    hasher = hashlib.sha256(json.dumps([state, asdict(trainer.progress)], sort_keys=True).encode())
    for key in sorted(tensors):
        hasher.update(key.encode() + tensors[key].numpy().tobytes())
    rows = [trainer.run.read_rows(name) for name in ("metrics.jsonl", "topology.jsonl")]
    return hasher.hexdigest(), json.dumps(rows)


class Resumed:
    """Goes on from a run directory as `ndsnn train --resume` does, up to the first step."""

    def __init__(self, config):
        self.config = replace(config, resume=True)
        self.parts = build(config)

    def __call__(self, altered="config.yaml"):
        if altered == "config.yaml":  # reading it takes longer than all the rest
            require_resumable(RunDirectory(self.config.output), self.config)
        trainer = Trainer(self.config, self.parts, RunDirectory(self.config.output), quiet())
        note = trainer.resume()
        return bits_of(trainer), note


def previous_alone(kept, resumed):
    """What a run goes on from where the last checkpoint is not there."""
    for path in kept.content:
        if path.name in ("last.json", "last.safetensors"):
            path.unlink()
    found, _ = resumed()
    kept.restore()
    return found


@pytest.mark.parametrize("fault", ["truncation", "flip"])
def test_a_run_goes_on_from_what_was_saved_or_not_at_all(recipe, stopped, fault):
    resumed = Resumed(recipe)
    last, _ = resumed()
    stopped.restore()
    previous = previous_alone(stopped, resumed)
    assert last != previous
    seen = {"last": 0, "previous": 0, "refused": 0}
    faults = stopped.truncated() if fault == "truncation" else stopped.flipped(FLIPS // 2, seed=1)
    for what, path, data in faults:
        path.write_bytes(data)
        try:
            found, note = resumed(path.name)
        except (CheckpointError, RunError) as error:
            assert path.name in str(error), what  # noqa: PT017 (an error is one of two right answers)
            seen["refused"] += 1
        else:
            fallen_back = "falling back to the previous good checkpoint" in note
            assert found == (previous if fallen_back else last), what
            seen["previous" if fallen_back else "last"] += 1
        stopped.restore()
    assert all(seen.values()), "each of the three must have occurred"
    print(f"{fault}: {sum(seen.values())} of a stopped run: {seen}")


def all_that_is_said_of(run, config, altered="config.yaml"):
    """What report, inspection and a reader of its networks say."""
    records, problems = read_runs([run])
    report = [(r.settings, r.summary, r.metrics, r.topology) for r in records] or [p.reason for p in problems]
    parts = []
    if altered in ("config.yaml", "summary.json"):  # the only files that these read
        parts += [lambda: inspect_path(run), lambda: asdict(read_config(run / "config.yaml"))]
    for file in sorted((run / "checkpoints").glob("best-*.safetensors")):
        parts.append(lambda file=file: bits_of_file(file, config))
    said = [json.dumps(report, default=str) if records else RunError(report[0])]
    for part in parts:
        try:
            said.append(json.dumps(part(), default=str))
        except NdsnnError as error:
            said.append(error)
    return said


def bits_of_file(path, config):
    net = load(path, build_model(config.model, 10, 1, (8, 8)))
    return {key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("fault", ["truncation", "flip"])
def test_what_is_said_of_a_finished_run_is_what_was_written_or_an_error(recipe, finished, fault):
    right = {name: all_that_is_said_of(finished.path, recipe, name) for name in ("config.yaml", "other")}
    assert not any(isinstance(part, Exception) for part in right["config.yaml"])
    faults = finished.truncated() if fault == "truncation" else finished.flipped(FLIPS - FLIPS // 2, seed=2)
    noticed, errors, count = set(), 0, 0
    for what, path, data in faults:
        path.write_bytes(data)
        expected_of = right["config.yaml" if path.name in ("config.yaml", "summary.json") else "other"]
        for said, expected in zip(all_that_is_said_of(finished.path, recipe, path.name), expected_of, strict=True):
            if isinstance(said, NdsnnError):
                assert path.name in str(said), what
                noticed.add(path.name)
                errors += 1
            else:
                assert said == expected, what
        finished.restore()
        count += 1
    print(f"{fault}: {count} of a finished run: {errors} errors, else what was written")
    assert {"summary.json", "metrics.jsonl", "topology.jsonl", "config.yaml", "best-2.safetensors"} <= noticed


def test_rows_of_a_dense_run_are_checked_before_costs_are_measured_by_them(tiny):
    dense = replace(tiny, method=MethodConfig("dense"), epochs=1)
    train(dense, quiet())
    path = Path(dense.output) / "metrics.jsonl"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows | {"firing_rate": rows["firing_rate"] * 2}) + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl was altered after the run was finished"):
        read_dense_rates(replace(dense, method=tiny.method, dense_run=dense.output))


def test_runs_of_earlier_versions_are_read_without_checksums(recipe, finished):
    """Nothing is claimed of them; they are reported, inspected and loaded."""
    summary = json.loads((finished.path / "summary.json").read_text())
    for key in ("sha256", "files", "changed_on_resume"):
        del summary[key]
    (finished.path / "summary.json").write_text(json.dumps(summary))
    config = finished.path / "config.yaml"
    config.write_text(config.read_text().partition("\n")[2])
    assert read_config(config) == recipe
    records, problems = read_runs([finished.path])
    assert len(records) == 1
    assert not problems
    assert inspect_path(finished.path)["summary"] == summary


def test_a_checkpoint_of_an_earlier_version_goes_on(recipe, stopped):
    resumed = Resumed(recipe)
    last, _ = resumed()
    stopped.restore()
    for name in ("last", "previous"):
        path = stopped.path / "checkpoints" / f"{name}.json"
        manifest = json.loads(path.read_text())
        del manifest["self"]
        for key in ("rows", "made_by", "changes"):
            del manifest["state"][key]
        canonical = json.dumps(manifest, sort_keys=True).encode()
        path.write_text(json.dumps(manifest | {"self": hashlib.sha256(canonical).hexdigest()}))
    with open(stopped.path / "topology.jsonl", "a") as file:
        file.write('{"step": 20, "round": 5}\n{"step"')
    found, note = resumed()
    assert found == last
    assert "changed since" not in note


def test_a_run_directory_without_checkpoints_is_reported(finished, tmp_path):
    """Four files are all that is kept of a run in a repository."""
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "topology.jsonl"):
        shutil.copy(finished.path / name, kept / name)
    records, problems = read_runs([kept])
    assert [record.summary["sha256"] for record in records] == [
        json.loads((kept / "summary.json").read_text())["sha256"]
    ]
    assert not problems
