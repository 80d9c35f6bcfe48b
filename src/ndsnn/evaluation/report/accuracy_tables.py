"""Tables I, II and III of the paper from runs: accuracy by method, against ADMM, and by initial sparsity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ndsnn.evaluation.report import paper_numbers
from ndsnn.evaluation.report.names import method_name, percent
from ndsnn.evaluation.report.statistics import clear_best
from ndsnn.evaluation.report.study import Recipe, Result, Study, Variant
from ndsnn.evaluation.report.table_model import (
    NOTHING,
    Cell,
    Datum,
    LeftOut,
    Row,
    Table,
    heading,
    merged_notes,
    number,
    sample_cell,
    signed,
)

SELECTION = {"last": "after the last epoch", "best": "of the epoch best by validation accuracy at θf"}

BOLD = (
    "Bold: better than each other entry of its comparison by a paired t-test over seeds (two-sided, "
    "Holm-corrected p < 0.05, at least 3 shared seeds); no bold: the lead is within the noise or cannot be tested."
)


def accuracy_table(study: Study, which: str = "last") -> Table | LeftOut:
    """Return Table I: test accuracy by data set, network, method and θf.

    Args:
        study: The runs.
        which: "last" epoch, or the one "best" by validation.
    """
    title = "Table I · Test accuracy by method and sparsity" + ("" if which == "last" else ", best epoch")
    finals = _main_sparsities(study)
    recipes = [
        recipe
        for recipe in study.recipes
        if _any([recipe.dense] if not recipe.sparse else [r for f in finals for r in recipe.at(f)], which)
    ]
    if not recipes:
        return LeftOut(title, "no run has an accuracy to report")
    usual = usual_n(result for recipe in recipes for result in recipe.results)
    rows: list[Row] = []
    data: list[Datum] = []
    for recipe in recipes:
        rows.append(heading(_recipe_heading(recipe, which)))
        if recipe.dense is not None:
            data.append(_datum(recipe, recipe.dense, which, False))
        best = {final: best_of(recipe.at(final), which) for final in finals}
        for variant in recipe.variants:
            if not _any((recipe.main(variant, final) for final in finals), which):
                continue
            cells = []
            for final in finals:
                result = recipe.main(variant, final)
                cells.append(_accuracy_cell(recipe, result, which, usual, bold=result in (best[final],)))
                if result is not None and result.accuracy(which) is not None:
                    data.append(_datum(recipe, result, which, result == best[final]))
            rows.append(Row((Cell(variant.label), *cells)))
    return Table(
        name="table1-accuracy" if which == "last" else "table1-accuracy-best-epoch",
        title=title,
        caption=f"Test accuracy in % {SELECTION[which]}, mean ± sample standard deviation over seeds, "
        f"n = {usual} where nothing else is said, at the final sparsity θf. {BOLD}",
        columns=("Method", *(f"θf = {percent(final)}" for final in finals)),
        rows=tuple(rows),
        notes=merged_notes(((r.label, note) for r in recipes for note in _initial_notes(r)), len(recipes)),
        data=data,
    )


def admm_table(study: Study) -> Table | LeftOut:
    """Return Table II: ADMM against NDSNN, on the data sets and at the sparsities that ADMM has runs of."""
    title = "Table II · ADMM and NDSNN"
    asked = {
        (recipe.settings["data.name"], result.final)
        for recipe in study.recipes
        for result in recipe.sparse
        if result.variant.method == "admm"
    }
    if not asked:
        return LeftOut(title, "it needs finished runs of method admm")
    finals = sorted({final for _, final in asked})
    results = [
        (recipe, result)
        for recipe in study.recipes
        for final in recipe.sparsities
        for result in recipe.at(final)
        if result.variant.method in ("admm", "ndsnn") and (recipe.settings["data.name"], final) in asked
    ]
    usual = usual_n(result for _, result in results)
    rows: list[Row] = []
    for recipe in study.recipes:
        mine = {(r.variant, r.final): r for owner, r in results if owner is recipe}
        if not mine:
            continue
        rows.append(heading(_recipe_heading(recipe, "last")))
        for variant in dict.fromkeys(variant for variant, _ in mine):
            cells = (_against_dense(recipe, mine.get((variant, final)), usual) for final in finals)
            rows.append(Row((Cell(variant.label), *cells)))
    return Table(
        name="table2-admm",
        title=title,
        caption=f"Test accuracy in % after the last epoch, mean ± sample standard deviation over seeds, "
        f"n = {usual} where nothing else is said; below it the mean difference to the dense network of the same "
        "recipe and seeds. The networks may differ, so nothing is bold: a row is to be read against its own dense "
        "network.",
        columns=("Method", *(f"θf = {percent(final)}" for final in finals)),
        rows=tuple(rows),
        data=[_datum(recipe, result, "last", False) for recipe, result in results],
    )


def initial_sparsity_table(study: Study) -> Table | LeftOut:
    """Return Table III: accuracy by θi, for what was run with at least two of them at one θf."""
    title = "Table III · Test accuracy by initial sparsity"
    series = [
        (recipe, variant, final, found)
        for recipe in study.recipes
        for variant in recipe.variants
        for final in recipe.sparsities
        if len(found := recipe.initials(variant, final)) > 1
    ]
    if not series:
        return LeftOut(
            title, "it needs runs of a method with two or more initial sparsities at one final sparsity"
        )
    initials = sorted({result.initial for *_, found in series for result in found}, reverse=True)
    usual = usual_n(result for *_, found in series for result in found)
    rows: list[Row] = []
    data: list[Datum] = []
    for recipe in study.recipes:
        mine = [(variant, final, found) for owner, variant, final, found in series if owner is recipe]
        if mine:
            rows.append(heading(recipe.label))
        for variant, final, found in mine:
            best = best_of(found)
            by_initial = {result.initial: result for result in found}
            cells = [
                _accuracy_cell(recipe, by_initial.get(at), "last", usual, bold=by_initial.get(at) in (best,))
                for at in initials
            ]
            rows.append(Row((Cell(variant.label), Cell(percent(final)), *cells)))
            data += [_datum(recipe, result, "last", result == best) for result in found]
    return Table(
        name="table3-initial-sparsity",
        title=title,
        caption=f"Test accuracy in % after the last epoch, mean ± sample standard deviation over seeds, "
        f"n = {usual} where nothing else is said, by the sparsity θi that training begins with. {BOLD}",
        columns=("Method", "θf", *(f"θi = {percent(initial)}" for initial in initials)),
        rows=tuple(rows),
        labels=2,
        data=data,
    )


def best_of(results: list[Result], which: str = "last") -> Result | None:
    """Return the result that is clearly better than each of the others, None where there is none."""
    values = {str(place): result.accuracies(which) for place, result in enumerate(results)}
    best = clear_best({key: found for key, found in values.items() if found})
    return None if best is None else results[int(best)]


def usual_n(results: Iterable[Result]) -> int:
    """Return how many seeds most results have, the larger number of equally frequent ones."""
    counts = Counter(len(result.outcomes) for result in results)
    return max(counts, key=lambda n: (counts[n], n))


def _main_sparsities(study: Study) -> list[float]:
    """Return the θf of Table I: all but those of Table II at which no recipe has two methods."""
    finals = sorted({final for recipe in study.recipes for final in recipe.sparsities})
    of_table_2 = {r.final for recipe in study.recipes for r in recipe.sparse if r.variant.method == "admm"}
    return [f for f in finals if f not in of_table_2 or any(len(recipe.at(f)) > 1 for recipe in study.recipes)]


def _any(results: Iterable[Result | None], which: str) -> bool:
    return any(result is not None and result.accuracy(which) is not None for result in results)


def _recipe_heading(recipe: Recipe, which: str) -> str:
    dense = None if recipe.dense is None else recipe.dense.accuracy(which)
    if dense is None:
        return f"{recipe.label} – no dense run"
    spread = "" if dense.deviation is None else f" ± {number(dense.deviation)}"
    text = f"{recipe.label} – dense {number(dense.mean)}{spread} (n = {dense.n})"
    paper = paper_numbers.accuracy(recipe.settings, "dense", 0.0)
    return text if paper is None else f"{text}, {_paper_note(dense.mean, paper)}"


def _paper_note(mean: float, paper: float) -> str:
    return f"paper {paper:.2f} ({signed(mean - paper)})"


def _printed(recipe: Recipe, result: Result) -> float | None:
    """Return the paper's number for a result: of the plain method alone, not of a variant with other settings."""
    varied = result.initial if result.initial != result.final else None
    return paper_numbers.accuracy(recipe.settings, result.variant.method, result.final, varied)


def _accuracy_cell(recipe: Recipe, result: Result | None, which: str, usual: int, bold: bool) -> Cell:
    found = None if result is None else result.accuracy(which)
    if result is None or found is None:
        return Cell(NOTHING)
    notes = []
    paper = _printed(recipe, result)
    if paper is not None:
        notes.append(_paper_note(found.mean, paper))
    if result.first.round is not None:
        notes.append(f"round {result.first.round}, at {percent(result.first.sparsity)}")
    return sample_cell(found, usual_n=usual, notes=notes, bold=bold)


def _against_dense(recipe: Recipe, result: Result | None, usual: int) -> Cell:
    if result is None:
        return Cell(NOTHING)
    cell = _accuracy_cell(recipe, result, "last", usual, bold=False)
    mine, dense = result.accuracies(), recipe.dense.accuracies() if recipe.dense else {}
    shared = mine.keys() & dense.keys()
    if not shared:
        return cell
    difference = sum(mine[seed] - dense[seed] for seed in shared) / len(shared)
    return Cell(cell.text, cell.spread, (f"{signed(difference)} to dense", *cell.notes))


def _initial_notes(recipe: Recipe) -> list[str]:
    """Say what θi stands behind the methods that change their sparsity."""
    notes = []
    for variant in recipe.variants:
        shown = {f: r for f in recipe.sparsities if (r := recipe.main(variant, f)) and r.initial != r.final}
        if not shown or variant.method == "lth":
            continue
        starts = Counter(result.initial for result in shown.values())
        if len(starts) == 1:
            text = f"{percent(next(iter(starts)))}"
        else:
            text = ", ".join(f"{percent(r.initial)} (θf = {percent(f)})" for f, r in shown.items())
        others = any(len(recipe.initials(variant, final)) > 1 for final in shown)
        notes.append(f"{variant.label} starts at θi = {text}" + ("; others in Table III." if others else "."))
    return notes


def _datum(recipe: Recipe, result: Result, which: str, best: bool) -> Datum:
    found = result.accuracy(which)
    assert found is not None
    paper = _printed(recipe, result)
    return identity(recipe, result.variant, result.final, result.initial) | {
        "true_sparsity": result.first.sparsity,
        "round": result.first.round,
        "accuracy": "last epoch" if which == "last" else "best epoch by validation",
        "mean": found.mean,
        "standard_deviation": found.deviation,
        "n": found.n,
        "seeds": " ".join(map(str, result.accuracies(which))),
        "values": " ".join(f"{value:.6g}" for value in result.accuracies(which).values()),
        "clearly_best": best,
        "paper": paper,
        "difference_to_paper": None if paper is None else found.mean - paper,
    }


def identity(recipe: Recipe, variant: Variant, final: float, initial: float | None = None) -> Datum:
    """Return what a row of a CSV file is about."""
    return {
        "recipe": recipe.label,
        "data": recipe.settings["data.name"],
        "model": recipe.settings["model.name"],
        "time_steps": recipe.settings["model.time_steps"],
        "method": variant.method,
        "variant": variant.label if variant.method != "dense" else method_name("dense"),
        "initial_sparsity": initial,
        "final_sparsity": final,
    }
