"""Every method against one of them: paired differences of accuracy with their confidence."""

from __future__ import annotations

from ndsnn.errors import ConfigError, unknown_name
from ndsnn.evaluation.report.accuracy_tables import identity
from ndsnn.evaluation.report.names import method_name, percent
from ndsnn.evaluation.report.statistics import LEVEL, Comparison, compare, holm
from ndsnn.evaluation.report.study import Recipe, Result, Study
from ndsnn.evaluation.report.table_model import NOTHING, Cell, Datum, LeftOut, Row, Table, heading, number, signed

USUAL_REFERENCE = "ndsnn"


def comparison_table(study: Study, reference: str | None = None) -> Table | LeftOut:
    """Return the differences of all methods to `reference` at each θf.

    Args:
        study: The runs.
        reference: The method that the others are held against; NDSNN if it has runs.

    Raises:
        ConfigError: There is no run of the method that was asked for.
    """
    if reference is not None and reference not in study.methods:
        raise ConfigError(
            f"{unknown_name('method', reference, study.methods)}; --reference names a method with runs"
        )
    asked = reference or USUAL_REFERENCE
    name = method_name(asked)
    title = f"Differences to {name}"
    rows: list[Row] = []
    data: list[Datum] = []
    for recipe in study.recipes:
        mine: list[Row] = []
        for final in [0.0, *recipe.sparsities] if asked == "dense" else recipe.sparsities:
            results = recipe.at(final)
            base = (
                recipe.dense if asked == "dense" else next((r for r in results if r.variant.method == asked), None)
            )
            if base is not None:
                others = [result for result in results if result is not base]
                mine += _rows(recipe, base, others, data)
        if mine:
            rows += [heading(recipe.label), *mine]
    if not rows:
        return LeftOut(title, f"it needs runs of {name} and of another method at one sparsity of one recipe")
    return Table(
        name="comparisons",
        title=title,
        caption=f"Accuracy after the last epoch minus that of {name} at the same seed, in points, with its 95 % "
        "confidence interval: two-sided paired t-test over the n shared seeds, which assumes that these "
        "differences are normally distributed. Holm: p corrected for all comparisons at this sparsity.",
        columns=("θf", "Method", "Difference", "95 % interval", "n", "t", "p", "p (Holm)", "Verdict"),
        rows=tuple(rows),
        labels=2,
        data=data,
    )


def _rows(recipe: Recipe, base: Result, others: list[Result], data: list[Datum]) -> list[Row]:
    found = [compare(result.accuracies(), base.accuracies()) for result in others]
    corrected = holm([None if one is None else one.p for one in found])
    rows = []
    for result, one, p in zip(others, found, corrected, strict=True):
        rows.append(Row((Cell(percent(result.final)), Cell(result.variant.label), *_cells(one, p))))
        facts = one._asdict() if one is not None else dict.fromkeys(Comparison._fields)
        reference = {"reference": base.variant.label, "p_holm": p, "verdict": verdict(one, p)}
        data.append(identity(recipe, result.variant, result.final, result.initial) | facts | reference)
    return rows


def _cells(one: Comparison | None, p: float | None) -> tuple[Cell, ...]:
    judged = Cell(verdict(one, p))
    if one is None:
        return (*[Cell(NOTHING)] * 6, judged)
    interval = NOTHING if one.low is None or one.high is None else f"{signed(one.low)} … {signed(one.high)}"
    return (
        Cell(signed(one.difference)),
        Cell(interval),
        Cell(str(one.n)),
        Cell(number(one.t)),
        Cell(_p_text(one.p)),
        Cell(_p_text(p)),
        judged,
    )


def verdict(one: Comparison | None, p: float | None) -> str:
    """Say in words what a comparison shows.

    Args:
        one: The comparison; None where no seed is shared.
        p: Its corrected p; None where no test was made.
    """
    if one is None:
        return "no shared seed"
    if p is None:
        return "not tested"
    if p >= LEVEL:
        return "within noise"
    return "better" if one.difference > 0 else "worse"


def _p_text(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
