"""Tables from runs with known numbers, checked by hand."""

import csv
import io
import re
from dataclasses import replace

import pytest
from report_runs import FASHION, PAPER, lottery_rounds, with_method, write_run

from ndsnn.config import MethodConfig, ModelConfig
from ndsnn.errors import ConfigError
from ndsnn.evaluation.report import paper_numbers
from ndsnn.evaluation.report.accuracy_tables import accuracy_table, admm_table, initial_sparsity_table
from ndsnn.evaluation.report.comparison_tables import comparison_table
from ndsnn.evaluation.report.cost_tables import cost_table
from ndsnn.evaluation.report.records import read_runs
from ndsnn.evaluation.report.statistics import Sample
from ndsnn.evaluation.report.study import build_study
from ndsnn.evaluation.report.table_formats import to_csv, to_latex, to_markdown
from ndsnn.evaluation.report.table_model import LeftOut, Table, sample_cell, signed

DENSE = MethodConfig("dense", 0.0, 0.0)
NDSNN = (0.913, 0.914, 0.917)
SET = (0.900, 0.902, 0.901)


def study_of(root):
    return build_study(*read_runs([root]))


def cells(table: Table) -> dict[tuple[str, ...], list]:
    """Cells by the labels of their row; of several recipes, the last."""
    rows = [row for row in table.rows if not row.heading]
    return {tuple(c.text for c in row.cells[: table.labels]): list(row.cells[table.labels :]) for row in rows}


@pytest.fixture
def paper_cell(tmp_path):
    """VGG-16 on CIFAR-10 at 95 %, three seeds of each method."""
    for seed in range(3):
        write_run(tmp_path / f"d{seed}", replace(PAPER, method=DENSE, seed=seed), 0.925, 0.926, seconds=400)
        write_run(tmp_path / f"n{seed}", with_method(PAPER, "ndsnn", 0.95, 0.7, seed=seed), NDSNN[seed], 0.92)
        write_run(tmp_path / f"s{seed}", with_method(PAPER, "set", 0.95, seed=seed), SET[seed], seconds=100)
    return study_of(tmp_path)


def test_table_1_by_hand(paper_cell):
    table = accuracy_table(paper_cell)
    assert isinstance(table, Table)
    assert table.columns == ("Method", "θf = 95 %")
    assert table.rows[0].cells[0].text == (
        "CIFAR-10 · VGG-16, T = 5 – dense 92.50 ± 0.00 (n = 3), paper 92.59 (−0.09)"
    )
    assert [row.cells[0].text for row in table.rows[1:]] == ["SET", "NDSNN"]
    ndsnn, other = cells(table)["NDSNN",][0], cells(table)["SET",][0]
    # Mean of 91.3, 91.4, 91.7 is 91.4667, the sample deviation is √(.0433) = .2082; the paper has 91.31 there.
    assert (ndsnn.text, ndsnn.spread, ndsnn.notes) == ("91.47", "± 0.21", ("paper 91.31 (+0.16)",))
    assert (other.text, other.spread, other.notes) == ("90.10", "± 0.10", ("paper 90.41 (−0.31)",))
    # Differences 1.3, 1.2, 1.6: t = 1.3667 / (.2082 / √3) = 11.4, p = .0076.
    assert ndsnn.bold
    assert not other.bold
    assert "n = 3 where nothing else is said" in table.caption
    assert "after the last epoch" in table.caption
    best = accuracy_table(paper_cell, "best")
    assert isinstance(best, Table)
    assert [row.cells[0].text for row in best.rows[1:]] == ["NDSNN"], "SET has no epoch that was selected"


def test_no_bold_within_noise_and_other_n_is_marked(tmp_path):
    for seed, (a, b) in enumerate(((0.90, 0.91), (0.92, 0.90), (0.91, 0.905))):
        write_run(tmp_path / f"n{seed}", with_method(FASHION, "ndsnn", 0.95, 0.7, seed=seed), a)
        write_run(tmp_path / f"s{seed}", with_method(FASHION, "set", 0.95, seed=seed), b)
    write_run(tmp_path / "r", with_method(FASHION, "rigl", 0.95, seed=0), 0.99)
    table = accuracy_table(study_of(tmp_path))
    assert isinstance(table, Table)
    assert not any(cell.bold for row in cells(table).values() for cell in row)
    rigl = cells(table)["RigL",][0]
    assert (rigl.text, rigl.spread, rigl.notes) == ("99.00", "", ("n = 1",))
    assert "no dense run" in table.rows[0].cells[0].text


def test_the_papers_number_stands_at_its_own_initial_sparsity_only():
    settings = {"model.name": "vgg16", "data.name": "cifar10", "model.time_steps": 5, "model.width": 1.0}
    assert paper_numbers.accuracy(settings, "ndsnn", 0.95, 0.7) == 91.31
    assert paper_numbers.accuracy(settings, "ndsnn", 0.95, 0.9) == 90.36
    assert paper_numbers.accuracy(settings, "ndsnn", 0.98, 0.8) == 89.62
    assert paper_numbers.accuracy(settings, "ndsnn", 0.95, 0.75) is None
    assert paper_numbers.accuracy(settings, "ndsnn", 0.99, 0.7) == 88.13
    assert paper_numbers.accuracy(settings, "ndsnn", 0.75, 0.5) == 92.18
    assert paper_numbers.accuracy(settings, "set", 0.99) == 83.40
    assert paper_numbers.accuracy(settings, "granet", 0.99) is None
    assert paper_numbers.accuracy(settings | {"model.time_steps": 2}, "set", 0.99) is None
    assert paper_numbers.accuracy(settings | {"model.width": 0.5}, "set", 0.99) is None
    assert (
        paper_numbers.accuracy(settings | {"model.name": "resnet19", "data.name": "cifar100"}, "dense", 0) == 71.94
    )


def test_tables_1_and_3_of_the_paper_agree_where_they_print_the_same_cell():
    for (model, data, final), initial in paper_numbers.MAIN_INITIAL.items():
        in_table_3 = paper_numbers.TABLE_3[model, data, final][paper_numbers.INITIAL_SPARSITIES.index(initial)]
        in_table_1 = paper_numbers.TABLE_1[model, data, "ndsnn"][paper_numbers.SPARSITIES.index(final)]
        assert in_table_3 == in_table_1, (model, data, final)


def test_lth_rounds_are_marked_with_their_sparsity(tmp_path):
    rounds = lottery_rounds([0.93 - 0.001 * number for number in range(11)])
    config = with_method(PAPER, "lth", rounds[-1]["sparsity"])
    write_run(tmp_path / "lth", config, 0.92, rounds=rounds)
    write_run(tmp_path / "set", with_method(PAPER, "set", 0.9), 0.9)
    table = accuracy_table(study_of(tmp_path))
    assert isinstance(table, Table)
    (at_90, _) = cells(table)["LTH",]
    assert at_90.text == "92.20"
    assert at_90.notes == ("paper 89.77 (+2.43)", "round 8, at 89.99 %")


def test_table_2(tmp_path):
    lenet = replace(PAPER, model=ModelConfig("lenet5", time_steps=5))
    for seed in range(2):
        write_run(tmp_path / f"d{seed}", replace(lenet, method=DENSE, seed=seed), 0.90 + 0.01 * seed)
        write_run(tmp_path / f"a{seed}", with_method(lenet, "admm", 0.4, seed=seed), 0.89 + 0.01 * seed)
        write_run(tmp_path / f"n{seed}", with_method(PAPER, "ndsnn", 0.4, 0.2, seed=seed), 0.92)
    table = admm_table(study_of(tmp_path))
    assert isinstance(table, Table)
    found = cells(table)
    assert found["ADMM",][0].notes == ("−1.00 to dense", "paper 89.75 (−0.25)")
    assert found["NDSNN",][0].notes == ("paper 92.46 (−0.46)",)
    assert not any(cell.bold for row in found.values() for cell in row)


def test_table_3(tmp_path):
    for seed in range(3):
        for initial, reached in ((0.5, 0.90), (0.7, 0.92), (0.9, 0.91)):
            config = with_method(PAPER, "ndsnn", 0.95, initial, seed=seed)
            write_run(tmp_path / f"{initial}-{seed}", config, reached + 0.0002 * seed * (1 + initial))
    table = initial_sparsity_table(study_of(tmp_path))
    assert isinstance(table, Table)
    assert table.columns == ("Method", "θf", "θi = 90 %", "θi = 70 %", "θi = 50 %")
    row = cells(table)["NDSNN", "95 %"]
    assert [cell.bold for cell in row] == [False, True, False]
    assert [cell.notes[0][:11] for cell in row] == ["paper 90.36", "paper 91.31", "paper 90.94"]


def test_comparisons_by_hand(paper_cell):
    table = comparison_table(paper_cell)
    assert isinstance(table, Table)
    row = [cell.text for cell in cells(table)["95 %", "SET"]]
    assert row == ["−1.37", "−1.88 … −0.85", "3", "−11.37", "0.008", "0.008", "worse"]
    swapped = comparison_table(paper_cell, "set")
    assert isinstance(swapped, Table)
    assert cells(swapped)["95 %", "NDSNN"][-1].text == "better"
    to_dense = comparison_table(paper_cell, "dense")
    assert isinstance(to_dense, Table)
    assert cells(to_dense)["95 %", "NDSNN"][0].text == "−1.03"
    with pytest.raises(ConfigError, match="did you mean 'ndsnn'"):
        comparison_table(paper_cell, "ndsn")


def test_costs_by_hand(paper_cell):
    table = cost_table(paper_cell)
    assert isinstance(table, Table)
    found = cells(table)
    rate = 0.1 * 0.05 * (1 / 0.19 + 1 / 0.18 + 1 / 0.17 + 1 / 0.16) / 4
    assert found["95 %", "SET"][0].text == f"{100 * rate:.2f}"
    assert [cell.text for cell in found["0 %", "Dense"]] == [
        *("100", "–"), *("4.00", "100", "–"), *("400", "100", "–"), *("500", "100", "–"),
    ]  # fmt: skip
    # 4 epochs at 5 % of 10⁹ operations, 100 s against 400 s.
    assert [cell.text for cell in found["95 %", "SET"][2:]] == [
        *("0.200", "5.00", "–"), *("100", "25.0", "–"), *("500", "100", "–"),
    ]  # fmt: skip
    assert table.notes[-1].endswith("the paper prints 10.5 % of dense and 31.35 % of LTH for NDSNN.")


def test_costs_against_lth_and_other_machines(tmp_path):
    write_run(tmp_path / "d", replace(FASHION, method=DENSE), 0.93, seconds=400, threads=1)
    write_run(tmp_path / "l", with_method(FASHION, "lth", 0.9), 0.9, seconds=200, stated_cost=0.5)
    write_run(tmp_path / "n", with_method(FASHION, "ndsnn", 0.9, 0.7), 0.9, seconds=50, stated_cost=0.1)
    table = cost_table(study_of(tmp_path))
    assert isinstance(table, Table)
    row = [cell.text for cell in cells(table)["90 %", "NDSNN"]]
    assert row[:2] == ["10.0", "20.0"]
    assert row[5:8] == ["50.0", "–", "25.0"], "not against a dense run with other threads"
    assert "computed in 2 ways" in table.notes[0]


def test_what_has_no_runs_is_left_out_with_a_reason(paper_cell):
    for part in (admm_table(paper_cell), initial_sparsity_table(paper_cell)):
        assert isinstance(part, LeftOut)
        assert part.reason.startswith("it needs")


def test_csv_is_unrounded(paper_cell):
    table = accuracy_table(paper_cell)
    assert isinstance(table, Table)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    ndsnn = next(row for row in rows if row["method"] == "ndsnn")
    assert float(ndsnn["mean"]) == pytest.approx(100 * sum(NDSNN) / 3, abs=1e-10)
    assert (ndsnn["n"], ndsnn["seeds"], ndsnn["clearly_best"], ndsnn["paper"]) == ("3", "0 1 2", "True", "91.31")
    assert next(row for row in rows if row["method"] == "dense")["final_sparsity"] == "0.0"


def test_latex_is_well_formed(paper_cell):
    for table in (accuracy_table(paper_cell), cost_table(paper_cell), comparison_table(paper_cell)):
        assert isinstance(table, Table)
        latex = to_latex(table)
        body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
        for line in body.splitlines():
            if "&" in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1, line
        assert not re.search(r"(?<!\\)%", latex)
        assert all(
            latex.count(f"\\begin{{{name}}}") == latex.count(f"\\end{{{name}}}") for name in ("table", "tabular")
        )
        assert latex.isascii() or not set(latex) & set("±−θ×·–…⁹")
        assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert r"\textbf{91.47 $\pm$ 0.21} {\scriptsize (paper 91.31 (+0.16))}" in to_latex(accuracy_table(paper_cell))


def test_markdown_has_a_cell_for_every_column(paper_cell):
    for table in (accuracy_table(paper_cell), cost_table(paper_cell)):
        assert isinstance(table, Table)
        lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
        assert {line.count("|") for line in lines} == {len(table.columns) + 1}
    assert "| NDSNN | **91.47 ± 0.21** (paper 91.31 (+0.16)) |" in to_markdown(accuracy_table(paper_cell))


@pytest.mark.parametrize(("value", "text"), [(0.004, "0.00"), (-0.004, "0.00"), (1.0, "+1.00"), (-1.005, "−1.00")])
def test_signed_numbers(value, text):
    assert signed(value) == text


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (302.4, 8.72, "302 ± 9"),
        (12.54, 1.81, "12.5 ± 1.8"),
        (0.00234, 0.0001, "0.00234 ± 0.00010"),
        (0, 0, "0.00 ± 0.00"),
    ],
)
def test_costs_have_three_significant_digits(mean, deviation, text):
    cell = sample_cell(Sample(mean, deviation, 3), None)
    assert f"{cell.text} {cell.spread}" == text
