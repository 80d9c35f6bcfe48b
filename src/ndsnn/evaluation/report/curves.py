"""The figures of a report, from runs to what is to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ndsnn.evaluation.report.cost_tables import relative_cost
from ndsnn.evaluation.report.figure_model import Figure, Panel, Series
from ndsnn.evaluation.report.names import percent
from ndsnn.evaluation.report.records import Record
from ndsnn.evaluation.report.statistics import Sample, sample
from ndsnn.evaluation.report.study import Recipe, Result, Study
from ndsnn.evaluation.report.table_model import LeftOut

FEW_STEPS = 2
"""T of the paper's Figure 4."""

LOGARITHMIC_FROM = 20.0
"""Largest over smallest value from which costs are drawn on a logarithmic axis."""

OVER_SEEDS = "mean over seeds, with the sample standard deviation as band or bar"

Points = list[tuple[float, Sample]]


def sparsity_figure(study: Study) -> Figure | LeftOut:
    """Return Figure 1: sparsity over training by method."""
    title = "Figure 1 · Sparsity during training"
    panels = [
        _curve_panel(
            recipe, "sparsity, %", lambda row: 100 * row["sparsity"], lambda s: 100 * s["initial_sparsity"]
        )
        for recipe in study.recipes
    ]
    caption = (
        "Fraction of zeros over all conv and linear weights at the end of each epoch, by method, at the sparsity "
        "with most methods."
    )
    return _figure("figure1-sparsity", title, caption, panels, "it needs sparse runs with metrics.jsonl")


def learning_figure(study: Study) -> Figure | LeftOut:
    """Return validation accuracy over training by method."""
    panels = [
        _curve_panel(recipe, "validation accuracy, %", lambda row: 100 * row["val_accuracy"], None)
        for recipe in study.recipes
    ]
    caption = f"Accuracy on the validation images after each epoch, {OVER_SEEDS}."
    return _figure(
        "learning-curves", "Learning curves", caption, panels, "it needs sparse runs with metrics.jsonl"
    )


def accuracy_figure(study: Study) -> Figure | LeftOut:
    """Return accuracy over sparsity by method, for every T but that of Figure 4."""
    recipes = [recipe for recipe in study.recipes if recipe.settings["model.time_steps"] != FEW_STEPS]
    caption = f"Test accuracy after the last epoch, {OVER_SEEDS}. A dotted line: the dense network."
    return _figure(
        "accuracy-over-sparsity",
        "Accuracy over sparsity",
        caption,
        [_accuracy_panel(recipe) for recipe in recipes],
        f"it needs sparse runs with T other than {FEW_STEPS}",
    )


def few_steps_figure(study: Study) -> Figure | LeftOut:
    """Return Figure 4: NDSNN against LTH with T = 2."""
    recipes = [recipe for recipe in study.recipes if recipe.settings["model.time_steps"] == FEW_STEPS]
    caption = f"Test accuracy after the last epoch with T = {FEW_STEPS}, {OVER_SEEDS}."
    return _figure(
        "figure4-two-steps",
        f"Figure 4 · Accuracy with T = {FEW_STEPS}",
        caption,
        [_accuracy_panel(recipe) for recipe in recipes],
        f"it needs sparse runs with T = {FEW_STEPS}",
    )


def cost_figure(study: Study) -> Figure | LeftOut:
    """Return Figure 5: relative training cost by method."""
    caption = (
        "Training cost relative to dense: mean over epochs of spike rate × density against the spike rate of the "
        "dense run (Section IV-C), that of LTH summed over its rounds, in %; mean over seeds, with the sample "
        "standard deviation."
    )
    panels = [_cost_panel(recipe) for recipe in study.recipes]
    reason = "it needs runs with a relative cost: trained with --dense_run, or beside a dense run of the same seed"
    return _figure("figure5-training-cost", "Figure 5 · Training cost", caption, panels, reason)


def firing_figure(study: Study) -> Figure | LeftOut:
    """Return the firing rate behind each layer by method."""
    panels = [
        _layer_panel(recipe, "firing rate", lambda layer: layer["firing_rate"], False) for recipe in study.recipes
    ]
    caption = (
        f"Spikes per neuron and step behind each layer on the test images, after the last epoch, {OVER_SEEDS}."
    )
    return _figure("firing-rates", "Firing rates", caption, panels, "it needs sparse runs with a table of layers")


def density_figure(study: Study) -> Figure | LeftOut:
    """Return the density of each layer by method."""
    panels = [
        _layer_panel(recipe, "alive weights, %", lambda layer: 100 * layer["alive"] / layer["weights"], True)
        for recipe in study.recipes
    ]
    caption = (
        f"Share of the weights of each layer that are alive at the end, {OVER_SEEDS}. The axis is logarithmic."
    )
    return _figure(
        "layer-densities", "Layer densities", caption, panels, "it needs sparse runs with a table of layers"
    )


def rewiring_figure(study: Study) -> Figure | LeftOut:
    """Return the picture after Figure 3: what is born and what dies in a layer, round by round."""
    title = "Figure 3 · Drop and grow in a layer"
    panels = []
    for recipe in study.recipes:
        final = recipe.usual_sparsity
        for result in recipe.at(final) if final is not None else []:
            panel = _rewiring_panel(recipe, result)
            if panel is not None:
                panels.append(panel)
    caption = (
        "Below: connections born (up) and dropped (down) at each topology update; above: those alive afterwards. "
        "The layer with most weights, lowest seed, methods that give birth, at the sparsity with most methods."
    )
    return _figure(
        "figure3-drop-and-grow", title, caption, panels, "it needs runs of methods that grow, with topology.jsonl"
    )


def _figure(name: str, title: str, caption: str, panels: Sequence[Panel | None], reason: str) -> Figure | LeftOut:
    drawn = tuple(panel for panel in panels if panel is not None)
    return Figure(name, title, caption, drawn) if drawn else LeftOut(title, reason)


def _series(recipe: Recipe, result: Result, points: Points) -> Series:
    """Return points as a series with the look that its variant has in the whole recipe."""
    alike = [variant for variant in recipe.variants if variant.method == result.variant.method]
    alternate = alike.index(result.variant) if result.variant in alike else 0
    return Series(
        result.variant.method,
        result.variant.label,
        tuple(place for place, _ in points),
        tuple(found.mean for _, found in points),
        tuple(found.deviation or 0.0 for _, found in points),
        alternate,
    )


def _shown(recipe: Recipe) -> list[Result]:
    """Return what a picture of one sparsity shows: every variant there, after the dense result."""
    final = recipe.usual_sparsity
    if final is None:
        return []
    return ([recipe.dense] if recipe.dense else []) + recipe.at(final)


def _at_sparsity(recipe: Recipe) -> str:
    return f"{recipe.label}, θf = {percent(recipe.usual_sparsity or 0.0)}"


def _curve_panel(
    recipe: Recipe,
    y_label: str,
    value: Callable[[dict[str, Any]], float],
    at_start: Callable[[Any], float] | None,
) -> Panel | None:
    """Return a panel over epochs; over the share of the training where the methods differ in their epochs."""
    results = [result for result in _shown(recipe) if all(o.record.metrics for o in result.outcomes.values())]
    if not any(result.variant.method != "dense" for result in results):
        return None
    lengths = {len(_rows(outcome.record, outcome.round)) for r in results for outcome in r.outcomes.values()}
    series = []
    for result in results:
        curves = []
        for outcome in result.outcomes.values():
            values = [value(row) for row in _rows(outcome.record, outcome.round)]
            curves.append(values if at_start is None else [at_start(outcome.record.summary), *values])
        length = min(map(len, curves))
        first = 1 if at_start is None else 0
        scale = 1.0 if len(lengths) == 1 else 100 / (length - 1 + first)
        points = [((i + first) * scale, sample([curve[i] for curve in curves])) for i in range(length)]
        series.append(_series(recipe, result, points))
    x_label = "epoch" if len(lengths) == 1 else "share of the method's own training, %"
    return Panel(_at_sparsity(recipe), "curve", x_label, y_label, tuple(series))


def _rows(record: Record, last_round: int | None) -> list[dict[str, Any]]:
    return [row for row in record.metrics if last_round is None or row.get("round", 0) <= last_round]


def _accuracy_panel(recipe: Recipe) -> Panel | None:
    return _over_sparsity(recipe, "test accuracy, %", lambda result: result.accuracy(), recipe.dense)


def _cost_panel(recipe: Recipe) -> Panel | None:
    return _over_sparsity(recipe, "training cost, % of dense", relative_cost, None)


def _over_sparsity(
    recipe: Recipe, y_label: str, value: Callable[[Result], Sample | None], dense: Result | None
) -> Panel | None:
    """Return a panel of points over θf, or of bars where there is one θf."""
    finals = recipe.sparsities
    series = []
    for variant in recipe.variants:
        results = {place: recipe.main(variant, final) for place, final in enumerate(finals)}
        points = [(float(p), found) for p, r in results.items() if r is not None and (found := value(r))]
        one = next((result for result in results.values() if result is not None), None)
        if points and one is not None:
            series.append(_series(recipe, one, points))
    if not series:
        return None
    level = None if dense is None else dense.accuracy()
    if level is not None and dense is not None:
        places = [0.0] if len(finals) == 1 else [-0.4, len(finals) - 0.6]
        series.insert(0, _series(recipe, dense, [(place, level) for place in places]))
    values = [y for one_series in series for y in one_series.y if y > 0]
    logarithmic = value is relative_cost and bool(values) and max(values) > LOGARITHMIC_FROM * min(values)
    ticks = tuple(percent(final) for final in finals)
    if len(finals) == 1:
        title = f"{recipe.label}, θf = {ticks[0]}"
        return Panel(title, "bars", y_label, "method", tuple(series), logarithmic=logarithmic)
    return Panel(
        recipe.label,
        "categories",
        "final sparsity θf",
        y_label,
        tuple(series),
        ticks,
        logarithmic,
        from_zero=value is relative_cost,
    )


def _layer_panel(
    recipe: Recipe, y_label: str, value: Callable[[dict[str, Any]], float | None], logarithmic: bool
) -> Panel | None:
    """Return a panel over the layers; a method read from the middle of a run has no table of its layers."""
    results = [result for result in _shown(recipe) if result.first.round is None]
    if not any(result.variant.method != "dense" for result in results):
        return None
    names = [layer["name"] for layer in results[0].first.record.summary["layers"]]
    series = []
    for result in results:
        tables = [
            {layer["name"]: value(layer) for layer in outcome.record.summary["layers"]}
            for outcome in result.outcomes.values()
        ]
        points = []
        for place, name in enumerate(names):
            found = [known for table in tables if (known := table.get(name)) is not None]
            if found and not (logarithmic and min(found) <= 0):
                points.append((float(place), sample(found)))
        if points:
            series.append(_series(recipe, result, points))
    used = max((int(x) for one in series for x in one.x), default=-1)
    if used < 0:
        return None
    ticks = tuple(names[: used + 1])
    return Panel(
        _at_sparsity(recipe), "categories", "layer", y_label, tuple(series), ticks, logarithmic, apart=False
    )


def _rewiring_panel(recipe: Recipe, result: Result) -> Panel | None:
    """Return the rounds of a result's largest layer, for a method that gives birth in any."""
    record = result.first.record
    layers = record.summary["layers"]
    if not layers or result.first.round is not None:
        return None
    largest = max(layers, key=lambda layer: layer["weights"])
    rows = [row for row in record.topology if row["layer"] == largest["name"]]
    if not any(row["grown"] for row in rows):
        return None
    rounds = tuple(float(row["round"]) for row in rows)
    method = result.variant.method
    series = (
        Series("born", "born", rounds, tuple(float(row["grown"]) for row in rows)),
        Series("died", "dropped", rounds, tuple(-float(row["dropped"]) for row in rows)),
        Series(method, result.variant.label, rounds, tuple(float(row["nnz"]) for row in rows)),
    )
    title = f"{result.variant.label} · {recipe.label}, θf = {percent(result.final)}, {largest['name']}"
    return Panel(title, "rewiring", "round", "connections", series)


FIGURES: tuple[Callable[[Study], Figure | LeftOut], ...] = (
    accuracy_figure,
    few_steps_figure,
    cost_figure,
    sparsity_figure,
    rewiring_figure,
    learning_figure,
    firing_figure,
    density_figure,
)
"""All figures, in the order of a report."""
