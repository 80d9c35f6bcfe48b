"""What has changed between a stop and what follows is noticed and named: code, packages, clock, data."""

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import elsewhere, needs_native, on_engine, quiet, require_same_run

import ndsnn
from ndsnn.config import DataConfig, MethodConfig
from ndsnn.errors import CheckpointError
from ndsnn.training import provenance, resumable
from ndsnn.training.acceleration import Engine
from ndsnn.training.run import train


def resumed(config):
    console = quiet()
    summary = train(replace(config, resume=True), console)
    return console.file.getvalue(), summary


def test_a_changed_version_is_named_kept_and_reported(tiny, run_until, monkeypatch):
    run_until(tiny, 5)
    with monkeypatch.context() as patch:
        patch.setattr(ndsnn, "__version__", "9.9.9")
        patch.setattr(provenance, "source_checksum", lambda: "0123456789ab")
        run_until(replace(tiny, resume=True), 9)
    printed, summary = resumed(tiny)
    now = provenance.provenance(Engine("reference", ""), tiny)
    assert (
        f"changed since step 9: ndsnn 9.9.9 → {ndsnn.__version__}, source 0123456789ab → {now['source']};"
        in printed
    )
    assert "its bits may differ" in printed
    there = {"ndsnn": [now["ndsnn"], "9.9.9"], "source": [now["source"], "0123456789ab"]}
    assert summary["changed_on_resume"] == [
        {"step": 5, "changed": there},
        {"step": 9, "changed": {name: pair[::-1] for name, pair in there.items()}},
    ]
    assert json.loads((Path(tiny.output) / "summary.json").read_text()) == summary


def test_without_a_change_nothing_is_said(tiny, run_until):
    run_until(tiny, 5)
    printed, summary = resumed(tiny)
    assert "warning" not in printed
    assert summary["changed_on_resume"] == []


@needs_native
def test_another_engine_is_named(tiny, run_until):
    run_until(on_engine(tiny, "native"), 5)
    printed, summary = resumed(on_engine(tiny, "reference"))
    assert "engine native → reference" in printed
    assert "instruction set" in printed
    (entry,) = summary["changed_on_resume"]
    assert entry["changed"]["instruction_set"][1] is None
    assert set(entry["changed"]) == {"engine", "native_build", "instruction_set", "threads"}


def test_everything_that_decides_bits_is_recorded(tiny):
    found = provenance.provenance(Engine("reference", ""), replace(tiny, amp="bf16"), processes=2)
    assert found["amp"] == "bf16"
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["numpy"] == np.__version__
    assert found["processes"] == "2"
    assert len(found["source"]) == 12
    assert found == json.loads(json.dumps(found))


def test_the_checksum_of_the_source_is_of_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(ndsnn, "__file__", str(tmp_path / "__init__.py"))
    sums = []
    for name, text in (("__init__.py", "a"), ("b/c.py", "b"), ("b/c.py", "c"), ("b/d.txt", "no source")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        sums.append(provenance.source_checksum.__wrapped__())
    (tmp_path / "b" / "c.py").rename(tmp_path / "b" / "e.py")
    sums.append(provenance.source_checksum.__wrapped__())
    assert len(set(sums)) == 4
    assert sums[2] == sums[3]


def test_nothing_is_claimed_of_what_is_not_known():
    assert provenance.changes(None, {"torch": "1"}) == {}
    assert provenance.changes({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == {
        "b": ["2", "3"],
        "c": [None, "4"],
        "a": ["1", None],
    }


def test_a_clock_that_jumps_changes_nothing(tiny, run_until, monkeypatch):
    """Set forward and back by up to a year at every look: durations, order and bits are as ever."""
    pytest.importorskip("tensorboard")
    run_until(tiny)
    jumping = elsewhere(tiny, "jumping", checkpoint_every=3, tensorboard=True)
    generator, year = random.Random(0), 365 * 86400
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + generator.uniform(-year, year))
    begin = time.perf_counter()
    run_until(jumping, 13)
    _, summary = resumed(jumping)
    taken = time.perf_counter() - begin
    require_same_run(Path(tiny.output), Path(jumping.output))
    rows = [json.loads(line) for line in (Path(jumping.output) / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["seconds"] < taken for row in rows)
    assert 0 < summary["seconds"] < taken


def write_images(root, seed=0):
    """A data set of 12 × 12 pixels in the folder layout: 2 classes of 24 training and 4 test images."""
    pillow = pytest.importorskip("PIL.Image")
    random_numbers = np.random.default_rng(seed)
    for part, count in (("train", 24), ("test", 4)):
        for label in ("a", "b"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random_numbers.integers(0, 256, (12, 12), np.uint8)
                pillow.fromarray(pixels).save(folder / f"{number}.png")


def test_a_changed_data_file_is_noticed(tiny, run_until, tmp_path):
    """One pixel of one training image differs between the stop and what follows."""
    pillow = pytest.importorskip("PIL.Image")
    write_images(tmp_path / "images")
    config = replace(
        tiny,
        data=DataConfig("folder", root=str(tmp_path / "images")),
        method=MethodConfig("set", None, 0.5, update_every=2),
        batch_size=8,
    )
    run_until(config, 3)
    file = tmp_path / "images" / "train" / "b" / "7.png"
    before = file.read_bytes()
    pixels = np.array(pillow.open(file))
    pixels[5, 5] ^= 1
    pillow.fromarray(pixels).save(file)
    with pytest.raises(CheckpointError, match="other images of folder"):
        train(replace(config, resume=True), quiet())
    file.write_bytes(before)
    printed, _ = resumed(config)
    assert "at epoch 1, step 3" in printed


def test_the_notice_is_part_of_what_a_resumed_run_prints(tiny, run_until, monkeypatch):
    run_until(tiny, 5)
    monkeypatch.setattr(resumable, "provenance", lambda *_: {"torch": "0.1"})
    printed, _ = resumed(tiny)
    assert "ndsnn: warning: what computes this run has changed since step 5:" in printed
    assert f"torch {torch.__version__.partition('+')[0]} → 0.1" in printed
