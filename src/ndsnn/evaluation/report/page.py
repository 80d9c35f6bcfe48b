"""A report as one HTML page that needs nothing beside it: styles and figures are inside, no script, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ndsnn.errors import MissingDependencyError
from ndsnn.evaluation.report.drawing import Artist, css_name
from ndsnn.evaluation.report.figure_model import Figure, Series

if TYPE_CHECKING:
    from ndsnn.evaluation.report.report import Report

TEMPLATES = Path(__file__).with_name("html")

MARKER_SHAPES = {
    "o": '<circle cx="15" cy="6" r="3.2"/>',
    "s": '<rect x="12" y="3" width="6" height="6"/>',
    "D": '<path d="M15 2l4 4-4 4-4-4z"/>',
    "d": '<path d="M15 1.5l2.8 4.5-2.8 4.5-2.8-4.5z"/>',
    "^": '<path d="M15 2l3.8 7h-7.6z"/>',
    "v": '<path d="M15 10l3.8-7h-7.6z"/>',
    "<": '<path d="M11 6l7-3.8v7.6z"/>',
    ">": '<path d="M19 6l-7-3.8v7.6z"/>',
    "P": '<path d="M13.4 2h3.2v2.4h2.4v3.2h-2.4v2.4h-3.2v-2.4h-2.4v-3.2h2.4z"/>',
    "X": '<path d="M15 4.2l2-2 1.8 1.8-2 2 2 2-1.8 1.8-2-2-2 2-1.8-1.8 2-2-2-2 1.8-1.8z"/>',
    "h": '<path d="M15 2l3.5 2v4l-3.5 2-3.5-2v-4z"/>',
    "H": '<path d="M11 6l2-3.500h4l2 3.5-2 3.500h-4z"/>',
    "8": '<path d="M13.3 2h3.400l2.3 2.300v3.400l-2.3 2.300h-3.400l-2.3-2.300v-3.400z"/>',
    "p": '<path d="M15 2l3.9 2.8-1.5 4.600h-4.800l-1.5-4.600z"/>',
    "*": '<path d="M15 1.500l1.2 3 3.2.2-2.5 2.1.8 3.2-2.7-1.8-2.7 1.8.8-3.2-2.5-2.1 3.2-.2z"/>',
}
"""Markers of matplotlib as shapes of SVG, around (15, 6)."""


class LegendEntry(NamedTuple):
    """An entry of a legend.

    Args:
        label: Its text.
        variable: CSS variable of its colour.
        dash: Its stroke-dasharray.
        shape: SVG of its marker; empty for a bar.
    """

    label: str
    variable: str
    dash: str
    shape: str


class PageFigure(NamedTuple):
    """A figure on the page.

    Args:
        figure: The figure.
        panels: Its panels as SVG.
        legend: Its legend; empty where the panels name their bars themselves.
    """

    figure: Figure
    panels: list[str]
    legend: list[LegendEntry]


def render_page(report: Report, artist: Artist) -> str:
    """Return the page.

    Args:
        report: What is on it.
        artist: Draws its figures.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    environment = _environment()
    figures = {figure.name: _page_figure(figure, artist) for figure in report.figures}
    colours = [(css_name(method), look.light, look.dark) for method, look in artist.looks.items()]
    style = environment.get_template("style.css.j2").render(colours=colours)
    page = environment.get_template("page.html.j2").render(report=report, figures=figures, style=style)
    return page if page.endswith("\n") else page + "\n"


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            "the page of a report needs jinja2; install it with pip install 'ndsnn[report]'"
        ) from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(("html.j2",), default=False),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _page_figure(figure: Figure, artist: Artist) -> PageFigure:
    named = all(panel.kind == "bars" for panel in figure.panels)
    return PageFigure(
        figure, artist.page_panels(figure), [] if named else [_entry(artist, series) for series in figure.legend]
    )


def _entry(artist: Artist, series: Series) -> LegendEntry:
    variable, dash, marker = artist.key(series)
    strokes = " ".join(f"{1.8 * length:g}" for length in dash)
    return LegendEntry(series.label, variable, strokes, MARKER_SHAPES[marker] if marker else "")
