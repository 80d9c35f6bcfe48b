"""Grid files: the cells that they span, their names, and what is refused before anything runs."""

import pytest
import yaml
from tiny_sweep import BASE, write_grid

from ndsnn.errors import ConfigError, NdsnnError
from ndsnn.evaluation.sweep.grid import differences, identity, read_grid


def names(grid) -> list[str]:
    return [cell.name for cell in grid.cells]


def test_a_cell_is_one_value_of_every_list_and_dense_ones_come_first(tmp_path):
    path = write_grid(
        tmp_path / "g.yaml",
        {"method": [{"name": "ndsnn", "initial_sparsity": 0.7}, {"name": "set"}], "seed": [0, 1]},
        {"base": {"epochs": 3}, "method.name": ["dense"], "seed": [1]},
    )
    grid = read_grid(path)
    assert names(grid) == [
        "digits-vgg-t2-dense-epochs=3-seed1",
        "digits-vgg-t2-ndsnn-0.7-0.95-seed0",
        "digits-vgg-t2-ndsnn-0.7-0.95-seed1",
        "digits-vgg-t2-set-0.95-seed0",
        "digits-vgg-t2-set-0.95-seed1",
    ]
    first = grid.cells[0].config
    assert (first.epochs, first.seed, first.method.final_sparsity, first.model.layers) == (
        3,
        1,
        0.0,
        (4, "M", 8, "M"),
    )
    # The dense cell has another number of epochs, so it is no measure for the others.
    assert [cell.dense for cell in grid.cells] == [None] * 5


def test_cells_know_the_dense_cell_of_their_recipe_and_seed(tmp_path):
    path = write_grid(
        tmp_path / "g.yaml",
        {"method.name": ["set", "dense"], "seed": [0, 1], "model.time_steps": [2, 3]},
    )
    found = {cell.name: cell.dense for cell in read_grid(path).cells if "-set-" in cell.name}
    assert found == {
        f"digits-vgg-t{t}-set-0.95-seed{s}": f"digits-vgg-t{t}-dense-seed{s}" for t in (2, 3) for s in (0, 1)
    }


def test_the_same_cell_in_two_blocks_runs_once(tmp_path):
    explicit = {"method": [{"name": "set", "initial_sparsity": 0.95, "final_sparsity": 0.95}], "seed": [0]}
    grid = read_grid(write_grid(tmp_path / "g.yaml", {"method.name": ["set"], "seed": [0, 1]}, explicit))
    assert names(grid) == ["digits-vgg-t2-set-0.95-seed0", "digits-vgg-t2-set-0.95-seed1"]


def test_cells_of_one_name_are_numbered(tmp_path):
    path = write_grid(
        tmp_path / "g.yaml",
        {"base": {"lr": 0.1}, "data.augment": [True], "seed": [0]},
        {"base": {"lr": 0.1000001}, "data.augment": [True], "seed": [0]},
    )
    assert names(read_grid(path)) == [
        "digits-vgg-t2-ndsnn-0.7-0.95-lr=0.1-augment=True-seed0",
        "digits-vgg-t2-ndsnn-0.7-0.95-lr=0.1-augment=True-seed0-2",
    ]


def test_base_files_are_merged_and_the_nearer_setting_wins(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 9\nlr: 0.3\nmodel: {width: 0.5, time_steps: 7}\n")
    path = write_grid(
        tmp_path / "g.yaml",
        {"base": {"lr": 0.2}, "seed": [0]},
        base_file="recipe.yaml",
        base={"data.name": "digits", "model": {"time_steps": 3}},
    )
    config = read_grid(path).cells[0].config
    assert (config.epochs, config.lr, config.model.width, config.model.time_steps) == (9, 0.2, 0.5, 3)


def test_lottery_settings_reach_the_method_and_the_name(tmp_path):
    block = {"method": [{"name": "lth", "final_sparsity": 0.9, "settings": {"budgeted": True}}], "epochs": [6]}
    cell = read_grid(write_grid(tmp_path / "g.yaml", block)).cells[0]
    assert cell.config.method.settings == {"budgeted": True}
    assert "budgeted=True" in cell.name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"grids": [{"seed": [0]}], "bases": {}}, "unknown key of a grid 'bases'; did you mean 'base'"),
        ({}, "either grid (one block) or grids"),
        ({"grid": {"seed": [0]}, "grids": [{"seed": [0]}]}, "either grid"),
        ({"grids": []}, "must be a list of blocks"),
        ({"grid": {"sed": [0]}}, "unknown setting 'sed'; did you mean 'seed'"),
        ({"grid": {"method.final_sparsty": [0.9]}}, "did you mean 'method.final_sparsity'"),
        ({"grid": {"method": [{"final_sparsty": 0.9}]}}, "did you mean 'method.final_sparsity'"),
        ({"grid": {"seed": 0}}, "seed must be a list of values, not 0"),
        ({"grid": {"seed": []}}, "must be a list of values"),
        ({"grid": {"output": ["x"]}}, "ndsnn sweep sets it"),
        ({"grid": {"method": [{"name": "set"}], "method.name": ["rigl"]}}, "method.name is set twice"),
        ({"grid": {"method.name": ["ndsn"]}}, "did you mean 'ndsnn'"),
        ({"grid": {"method": [{"name": "ndsnn", "initial_sparsity": 0.99}]}}, "is above method.final_sparsity"),
        ({"grid": {"method": [{"name": "set", "settings": {"explore": 1}}]}}, "unknown setting of method set"),
        ({"grid": {"epochs": [0]}}, "epochs is 0; it must be at least 1"),
        ({"grid": {"epochs": ["many"]}}, "epochs"),
        ({"grid": {"seed": [0]}, "name": "a/b"}, "cannot be the name of a directory"),
        ({"grid": {"seed": [0]}, "base_file": "none.yaml"}, "none.yaml cannot be read"),
        ({"grid": {"seed": [0]}, "base": {"epoch": 3}}, "did you mean 'epochs'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, content, words):
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"base": BASE} | content))
    with pytest.raises(NdsnnError, match=r"(g|none)\.yaml") as caught:
        read_grid(path)
    assert words in str(caught.value)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "g.yaml").write_text("grid:\n  seed: [0]\n  seed: [1]\n")
    with pytest.raises(ConfigError, match="'seed' stands twice"):
        read_grid(tmp_path / "g.yaml")


def test_identity_leaves_out_the_machine_but_not_what_rounds_differently(tmp_path):
    path = write_grid(tmp_path / "g.yaml", {"precision": ["fp32", "mixed"], "checkpoint_every": [None, 5]})
    cells = read_grid(path).cells
    assert len(cells) == 2
    first, second = (cell.config for cell in cells)
    assert identity(first) != identity(second)
    assert differences(first, second) == ["precision = fp32, not mixed"]
