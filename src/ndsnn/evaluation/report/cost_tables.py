"""What training cost: the paper's relative cost beside what was really spent, against dense and LTH."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ndsnn.evaluation.report import paper_numbers
from ndsnn.evaluation.report.accuracy_tables import identity, usual_n
from ndsnn.evaluation.report.names import method_name, percent
from ndsnn.evaluation.report.outcomes import Outcome
from ndsnn.evaluation.report.statistics import Sample, sample
from ndsnn.evaluation.report.study import Recipe, Result, Study
from ndsnn.evaluation.report.table_model import (
    Cell,
    Datum,
    LeftOut,
    Row,
    Table,
    heading,
    merged_notes,
    sample_cell,
)


class Measure(NamedTuple):
    """A cost of a run.

    Args:
        name: Its name in CSV files.
        heading: What it is called.
        unit: Heading of the value's own column; empty where the value is itself a percentage of dense.
        value: Reads it.
        by_machine: Whether it compares only between runs on one machine with the same settings of the engine.
    """

    name: str
    heading: str
    unit: str
    value: Callable[[Outcome], float | None]
    by_machine: bool


def _billions(outcome: Outcome) -> float | None:
    operations = outcome.costs.operations
    return None if operations is None else operations / 1e9


MEASURES = (
    Measure("relative_cost", "Relative cost (IV-C)", "", lambda outcome: outcome.costs.relative, False),
    Measure("synaptic_operations", "Synaptic operations", "10⁹", _billions, False),
    Measure("seconds", "Wall time", "s", lambda outcome: outcome.costs.seconds, True),
    Measure("peak_memory", "Peak memory", "MB", lambda outcome: outcome.costs.memory_mb, True),
)


def cost_table(study: Study) -> Table | LeftOut:
    """Return the costs of all results that stand for their method at a sparsity."""
    title = "Training cost"
    recipes = [recipe for recipe in study.recipes if recipe.results]
    usual = usual_n(result for recipe in recipes for result in recipe.results)
    rows: list[Row] = []
    data: list[Datum] = []
    for recipe in recipes:
        rows.append(heading(recipe.label))
        results = [result for final in recipe.sparsities for result in recipe.at(final)]
        for result in ([recipe.dense] if recipe.dense else []) + results:
            cells = [cell for measure in MEASURES for cell in _cells(measure, recipe, result, usual)]
            rows.append(Row((Cell(percent(result.final)), Cell(result.variant.label), *cells)))
            data.append(_datum(recipe, result))
    columns = [c for m in MEASURES for c in ((m.unit,) if m.unit else ()) + ("% of dense", "% of LTH")]
    return Table(
        name="training-cost",
        title=title,
        caption="Mean ± sample standard deviation over seeds, "
        f"n = {usual} where nothing else is said; ratios are taken seed by seed. Relative cost: mean over epochs "
        "of spike rate × density against the spike rate of the dense run (Section IV-C); that of LTH is summed "
        "over all rounds. Synaptic operations: spikes × the alive connections they reach in all training forward "
        "passes. Peak memory: of the whole process, images and libraries included.",
        columns=("θf", "Method", *columns),
        rows=tuple(rows),
        labels=2,
        groups=(("", 2), *((m.heading, 3 if m.unit else 2) for m in MEASURES)),
        notes=merged_notes(((r.label, note) for r in recipes for note in _notes(r)), len(recipes)),
        data=data,
    )


def values_of(measure: Measure, result: Result) -> dict[int, float]:
    """Return a cost by seed, where it is known."""
    found = {seed: measure.value(outcome) for seed, outcome in result.outcomes.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def ratio(measure: Measure, result: Result, base: Result | None) -> Sample | None:
    """Return a cost in % of that of `base`, over the shared seeds of runs that can be compared."""
    if base is None:
        return None
    mine, theirs = values_of(measure, result), values_of(measure, base)
    ratios = [
        100 * mine[seed] / theirs[seed]
        for seed in sorted(mine.keys() & theirs.keys())
        if theirs[seed] and (not measure.by_machine or _same_place(result, base, seed))
    ]
    return sample(ratios) if ratios else None


def relative_cost(result: Result) -> Sample | None:
    """Return the relative cost of Section IV-C in % of dense training."""
    values = values_of(MEASURES[0], result)
    return sample([100 * value for value in values.values()]) if values else None


def _same_place(result: Result, base: Result, seed: int) -> bool:
    return result.outcomes[seed].record.where == base.outcomes[seed].record.where


def _cells(measure: Measure, recipe: Recipe, result: Result, usual: int) -> list[Cell]:
    lth = sample_cell(ratio(measure, result, recipe.lth(result.final)), None, usual)
    if not measure.unit:
        return [sample_cell(relative_cost(result), None, usual), lth]
    values = list(values_of(measure, result).values())
    own = sample_cell(sample(values) if values else None, None, usual)
    return [own, sample_cell(ratio(measure, result, recipe.dense), None, usual), lth]


def _datum(recipe: Recipe, result: Result) -> Datum:
    datum = identity(recipe, result.variant, result.final, result.initial) | {"n": len(result.outcomes)}
    for measure in MEASURES:
        values = list(values_of(measure, result).values())
        own = sample(values) if values else None
        found = {
            "": own,
            "_percent_of_dense": ratio(measure, result, recipe.dense) if measure.unit else relative_cost(result),
            "_percent_of_lth": ratio(measure, result, recipe.lth(result.final)),
        }
        for suffix, one in found.items():
            datum[f"{measure.name}{suffix}"] = None if one is None else one.mean
            datum[f"{measure.name}{suffix}_sd"] = None if one is None else one.deviation
    return datum


def _notes(recipe: Recipe) -> list[str]:
    """Say what the ratios are made of, and what the paper prints."""
    notes = []
    variants = {result.variant.label for final in recipe.sparsities if (result := recipe.lth(final))}
    if any(variant.label != method_name("lth") for variant in recipe.variants if variant.method == "lth"):
        notes.append(f"% of LTH is against {', '.join(sorted(variants))}.")
    places = {outcome.record.where for result in recipe.results for outcome in result.outcomes.values()}
    if len(places) > 1:
        listed = "; ".join(", ".join(place) for place in sorted(places))
        notes.append(
            f"its runs were computed in {len(places)} ways ({listed}); wall time and memory are "
            "compared only within one."
        )
    else:
        notes.append(f"computed with {', '.join(next(iter(places)))}.")
    if (paper := paper_numbers.training_cost(recipe.settings)) is not None:
        dense, lth = paper
        share = "" if dense is None else f"{dense} % of dense and "
        notes.append(f"the paper prints {share}{lth} % of LTH for NDSNN.")
    return notes
