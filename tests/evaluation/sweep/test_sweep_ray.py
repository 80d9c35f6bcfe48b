"""Sweeps on a Ray cluster of two nodes on this machine."""

import json
import re
import sys
import threading
import time

import pytest
from tiny_sweep import BASE, quiet, write_grid

from ndsnn.errors import MissingDependencyError, RunError
from ndsnn.evaluation.sweep.directory import STOP, SweepDirectory
from ndsnn.evaluation.sweep.grid import read_grid
from ndsnn.evaluation.sweep.launchers import STOPPED, Job, wait_until_free
from ndsnn.evaluation.sweep.ray_launcher import Place, RayLauncher, require_ray, run_cell
from ndsnn.evaluation.sweep.sweep import Sweep
from ndsnn.training.run_directory import RunDirectory

ray = pytest.importorskip("ray")

EPOCHS = 150


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and two nodes with one each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "1000")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster, {node.node_id: node for node in nodes}
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_cell_whose_node_is_lost_goes_on_at_the_other_from_its_checkpoint(tmp_path, cluster):
    cluster, nodes = cluster
    grid = read_grid(write_grid(tmp_path / "g.yaml", {"seed": [0]}, base=BASE | {"epochs": EPOCHS}))
    directory = SweepDirectory(tmp_path / "sweep")
    [cell] = grid.cells
    metrics, log = directory.path / cell.name / "metrics.jsonl", directory.log(cell.name)
    seen: dict[str, list] = {}

    def lose_node():
        deadline = time.monotonic() + 240
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 3):
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        first = re.findall(r"Ray node (\w+)", log.read_text())
        seen["rows"] = [json.loads(line) for line in metrics.read_text().splitlines()]
        seen["first"] = first
        cluster.remove_node(nodes[first[0]], allow_graceful=False)

    killer = threading.Thread(target=lose_node)
    with directory.locked():
        directory.prepare(grid)
        launcher = RayLauncher(None, 1, None, directory.path / STOP)
        assert launcher.slots == 2
        killer.start()
        outcome = Sweep(grid, directory, launcher, quiet(), 1).run()
    killer.join()
    assert outcome.complete, outcome.failed
    used = re.findall(r"Ray node (\w+)", log.read_text())
    assert len(used) == 2
    assert set(used) == set(nodes)
    assert "resuming from" in log.read_text()
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    # The last row seen may have been ahead of its checkpoint; those before it are kept, seconds and all.
    assert 2 <= len(seen["rows"]) - 1 < EPOCHS
    assert rows[: len(seen["rows"]) - 1] == seen["rows"][:-1]
    with pytest.raises(RunError, match="no node of the Ray cluster has 64 CPUs"):
        RayLauncher(None, 64, None, directory.path / STOP)


def test_a_task_that_comes_too_late_or_without_its_files_does_not_run(tmp_path):
    job = Job("cell", tmp_path / "cell.yaml", tmp_path / "cell", tmp_path / "cell.log", 1)
    place = Place(tmp_path, tmp_path / STOP, {})
    code, message = run_cell(job, place)
    assert code == 2
    assert "must lie on a file system that all share" in message
    job.config.touch()
    place.stop.touch()
    assert run_cell(job, place)[0] in STOPPED
    assert not job.log.exists()


def test_a_cell_waits_for_the_process_that_it_had_elsewhere(tmp_path):
    run = RunDirectory(tmp_path)
    with run.locked():
        assert not wait_until_free(tmp_path, 0.1)
    assert wait_until_free(tmp_path, 0.1)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ndsnn\[ray\]'"):
        require_ray()
