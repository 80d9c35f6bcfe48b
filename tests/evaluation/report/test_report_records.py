"""Reading runs: what is found, what is named as a problem, what is grouped and what is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import FASHION, PAPER, lottery_rounds, with_method, write_run

from ndsnn.config import MethodConfig
from ndsnn.errors import RunError
from ndsnn.evaluation.report.outcomes import relative_cost
from ndsnn.evaluation.report.records import read_runs
from ndsnn.evaluation.report.study import build_study

DENSE = MethodConfig("dense", 0.0, 0.0)


def study_of(root):
    return build_study(*read_runs([root]))


def test_runs_at_any_depth_once_each(tmp_path):
    write_run(tmp_path / "a" / "b" / "deep", with_method(FASHION, "set", 0.9), 0.9)
    lth = write_run(tmp_path / "lth", with_method(FASHION, "lth", 0.9), 0.9)
    write_run(lth / "rounds" / "00", with_method(FASHION, "lth", 0.9), 0.9)
    write_run(tmp_path / ".hidden" / "x", with_method(FASHION, "rigl", 0.9), 0.9)
    records, problems = read_runs([tmp_path, tmp_path / "lth"])
    assert [record.name for record in records] == [f"{tmp_path.name}/a/b/deep", f"{tmp_path.name}/lth"]
    assert problems == []
    assert [r.name for r in read_runs([tmp_path / "lth"])[0]] == ["lth"]


def test_committed_runs_need_neither_configuration_file_nor_checkpoints(tmp_path):
    run = write_run(tmp_path / "run", with_method(FASHION, "set", 0.9), 0.9)
    (run / "config.yaml").unlink()
    (run / "checkpoints").rmdir()
    (run / "topology.jsonl").unlink()
    records, problems = read_runs([tmp_path])
    assert len(records) == 1
    assert not problems
    assert records[0].topology == []


def break_json(run: Path) -> None:
    (run / "summary.json").write_text('{"config": ')


def break_accuracy(run: Path) -> None:
    change_summary(run, test_accuracy=91.2)


def break_shape(run: Path) -> None:
    (run / "summary.json").write_text("{}")


def break_epochs(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:1] + rows[2:]))


def unfinish(run: Path) -> None:
    (run / "summary.json").unlink()


def change_summary(run: Path, **changes) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | changes))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (break_json, "truncated or altered"),
        (break_accuracy, "holds 91.2 where a fraction must stand"),
        (break_shape, "no summary of ndsnn train"),
        (break_epochs, "does not hold the 4 epochs"),
        (unfinish, "not finished (4 epochs done)"),
    ],
)
def test_what_is_broken_is_named_and_the_rest_is_read(tmp_path, damage, says):
    write_run(tmp_path / "good", with_method(FASHION, "set", 0.9), 0.9)
    damage(write_run(tmp_path / "bad", with_method(FASHION, "rigl", 0.9), 0.9))
    records, problems = read_runs([tmp_path])
    assert [record.method for record in records] == ["set"]
    assert [problem.run for problem in problems] == [f"{tmp_path.name}/bad"]
    assert says in problems[0].reason
    assert str(tmp_path) not in problems[0].reason


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        read_runs([tmp_path])
    with pytest.raises(RunError, match="is no directory"):
        read_runs([tmp_path / "nowhere"])


def test_other_recipes_are_never_averaged_together(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92)):
        write_run(tmp_path / f"s{seed}", with_method(FASHION, "set", 0.9, seed=seed), accuracy)
    for name, config in {
        "epochs": replace(FASHION, epochs=5),
        "lr": replace(FASHION, lr=0.2),
        "t": replace(FASHION, model=replace(FASHION.model, time_steps=2)),
        "precision": replace(FASHION, precision="mixed"),
    }.items():
        write_run(tmp_path / name, with_method(config, "set", 0.9, seed=0), 0.5)
    study = study_of(tmp_path)
    by_label = {recipe.label: recipe for recipe in study.recipes}
    assert len(by_label) == 5
    usual = by_label["Fashion-MNIST · VGG 16-M-32-M, T = 5, epochs 4, lr 0.1, precision fp32"]
    assert [result.accuracy() for result in usual.results] == [pytest.approx((91.0, 2**0.5, 2))]
    assert "Fashion-MNIST · VGG 16-M-32-M, T = 2" in by_label


def test_where_a_run_was_computed_does_not_part_it_from_its_seeds(tmp_path):
    write_run(tmp_path / "0", with_method(FASHION, "set", 0.9, seed=0, threads=1, output="a"), 0.9)
    write_run(tmp_path / "1", with_method(FASHION, "set", 0.9, seed=1, engine="reference", output="b"), 0.9)
    (recipe,) = study_of(tmp_path).recipes
    assert [list(result.outcomes) for result in recipe.results] == [[0, 1]]


def test_variants_of_a_method_are_told_apart_by_what_differs(tmp_path):
    for number, settings in enumerate(({}, {"exploration": 0.01})):
        write_run(tmp_path / str(number), with_method(FASHION, "dst-ee", 0.9, settings=settings), 0.9)
    (recipe,) = study_of(tmp_path).recipes
    assert [v.label for v in recipe.variants] == ["DST-EE (exploration 0.01)", "DST-EE (exploration by default)"]


def test_the_same_run_twice_counts_once(tmp_path):
    write_run(tmp_path / "a", with_method(FASHION, "set", 0.9), 0.9)
    write_run(tmp_path / "b", with_method(FASHION, "set", 0.9), 0.8)
    study = study_of(tmp_path)
    assert study.recipes[0].results[0].accuracies() == {0: 90.0}
    assert study.problems[0].run.endswith("/b")
    assert "same settings and seed" in study.problems[0].reason


@pytest.mark.parametrize(
    ("base", "initials", "expected"),
    [
        (FASHION, {0.9: [0.7], 0.95: [0.5, 0.6, 0.9], 0.98: [0.6], 0.99: [0.6]}, 0.6),
        (FASHION, {0.95: [0.5, 0.8, 0.9]}, 0.8),
        (PAPER, {0.9: [0.6], 0.95: [0.6, 0.7], 0.99: [0.6]}, 0.7),
    ],
    ids=["most used", "nearest to 0.7", "the paper's"],
)
def test_which_initial_sparsity_stands_for_a_method(tmp_path, base, initials, expected):
    for final, values in initials.items():
        for initial in values:
            path = tmp_path / f"{final}-{initial}"
            write_run(path, with_method(base, "ndsnn", final, initial), 0.5 + initial / 10)
    (recipe,) = study_of(tmp_path).recipes
    chosen = recipe.main(recipe.variants[0], 0.95)
    assert chosen is not None
    assert chosen.initial == expected
    assert len(recipe.initials(recipe.variants[0], 0.95)) == len(initials[0.95])


def test_rounds_of_lth_stand_for_near_sparsities(tmp_path):
    accuracies = [0.93 - 0.001 * number for number in range(17)]
    rounds = lottery_rounds(accuracies)
    final = rounds[-1]["sparsity"]
    write_run(tmp_path / "lth", with_method(FASHION, "lth", final), accuracies[-1], rounds=rounds, rate=0.1)
    for asked in (0.9, 0.95, 0.97):
        write_run(tmp_path / f"set-{asked}", with_method(FASHION, "set", asked), 0.9)
    write_run(tmp_path / "dense", replace(FASHION, method=DENSE), 0.93)
    (recipe,) = study_of(tmp_path).recipes
    found = {r.final: r.first for r in recipe.results if r.variant.method == "lth"}
    # 0.75^8 = .1001, 0.75^10 = .0563, 0.75^12 = .0317: 0.1 %, 12.6 % and 5.6 % beside the densities asked for.
    assert {final: outcome.round for final, outcome in found.items()} == {0.9: 8, 0.95: 10, 0.97: 12, final: None}
    at_90 = found[0.9]
    assert at_90.last == accuracies[8]
    assert at_90.sparsity == 1 - 0.75**8
    assert at_90.costs.seconds == 9 * 50
    expected = sum(0.1 * 0.75**number / (0.2 - 0.01 * e) for number in range(9) for e in range(1, 5)) / 4
    assert at_90.costs.relative == pytest.approx(expected)


@pytest.mark.parametrize(("settings", "asked"), [({"budgeted": True}, 0.9), ({}, 0.93)])
def test_rounds_that_do_not_stand_for_a_sparsity(tmp_path, settings, asked):
    rounds = lottery_rounds([0.9] * (17 if settings else 9))
    final = rounds[-1]["sparsity"]
    write_run(tmp_path / "lth", with_method(FASHION, "lth", final, settings=settings), 0.9, rounds=rounds)
    write_run(tmp_path / "set", with_method(FASHION, "set", asked), 0.9)
    (recipe,) = study_of(tmp_path).recipes
    assert [r.final for r in recipe.results if r.variant.method == "lth"] == [final]


def test_relative_cost_is_that_of_section_4c(tmp_path):
    config = with_method(FASHION, "set", 0.9)
    write_run(tmp_path / "set", config, 0.9, rate=0.1)
    write_run(tmp_path / "dense", replace(FASHION, method=DENSE), 0.93)
    records = {record.method: record for record in read_runs([tmp_path])[0]}
    found = relative_cost(records["set"].metrics, records["set"], records["dense"])
    assert found == pytest.approx(0.1 * 0.1 * (1 / 0.19 + 1 / 0.18 + 1 / 0.17 + 1 / 0.16) / 4)
    assert relative_cost(records["set"].metrics, records["set"], None) is None
    assert relative_cost(records["dense"].metrics, records["dense"], None) == 1.0
