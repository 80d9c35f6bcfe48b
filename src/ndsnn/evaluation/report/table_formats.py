"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re

from ndsnn.evaluation.report.table_model import Cell, Row, Table

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\to$",
    "θi": r"$\theta_\mathrm{i}$",
    "θf": r"$\theta_\mathrm{f}$",
    "θ": r"$\theta$",
    "⁹": r"$^9$",
    "Σ": r"$\Sigma$",
    "–": "--",
    "…": r"\dots{}",
}
"""What LaTeX writes for a character, or two, that it does not take as they are."""


def to_markdown(table: Table) -> str:
    """Return a table as Markdown, with its title, caption and notes."""
    lines = [f"## {_markdown(table.title)}", "", _markdown(table.caption), ""]
    headings = [_markdown(" ".join(part for part in pair if part)) for pair in _full_headings(table)]
    lines += ["| " + " | ".join(headings) + " |", _alignment(table)]
    for row in table.rows:
        if row.heading:
            cells = [f"**{_markdown(row.cells[0].text)}**", *[""] * (len(table.columns) - 1)]
        else:
            cells = [_markdown_cell(cell) for cell in row.cells]
        lines.append("| " + " | ".join(cells) + " |")
    if table.notes:
        lines += ["", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Return the numbers of a table unrounded, one line per cell; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.data[0]) if table.data else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.data)
    return text.getvalue()


def to_latex(table: Table) -> str:
    """Return a table for LaTeX; it needs the package booktabs."""
    width = len(table.columns)
    columns = "l" * table.labels + "r" * (width - table.labels)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    if table.groups:
        lines += _latex_groups(table)
    lines += [" & ".join(_latex(column) for column in table.columns) + r" \\", r"\midrule"]
    for place, row in enumerate(table.rows):
        if row.heading and place:
            lines.append(r"\midrule")
        lines.append(_latex_row(row, width))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {_latex(note)}" for note in table.notes]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _full_headings(table: Table) -> list[tuple[str, str]]:
    groups = [text for text, width in table.groups for _ in range(width)] or [""] * len(table.columns)
    return [(f"{group}," if group else "", column) for group, column in zip(groups, table.columns, strict=True)]


def _alignment(table: Table) -> str:
    marks = ["---"] * table.labels + ["---:"] * (len(table.columns) - table.labels)
    return "| " + " | ".join(marks) + " |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    value = _markdown(f"{cell.text} {cell.spread}".rstrip())
    value = f"**{value}**" if cell.bold else value
    return f"{value} ({_markdown(', '.join(cell.notes))})" if cell.notes else value


def _latex(text: str) -> str:
    pattern = "|".join(re.escape(key) for key in sorted(LATEX, key=len, reverse=True))
    return re.sub(pattern, lambda match: LATEX[match.group()], text)


def _latex_groups(table: Table) -> list[str]:
    cells, rules, first = [], [], 1
    for text, width in table.groups:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex(text)}}}")
        if text:
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [" & ".join(cells) + r" \\", "".join(rules)]


def _latex_row(row: Row, width: int) -> str:
    if row.heading:
        return rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_latex(row.cells[0].text)}}}}} \\"
    cells = []
    for cell in row.cells:
        value = _latex(f"{cell.text} {cell.spread}".rstrip())
        value = rf"\textbf{{{value}}}" if cell.bold else value
        notes = rf" {{\scriptsize ({_latex(', '.join(cell.notes))})}}" if cell.notes else ""
        cells.append(value + notes)
    return " & ".join(cells) + r" \\"
