"""Sweeps: what runs when, what is skipped, what a failure or a signal leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_sweep import BASE, PretendLauncher, quiet, said, write_grid

from ndsnn.cli import main
from ndsnn.errors import ConfigError, RunError
from ndsnn.evaluation.sweep.directory import SweepDirectory
from ndsnn.evaluation.sweep.display import CellRow, Status, status_lines
from ndsnn.evaluation.sweep.grid import read_grid
from ndsnn.evaluation.sweep.sweep import Sweep
from ndsnn.evaluation.sweep.time_left import Clock
from ndsnn.training.run_directory import RunDirectory
from ndsnn.training.signals import RunInterrupted

DENSE, SET, NDSNN = (
    "digits-vgg-t2-dense-seed0",
    "digits-vgg-t2-set-0.95-seed0",
    "digits-vgg-t2-ndsnn-0.7-0.95-seed0",
)


@pytest.fixture
def grid(tmp_path):
    return read_grid(write_grid(tmp_path / "g.yaml", {"method.name": ["set", "ndsnn", "dense"], "seed": [0]}))


@pytest.fixture
def directory(tmp_path):
    return SweepDirectory(tmp_path / "sweep")


def run(grid, directory, launcher, display=None, **options):
    with directory.locked():
        grid = directory.with_known_names(grid)
        directory.require_same_cells(grid)
        directory.prepare(grid)
        return Sweep(grid, directory, launcher, display or quiet(), 1, **options).run()


def test_dense_cells_end_before_those_that_are_measured_against_them_begin(grid, directory):
    launcher = PretendLauncher(slots=3)
    outcome = run(grid, directory, launcher)
    assert outcome.complete
    assert outcome.done == [DENSE, SET, NDSNN]
    assert launcher.started[0] == DENSE
    assert launcher.most == 2  # the two others, side by side
    against = str(directory.path / DENSE)
    assert launcher.dense_runs == {DENSE: None, SET: against, NDSNN: against}


def test_no_more_run_at_once_than_there_are_workers(tmp_path, directory):
    grid = read_grid(write_grid(tmp_path / "g.yaml", {"seed": list(range(5))}))
    launcher = PretendLauncher(slots=2)
    assert run(grid, directory, launcher).complete
    assert launcher.most == 2


def test_a_failed_dense_run_leaves_the_others_without_relative_cost(grid, directory):
    launcher, display = PretendLauncher(codes={DENSE: 2}), quiet()
    outcome = run(grid, directory, launcher, display)
    assert outcome.failed == {DENSE: "ended with 2"}
    assert outcome.done == [SET, NDSNN]
    assert not outcome.complete
    assert launcher.dense_runs[SET] is None
    assert f"started {SET}, without relative cost: its dense run {DENSE} did not finish" in said(display)


def test_failed_cells_are_tried_again_only_on_demand_and_finished_ones_never(grid, directory):
    run(grid, directory, PretendLauncher(codes={SET: -9}))
    again = PretendLauncher()
    outcome = run(grid, directory, again)
    assert again.started == []
    assert outcome.failed == {SET: "ended with -9"}
    retried = PretendLauncher()
    assert run(grid, directory, retried, retry_failed=True).complete
    assert retried.started == [SET]
    assert run(grid, directory, PretendLauncher()).complete


def test_a_run_with_other_settings_is_refused_and_says_which(tmp_path, grid, directory):
    run(grid, directory, PretendLauncher())
    other = read_grid(
        write_grid(tmp_path / "h.yaml", {"method.name": ["set"], "seed": [0]}, base=BASE | {"lr": 0.2})
    )
    with pytest.raises(ConfigError, match=r"lr = 0\.1, not 0\.2; name another directory with -o"):
        run(other, directory, PretendLauncher())


def test_a_cell_keeps_its_name_when_the_grid_names_it_otherwise(tmp_path, grid, directory):
    run(grid, directory, PretendLauncher())
    # lr stands in the block now, so that it would stand in the name, but it is the same run.
    other = read_grid(write_grid(tmp_path / "h.yaml", {"method.name": ["set"], "lr": [0.1, 0.2], "seed": [0]}))
    launcher = PretendLauncher()
    assert run(other, directory, launcher).done == [SET, "digits-vgg-t2-set-0.95-lr=0.2-seed0"]
    assert launcher.started == ["digits-vgg-t2-set-0.95-lr=0.2-seed0"]


def test_a_signal_stops_all_and_the_next_call_goes_on(grid, directory):
    def kill(job):
        if job.name == SET:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted, match="2 of 3 cells") as caught:
        run(grid, directory, PretendLauncher(on_start=kill, slow=(SET,)))
    assert caught.value.signal_number == signal.SIGTERM
    events = [(row["cell"], row["event"]) for row in directory.events()]
    assert events == [(DENSE, "started"), (DENSE, "finished"), (SET, "started"), (SET, "interrupted")]
    launcher = PretendLauncher()
    assert run(grid, directory, launcher).complete
    assert launcher.started == [SET, NDSNN]
    assert ("resumed", SET) in [(row["event"], row["cell"]) for row in directory.events()]


def test_a_process_that_is_told_to_stop_before_it_listens_has_not_failed(grid, directory):
    outcome = run(grid, directory, PretendLauncher(codes={SET: -signal.SIGTERM}))
    assert outcome.left == [SET]
    assert outcome.failed == {}
    assert not outcome.complete


def test_two_sweeps_do_not_share_a_directory(directory):
    with directory.locked(), pytest.raises(RunError, match="is at work in"), directory.locked():
        pass
    with directory.locked():
        pass


def test_a_directory_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").touch()
    with pytest.raises(RunError, match="is no sweep directory"):
        SweepDirectory(tmp_path / "x").require_usable()


def test_a_dense_run_that_is_gone_is_named_before_anything_starts(grid, directory):
    def kill(job):
        if job.name == SET:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupted):
        run(grid, directory, PretendLauncher(on_start=kill, slow=(SET,)))
    (directory.path / DENSE).rename(directory.path / "elsewhere")
    with pytest.raises(ConfigError, match="measures its cost against the dense run"):
        run(grid, directory, PretendLauncher())


def test_time_left_is_scaled_by_what_cells_have_taken(tmp_path, directory):
    cells = read_grid(write_grid(tmp_path / "g.yaml", {"epochs": [2, 4, 8], "method.name": ["set"]})).cells
    clock = Clock(directory, cells)
    two, four, eight = (cell.name for cell in cells)
    assert clock.seconds_left([], [two], 1) is None
    clock.taken[two] = 100.0
    assert clock.seconds_left([], [four, eight], 1) == pytest.approx(600)
    assert clock.seconds_left([], [four, eight], 2) == pytest.approx(400)  # no less than the longest
    running = CellRow(four, 3, 4, 0.5, 45.0)  # 180 s in all at this pace
    assert clock.seconds_left([running], [], 1) == pytest.approx(45)


def test_plain_lines_say_where_the_cells_are():
    status = Status([CellRow("a", 3, 8, 0.9123, 12.34), CellRow("b", 0, 8, None, None)], 4, 1, 7, 3725.0)
    assert status_lines(status) == [
        "  a: epoch 3/8, val 91.23%, 12.3 s/epoch",
        "  b: epoch 0/8",
        "4 done, 1 failed, 2 running, 7 waiting, about 1:02:05 left",
    ]


@pytest.mark.slow
def test_processes_stop_resume_and_fail_by_themselves(tmp_path):
    """The whole way: SIGTERM in the middle of a cell, then to the end, beside a cell that cannot run."""
    write_grid(
        tmp_path / "g.yaml",
        {"method.name": ["set"], "seed": [0]},
        {"base": {"data": {"name": "cifar10", "root": "nowhere"}, "data.image_size": 8}, "seed": [0]},
        base=BASE | {"epochs": 40},
    )
    command = [sys.executable, "-m", "ndsnn", "sweep", "g.yaml", "-o", "s", "--workers", "2", "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [*command, "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "s" / SET / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    first.terminate()
    first.communicate(timeout=30)
    assert first.returncode == 143
    kept = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert 2 <= len(kept) < 40
    assert not RunDirectory(metrics.parent).finished

    second = subprocess.run([*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert second.returncode == 1
    result = json.loads(second.stdout)
    assert result["done"] == [SET]
    [(failed, message)] = result["failed"].items()
    assert failed.startswith("cifar10-")
    assert "cifar10" in message
    assert message in (tmp_path / "s" / "logs" / f"{failed}.log").read_text()
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 41))
    assert rows[: len(kept)] == kept  # seconds and all: not trained again


def test_a_finished_sweep_ends_with_0_and_bad_options_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path / "g.yaml", {"method.name": ["set"], "seed": [0]})
    directory = SweepDirectory(tmp_path / "runs" / "tiny")
    run(read_grid(tmp_path / "g.yaml"), directory, PretendLauncher())
    assert main(["sweep", "g.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == [SET]
    for options, words in (
        (["--workers", "0"], "workers is 0"),
        (["--launcher", "slurm"], "must be one of local, ray"),
        (["--ray-address", "x"], "ray_address is an option of --launcher ray"),
    ):
        assert main(["sweep", "g.yaml", *options]) == 2
        assert words in capsys.readouterr().err
