"""Runs in order: recipes, the variants of methods within each, and what each reached at each sparsity over seeds.

A recipe is everything that decides a result but the method, its sparsities and the seed. Runs of two recipes are
never averaged together, nor compared as if their methods alone differed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ndsnn.config import MACHINE_KEYS
from ndsnn.evaluation.report import paper_numbers
from ndsnn.evaluation.report.names import data_name, method_name, method_order, network_name, setting_text
from ndsnn.evaluation.report.outcomes import Outcome, outcome_of, round_outcome
from ndsnn.evaluation.report.records import Problem, Record, settings_key
from ndsnn.evaluation.report.statistics import Sample, sample

NOT_OF_A_RECIPE = (MACHINE_KEYS - {"precision"}) | {"seed", "dense_run"}
"""Where and how a run is computed, and what repeats of it differ in."""

SPARSITIES = ("method.initial_sparsity", "method.final_sparsity")

USUAL_INITIAL = 0.7
"""θi that stands for a method where several were tried and nothing else decides."""


@dataclass(frozen=True)
class Variant:
    """A method with its own settings, sparsities apart.

    Args:
        key: The same text for the same variant.
        method: Name of the method.
        label: What it is called in tables, with the settings in which variants of the method differ.
    """

    key: str
    method: str
    label: str


@dataclass(frozen=True)
class Result:
    """What a variant reached at one sparsity.

    Args:
        variant: The variant.
        final: θf.
        initial: θi.
        outcomes: By seed.
    """

    variant: Variant
    final: float
    initial: float
    outcomes: Mapping[int, Outcome]

    def accuracies(self, which: str = "last") -> dict[int, float]:
        """Return the test accuracy in % by seed, of the last epoch or of the one "best" by validation."""
        values = {seed: getattr(outcome, which) for seed, outcome in self.outcomes.items()}
        return {seed: 100 * value for seed, value in values.items() if value is not None}

    def accuracy(self, which: str = "last") -> Sample | None:
        """Return mean and spread of `accuracies`; None where there are none."""
        values = list(self.accuracies(which).values())
        return sample(values) if values else None

    @property
    def first(self) -> Outcome:
        """The outcome of the lowest seed."""
        return self.outcomes[min(self.outcomes)]


@dataclass(frozen=True)
class Recipe:
    """All runs of one recipe.

    Args:
        label: What it is called.
        settings: What its runs have in common.
        results: Everything reached with it.
    """

    label: str
    settings: Mapping[str, Any]
    results: tuple[Result, ...]

    @property
    def variants(self) -> list[Variant]:
        """Its sparse variants in the order of tables."""
        found = {result.variant.key: result.variant for result in self.sparse}
        return sorted(found.values(), key=lambda variant: (method_order(variant.method), variant.label))

    @property
    def sparse(self) -> list[Result]:
        """All results but the dense one."""
        return [result for result in self.results if result.variant.method != "dense"]

    @property
    def dense(self) -> Result | None:
        """The dense result."""
        return next((result for result in self.results if result.variant.method == "dense"), None)

    @property
    def sparsities(self) -> list[float]:
        """All θf."""
        return sorted({result.final for result in self.sparse})

    def initials(self, variant: Variant, final: float) -> list[Result]:
        """Return the results of a variant at θf, one per θi, the sparsest start first."""
        found = [r for r in self.results if r.variant == variant and r.final == final]
        return sorted(found, key=lambda result: -result.initial)

    def main(self, variant: Variant, final: float) -> Result | None:
        """Return the result that stands for a variant at θf where several θi were tried.

        It is that of the paper's θi for this cell; else of the θi with which the variant has most θf; else of the
        one nearest to 0.7. Accuracy plays no part.
        """
        found = self.initials(variant, final)
        uses = Counter(result.initial for result in self.results if result.variant == variant)
        cell = (self.settings["model.name"], self.settings["data.name"], round(final, 4))
        usual = paper_numbers.MAIN_INITIAL.get(cell) if variant.method == "ndsnn" else None

        def rank(result: Result) -> tuple[bool, int, float, float]:
            return (
                result.initial != usual,
                -uses[result.initial],
                abs(result.initial - USUAL_INITIAL),
                result.initial,
            )

        return min(found, key=rank, default=None)

    def at(self, final: float) -> list[Result]:
        """Return the results that stand for each variant at θf, in the order of tables."""
        found = [self.main(variant, final) for variant in self.variants]
        return [result for result in found if result is not None]

    @property
    def usual_sparsity(self) -> float | None:
        """The θf with most variants, the highest of several: what pictures of one sparsity show."""
        return max(self.sparsities, key=lambda final: (len(self.at(final)), final), default=None)

    def lth(self, final: float) -> Result | None:
        """Return the LTH result that costs at θf are held against: that of its first variant in the tables."""
        return next((result for result in self.at(final) if result.variant.method == "lth"), None)


@dataclass(frozen=True)
class Study:
    """All that a report is about.

    Args:
        recipes: In the order of their labels.
        records: The runs that count.
        problems: What had to be left out.
    """

    recipes: tuple[Recipe, ...]
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]

    @property
    def methods(self) -> list[str]:
        """All methods in the order of tables."""
        return sorted({record.method for record in self.records}, key=method_order)


def build_study(records: Iterable[Record], problems: Iterable[Problem]) -> Study:
    """Put runs in order.

    Args:
        records: Finished runs.
        problems: What could not be read.

    Returns:
        The study. Of runs with the same settings and seed the first by name counts; the others become problems.
    """
    kept, repeated = _without_repeats(records)
    by_recipe: dict[str, list[Record]] = defaultdict(list)
    for record in kept:
        by_recipe[settings_key(recipe_settings(record))].append(record)
    labels = _recipe_labels([recipe_settings(group[0]) for group in by_recipe.values()])
    recipes = [_recipe(label, group) for label, group in zip(labels, by_recipe.values(), strict=True)]
    recipes.sort(key=lambda recipe: recipe.label)
    return Study(tuple(recipes), tuple(kept), (*problems, *repeated))


def recipe_settings(record: Record) -> dict[str, Any]:
    """Return the settings of a run that make its recipe."""
    return {
        key: value
        for key, value in record.settings.items()
        if key not in NOT_OF_A_RECIPE and not key.startswith("method.")
    }


def _variant_settings(record: Record) -> dict[str, Any]:
    found = {key: value for key, value in record.settings.items() if key.startswith("method.")}
    return {key: value for key, value in found.items() if key not in SPARSITIES}


def _without_repeats(records: Iterable[Record]) -> tuple[list[Record], list[Problem]]:
    seen: dict[str, Record] = {}
    problems = []
    for record in records:
        same = {key: record.settings[key] for key in record.settings if key not in NOT_OF_A_RECIPE - {"seed"}}
        first = seen.setdefault(settings_key(same), record)
        if first is not record:
            problems.append(Problem(record.name, f"the same settings and seed as {first.name}; left out"))
    return list(seen.values()), problems


def _recipe_labels(recipes: list[dict[str, Any]]) -> list[str]:
    bases = [f"{data_name(settings)} · {network_name(settings)}" for settings in recipes]
    return _labels(bases, recipes, ", {}")


def _labels(bases: list[str], settings: list[dict[str, Any]], form: str) -> list[str]:
    """Return `bases`, and behind those that are equal the settings in which they differ."""
    labels = []
    for base, mine in zip(bases, settings, strict=True):
        alike = [other for name, other in zip(bases, settings, strict=True) if name == base]
        keys = sorted({key for other in alike for key in other})
        differing = [key for key in keys if any(other.get(key) != alike[0].get(key) for other in alike)]
        texts = [setting_text(key, mine.get(key)) for key in differing]
        labels.append(base + form.format(", ".join(texts)) if texts else base)
    return labels


def _recipe(label: str, records: list[Record]) -> Recipe:
    variants = _variants(records)
    dense = {record.seed: record for record in records if record.method == "dense"}
    cells: dict[tuple[str, float, float], list[Record]] = defaultdict(list)
    for record in records:
        key = settings_key(_variant_settings(record))
        cells[key, record.final_sparsity, record.initial_sparsity].append(record)
    results = []
    for (key, final, initial), group in cells.items():
        outcomes = {record.seed: outcome_of(record, dense.get(record.seed)) for record in group}
        results.append(Result(variants[key], final, initial, dict(sorted(outcomes.items()))))
    results += _from_rounds(results, dense)
    results.sort(key=lambda r: (method_order(r.variant.method), r.variant.label, r.final, r.initial))
    return Recipe(label, recipe_settings(records[0]), tuple(results))


def _variants(records: list[Record]) -> dict[str, Variant]:
    settings = {settings_key(_variant_settings(record)): _variant_settings(record) for record in records}
    names = [str(own["method.name"]) for own in settings.values()]
    labels = _labels([method_name(name) for name in names], list(settings.values()), " ({})")
    return {key: Variant(key, name, label) for key, name, label in zip(settings, names, labels, strict=True)}


def _from_rounds(results: list[Result], dense: Mapping[int, Record]) -> list[Result]:
    """Return what runs with rounds reached on their way, at each θf that others have and they have not."""
    asked = {result.final for result in results if result.variant.method != "dense"}
    own = {(result.variant.key, result.final) for result in results}
    sources: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        sources[result.variant.key].append(result)
    added = []
    for key, mine in sources.items():
        for final in sorted(asked):
            if (key, final) in own:
                continue
            outcomes: dict[int, Outcome] = {}
            for result in sorted(mine, key=lambda result: -result.final):
                for seed, outcome in result.outcomes.items():
                    found = round_outcome(outcome.record, final, dense.get(seed))
                    if found is not None:
                        outcomes.setdefault(seed, found)
            if outcomes:
                added.append(Result(mine[0].variant, final, mine[0].initial, dict(sorted(outcomes.items()))))
    return added
