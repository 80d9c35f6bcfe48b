"""`ndsnn report`: from run directories to tables and figures in Markdown, CSV, LaTeX, SVG, PNG and one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ndsnn.errors import RunError
from ndsnn.evaluation.report.accuracy_tables import accuracy_table, admm_table, initial_sparsity_table
from ndsnn.evaluation.report.comparison_tables import comparison_table
from ndsnn.evaluation.report.cost_tables import cost_table
from ndsnn.evaluation.report.curves import FIGURES
from ndsnn.evaluation.report.directory import replace_report
from ndsnn.evaluation.report.drawing import Artist
from ndsnn.evaluation.report.figure_model import Figure
from ndsnn.evaluation.report.names import looks, setting_text
from ndsnn.evaluation.report.page import render_page
from ndsnn.evaluation.report.records import read_runs, stored_settings
from ndsnn.evaluation.report.study import Study, build_study
from ndsnn.evaluation.report.table_formats import to_csv, to_latex, to_markdown
from ndsnn.evaluation.report.table_model import LeftOut, Table

PAGE = "index.html"
MARKDOWN = "report.md"
DEFAULT_TITLE = "Sparse training of spiking networks"

ORDER = (
    "table1-accuracy",
    "accuracy-over-sparsity",
    "figure4-two-steps",
    "table2-admm",
    "table3-initial-sparsity",
    "figure5-training-cost",
    "training-cost",
    "figure1-sparsity",
    "figure3-drop-and-grow",
    "learning-curves",
    "firing-rates",
    "layer-densities",
    "comparisons",
    "table1-accuracy-best-epoch",
)
"""Names of all tables and figures, in the order of a report."""


@dataclass(frozen=True)
class Report:
    """All parts of a report.

    Args:
        title: Its title.
        date: A date to print, as the caller wrote it; empty for none.
        study: The runs it is about.
        tables: What could be tabulated.
        figures: What could be drawn.
        left_out: What could not, and why.
    """

    title: str
    date: str
    study: Study
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def parts(self) -> list[Table | Figure]:
        """Tables and figures in the order in which they are read; what is long and for looking up comes last."""
        found: dict[str, Table | Figure] = {table.name: table for table in self.tables}
        found |= {figure.name: figure for figure in self.figures}
        return [found[name] for name in ORDER if name in found]

    @property
    def recipes(self) -> list[tuple[str, str]]:
        """Each recipe with those of its settings that are not ndsnn's defaults."""
        usual = stored_settings({})
        return [
            (
                recipe.label,
                ", ".join(
                    setting_text(key, value)
                    for key, value in sorted(recipe.settings.items())
                    if value != usual.get(key)
                ),
            )
            for recipe in self.study.recipes
        ]

    @property
    def overview(self) -> str:
        """One sentence about what was read."""
        records, problems = self.study.records, len({problem.run for problem in self.study.problems})
        seeds = sorted({record.seed for record in records})
        text = (
            f"{_count(len(records), 'finished run')} of {_count(len(self.study.methods), 'method')} in "
            f"{_count(len(self.study.recipes), 'recipe')}, {_count(len(seeds), 'seed')} "
            f"({', '.join(map(str, seeds))})"
        )
        return (
            f"{text}; {_count(problems, 'run directory', 'run directories')} with a problem, named below."
            if (problems)
            else f"{text}."
        )


def build_report(
    roots: Sequence[Path], title: str = DEFAULT_TITLE, reference: str | None = None, date: str = ""
) -> Report:
    """Read runs and make every table and figure that they have the numbers for.

    Args:
        roots: Run directories, or folders that contain some.
        title: Title of the report.
        reference: The method that all others are compared with; NDSNN if it has runs.
        date: A date to print.

    Raises:
        RunError: There is no finished run, or a folder does not exist.
        ConfigError: The reference has no runs.
    """
    records, problems = read_runs(roots)
    if not records:
        named = "; ".join(f"{problem.run}: {problem.reason}" for problem in problems)
        raise RunError(f"no run is finished, there is nothing to report: {named}")
    study = build_study(records, problems)
    tables: list[Table | LeftOut] = [
        accuracy_table(study),
        accuracy_table(study, "best"),
        comparison_table(study, reference),
        admm_table(study),
        initial_sparsity_table(study),
        cost_table(study),
    ]
    figures = [make(study) for make in FIGURES]
    return Report(
        title,
        date,
        study,
        tuple(table for table in tables if isinstance(table, Table)),
        tuple(figure for figure in figures if isinstance(figure, Figure)),
        tuple(part for part in (*tables, *figures) if isinstance(part, LeftOut)),
    )


def write_report(report: Report, directory: Path) -> list[str]:
    """Write a report, whole or not at all, in place of an older one.

    Args:
        report: The report.
        directory: Where to; it must not exist, be empty or hold nothing but a report.

    Returns:
        The names of its files.

    Raises:
        RunError: The directory holds something else, or cannot be written.
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    artist = Artist(looks(report.study.methods))
    files: dict[str, bytes] = {}
    for table in report.tables:
        files[f"tables/{table.name}.csv"] = to_csv(table).encode()
        files[f"tables/{table.name}.tex"] = to_latex(table).encode()
        files[f"tables/{table.name}.md"] = to_markdown(table).encode()
    for figure in report.figures:
        for kind, data in artist.files(figure).items():
            files[f"figures/{figure.name}.{kind}"] = data
        files[f"figures/{figure.name}.csv"] = points_csv(figure).encode()
    files[MARKDOWN] = report_markdown(report).encode()
    files[PAGE] = render_page(report, artist).encode()
    replace_report(directory, files, report_json(report))
    return sorted(files)


def report_json(report: Report) -> dict[str, Any]:
    """Return what a program wants to know of a report: its numbers, its runs, and what is missing."""
    return {
        "title": report.title,
        "date": report.date,
        "runs": [record.name for record in report.study.records],
        "problems": [asdict(problem) for problem in report.study.problems],
        "left_out": [asdict(part) for part in report.left_out],
        "recipes": [{"label": label, "settings": text} for label, text in report.recipes],
        "tables": {table.name: table.data for table in report.tables},
        "figures": [figure.name for figure in report.figures],
    }


def report_markdown(report: Report) -> str:
    """Return the whole report as Markdown; its figures are the SVG files beside it."""
    lines = [f"# {report.title}", "", *([report.date, ""] if report.date else []), report.overview, ""]
    for part in report.parts:
        if isinstance(part, Table):
            lines.append(to_markdown(part))
        else:
            lines += [f"## {part.title}", "", f"![{part.title}](figures/{part.name}.svg)", "", part.caption, ""]
    lines += ["## Recipes", "", *(f"- {label}: {settings}" for label, settings in report.recipes), ""]
    if report.study.problems:
        lines += ["## Runs with a problem", ""]
        lines += [*(f"- {problem.run}: {problem.reason}" for problem in report.study.problems), ""]
    if report.left_out:
        lines += ["## Left out", "", *(f"- {part.title}: {part.reason}." for part in report.left_out), ""]
    return "\n".join(lines)


def points_csv(figure: Figure) -> str:
    """Return everything that a figure draws, one line per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["panel", "series", "x", "place", "y", "standard_deviation"])
    for panel in figure.panels:
        for series in panel.series:
            spreads = series.spread or ("",) * len(series.y)
            for x, y, spread in zip(series.x, series.y, spreads, strict=True):
                on_tick = x.is_integer() and 0 <= x < len(panel.ticks)
                writer.writerow([panel.title, series.label, x, panel.ticks[int(x)] if on_tick else "", y, spread])
    return text.getvalue()


def to_json(report: Report, directory: Path, files: Sequence[str]) -> str:
    """Return one line for `--json`."""
    return json.dumps(report_json(report) | {"directory": str(directory), "files": list(files)})


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
