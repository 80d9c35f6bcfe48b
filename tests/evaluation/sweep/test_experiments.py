"""Every file in experiments/: it can be run, and it asks for what the paper did."""

from pathlib import Path

import pytest

from ndsnn.config_parser import parse_train
from ndsnn.data.source import SOURCES
from ndsnn.evaluation.report.paper_numbers import MAIN_INITIAL
from ndsnn.evaluation.sweep import dry_run as dry
from ndsnn.evaluation.sweep.directory import SweepDirectory
from ndsnn.evaluation.sweep.grid import Grid, read_grid
from ndsnn.evaluation.sweep.throughput import Throughput
from ndsnn.models import MODELS
from ndsnn.training.build import resolve_method, resolve_sparsities

FOLDER = Path(__file__).parents[3] / "experiments"
EVENTS = tuple(f"events/{name}.yaml" for name in ("cifar10-dvs", "dvs-gesture", "nmnist", "shd"))
SETTINGS = ("quick/fashion-vgg.yaml", "recipe.yaml", "fashion/recipe.yaml", *EVENTS)
GRIDS = sorted(
    str(path.relative_to(FOLDER))
    for path in FOLDER.rglob("*.yaml")
    if str(path.relative_to(FOLDER)) not in SETTINGS
)


def combinations(grid: Grid, method: str) -> set[tuple]:
    found = set()
    for cell in grid.cells:
        config = cell.config
        if config.method.name == method:
            final = config.method.final_sparsity
            found.add((config.model.name, config.data.name, config.model.time_steps, config.epochs, final))
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_can_be_trained_with(name):
    config = parse_train(["--config", str(FOLDER / name)])
    resolve_sparsities(config.method, resolve_method(config.method.name))
    assert config.data.name in SOURCES
    assert config.model.name in MODELS


@pytest.mark.parametrize("name", GRIDS)
def test_grids_can_be_dry_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(dry, "measure", lambda *_: Throughput(1e-11, 1e-8, "fixed"))
    grid = read_grid(FOLDER / name)
    plan = dry.dry_run(grid, SweepDirectory(tmp_path / "sweep"), 1, 1)
    assert len(plan.cells) == len(grid.cells) > 0
    assert all(planned.estimate and planned.seconds for planned in plan.cells)
    for cell in grid.cells:
        if cell.config.method.name != "dense":
            assert cell.dense is not None, f"{cell.name} has no dense run to be measured against"


def test_the_grids_of_the_paper_and_of_the_small_machine_are_all_there():
    studies = ["figure1", "figure4", "figure5", "table1", "table2", "table3"]
    assert [name for name in GRIDS if "/" not in name] == [f"{study}.yaml" for study in studies]
    assert {"table1", "table3", "figure1", "figure4", "figure5", "resnet"} <= {
        Path(name).stem for name in GRIDS if name.startswith("fashion/")
    }


def test_table_1_is_every_method_on_every_network_and_data_set():
    grid = read_grid(FOLDER / "table1.yaml")
    places = {
        (model, data, 5, epochs)
        for model in ("vgg16", "resnet19")
        for data, epochs in (("cifar10", 300), ("cifar100", 300), ("tiny-imagenet", 100))
    }
    assert combinations(grid, "dense") == {(*place, 0.0) for place in places}
    assert combinations(grid, "lth") == {(*place, 0.99) for place in places}
    for method in ("set", "rigl", "ndsnn"):
        assert combinations(grid, method) == {(*p, s) for p in places for s in (0.9, 0.95, 0.98, 0.99)}, method
    assert {cell.config.lr for cell in grid.cells} == {0.3}
    assert {cell.config.batch_size for cell in grid.cells} == {128}


@pytest.mark.parametrize("name", ["table1.yaml", "figure4.yaml", "figure5.yaml"])
def test_ndsnn_starts_where_the_paper_says(name):
    found = {
        (cell.config.model.name, cell.config.data.name, cell.config.method.final_sparsity): cell.config.method
        for cell in read_grid(FOLDER / name).cells
        if cell.config.method.name == "ndsnn"
    }
    stated = {place: method.initial_sparsity for place, method in found.items() if place in MAIN_INITIAL}
    assert stated
    assert stated == {place: MAIN_INITIAL[place] for place in stated}


def test_table_3_is_five_starts_for_two_targets_on_four_pairs():
    cells = [cell for cell in read_grid(FOLDER / "table3.yaml").cells if cell.config.method.name == "ndsnn"]
    assert len(cells) == 4 * 2 * 5
    assert {cell.config.method.initial_sparsity for cell in cells} == {0.9, 0.8, 0.7, 0.6, 0.5}


def test_figure_4_has_two_steps():
    assert {cell.config.model.time_steps for cell in read_grid(FOLDER / "figure4.yaml").cells} == {2}
