"""Tables as data, before they become Markdown, CSV, LaTeX or HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ndsnn.evaluation.report.statistics import Sample

NOTHING = "–"
"""What stands where there is no run."""

Datum = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What stands in a place of a table.

    Args:
        text: The value.
        spread: Its standard deviation, such as "± 0.42".
        notes: Short remarks below the value.
        bold: Whether it is clearly the best of its column or row.
    """

    text: str
    spread: str = ""
    notes: tuple[str, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """A row of cells, or a heading over the rows that follow.

    Args:
        cells: One per column; a heading has one for all.
        heading: Whether it is a heading.
    """

    cells: tuple[Cell, ...]
    heading: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: Name of its files.
        title: One line.
        caption: What is in it and how it is to be read.
        columns: Headings.
        rows: Its rows.
        labels: How many of the first columns name the row.
        groups: Headings over several columns: text and number of columns; all columns or none.
        notes: Lines below the table.
        data: The same numbers unrounded, one object per cell; the CSV file.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: int = 1
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    data: list[Datum] = field(default_factory=list)


@dataclass(frozen=True)
class LeftOut:
    """A table or figure that has no runs.

    Args:
        title: Its title.
        reason: What runs it would need.
    """

    title: str
    reason: str


def merged_notes(notes: Iterable[tuple[str, str]], recipes: int) -> tuple[str, ...]:
    """Return notes about recipes as lines; what holds for all of several recipes is said once.

    Args:
        notes: Label of a recipe, and a sentence about it.
        recipes: How many recipes the table has.
    """
    owners: dict[str, list[str]] = {}
    for label, text in notes:
        owners.setdefault(text, []).append(label)
    lines = []
    for text, labels in owners.items():
        everywhere = len(labels) == recipes > 1
        lines += [f"All recipes: {text}"] if everywhere else [f"{label}: {text}" for label in labels]
    return tuple(lines)


def heading(text: str) -> Row:
    """Return a heading over the rows that follow."""
    return Row((Cell(text),), heading=True)


def signed(value: float, digits: int = 2) -> str:
    """Return a difference with its sign; what rounds to 0 has none."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if not float(text) else text.replace("-", "−")


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals, thousands set apart."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", "−")


def significant(value: float) -> int:
    """Return the decimals with which a number has three significant digits, and is whole where it has more."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2


def sample_cell(found: Sample | None, digits: int | None = 2, usual_n: int | None = None, **more: Any) -> Cell:
    """Return mean ± sample standard deviation, and n where it is not the usual one.

    Args:
        found: Mean and spread; None leaves the cell empty.
        digits: Decimals; None takes as many as give the mean three significant digits.
        usual_n: The n that the caption states.
        more: Further fields of the cell.
    """
    if found is None:
        return Cell(NOTHING)
    if digits is None:
        digits = significant(found.mean)
    notes = tuple(more.pop("notes", ()))
    if usual_n is not None and found.n != usual_n:
        notes = (*notes, f"n = {found.n}")
    spread = "" if found.deviation is None else f"± {number(found.deviation, digits)}"
    return Cell(number(found.mean, digits), spread, notes, **more)
