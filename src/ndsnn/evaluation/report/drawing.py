"""Drawing figures by matplotlib: SVG and PNG files, and SVG that takes its colours from the page around it.

The same input gives the same bytes: no dates, no versions, ids from the names of figures.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO, StringIO
from typing import Any

from ndsnn.errors import MissingDependencyError
from ndsnn.evaluation.report.figure_model import Figure, Panel, Series
from ndsnn.evaluation.report.names import Look

INK, MUTED, RULE, PAPER = "#1b1e23", "#565c65", "#dcdfe4", "#ffffff"
"""Colours of text, lesser text, lines and background on a light page."""

PAGE_COLOURS = {INK: "ink", MUTED: "muted", RULE: "rule"}
"""The CSS variables that stand for them on a page."""

EXTRA_LOOKS = {"born": Look("#00795b", "#3fcfa0", (), ""), "died": Look("#c04a01", "#ff9a58", (), "")}
"""Looks of what is no method."""

PANEL_INCHES = (3.9, 2.9)
PNG_DPI = 160

TITLE_WIDTH = 42
"""Characters of a panel's title that go on one line."""

OTHER_DASHES: tuple[tuple[float, ...], ...] = ((7, 1.5), (2, 1.2), (9, 2, 3, 2), (1, 1))
OTHER_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.dpi": 72,
    "path.simplify": True,
}


def require_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "figures need matplotlib; install it with pip install 'ndsnn[report]'"
        ) from error


class Artist:
    """Draws figures with the looks of one report.

    Args:
        looks: What each method looks like.
    """

    def __init__(self, looks: Mapping[str, Look]) -> None:
        require_matplotlib()
        self.looks = dict(looks) | EXTRA_LOOKS

    def files(self, figure: Figure) -> dict[str, bytes]:
        """Return the whole figure as "svg" and "png", on white, with its legend."""
        columns = min(len(figure.panels), 3 if len(figure.panels) != 4 else 2)
        rows = -(-len(figure.panels) // columns)
        entries = [] if figure.panels[0].kind == "bars" else figure.legend
        width, height = PANEL_INCHES
        legend_height = 0.25 * -(-len(entries) // (3 * columns)) + 0.05
        with _canvas(figure.name, columns * width, rows * height + legend_height) as drawing:
            parts = drawing.subfigures(rows, columns, squeeze=False).flat
            for part, panel in zip(parts, figure.panels, strict=False):
                part.set_facecolor(PAPER)
                self._panel(part, panel)
            if entries:
                handles = [self._handle(series) for series in entries]
                drawing.legend(handles=handles, loc="outside lower center", ncols=min(len(entries), 3 * columns))
            svg, png = StringIO(), BytesIO()
            drawing.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            drawing.set_layout_engine("none")  # the places are found; they hold for both files
            drawing.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
        return {"svg": _tidy(svg.getvalue()).encode(), "png": png.getvalue()}

    def page_panels(self, figure: Figure) -> list[str]:
        """Return each panel as SVG for a page that defines the colours, such as var(--ink) and var(--m-ndsnn)."""
        panels = []
        for number, panel in enumerate(figure.panels):
            name = f"{figure.name}-{number}"
            with _canvas(name, *PANEL_INCHES) as drawing:
                self._panel(drawing, panel)
                svg = StringIO()
                drawing.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
            panels.append(self._for_page(svg.getvalue(), name, panel.description))
        return panels

    def key(self, series: Series) -> tuple[str, tuple[float, ...], str]:
        """Return CSS class, dash and marker of a series, for a legend in HTML."""
        look = self.looks[series.method]
        return css_name(series.method), _dash(look, series.alternate), _marker(look, series.alternate)

    def _for_page(self, svg: str, name: str, description: str) -> str:
        svg = _tidy(svg)
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
        svg = re.sub(r'\bid="', f'id="{name}-', svg)
        svg = re.sub(r'href="#', f'href="#{name}-', svg)
        svg = re.sub(r"url\(#", f"url(#{name}-", svg)
        svg = re.sub(r"'DejaVu Sans'(, [^;\"]*?)?sans-serif", "var(--sans)", svg)
        variables = PAGE_COLOURS | {look.light: css_name(method) for method, look in self.looks.items()}
        for colour, variable in variables.items():
            svg = svg.replace(colour, f"var(--{variable})")
        head = re.search(r'viewBox="[^"]*"', svg)
        assert head is not None
        opening = f'<svg {head.group()} role="img" aria-label="{_escape(description)}">'
        return opening + svg[svg.index(">", svg.index("<svg")) + 1 :].rstrip()

    def _panel(self, part: Any, panel: Panel) -> None:
        if panel.kind == "rewiring":
            self._rewiring(part, panel)
            return
        axes = part.subplots()
        _title(part, panel.title)
        axes.set_xlabel(panel.x_label)
        if panel.kind == "bars":
            self._bars(axes, panel)
        else:
            axes.set_ylabel(panel.y_label)
            (self._curves if panel.kind == "curve" else self._categories)(axes, panel)

    def _curves(self, axes: Any, panel: Panel) -> None:
        from matplotlib.ticker import MaxNLocator

        for place, series in enumerate(panel.series):
            style = self._line(series)
            apart = max(1, len(series.x) // 6)
            marker = _marker(self.looks[series.method], series.alternate)
            axes.plot(
                series.x,
                series.y,
                marker=marker,
                markeredgewidth=0,
                markevery=(place * apart // len(panel.series), apart),
                **style,
            )
            if any(series.spread):
                low = [y - s for y, s in zip(series.y, series.spread, strict=True)]
                high = [y + s for y, s in zip(series.y, series.spread, strict=True)]
                axes.fill_between(series.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))

    def _categories(self, axes: Any, panel: Panel) -> None:
        if panel.logarithmic:
            _logarithmic(axes.set_yscale, axes.yaxis)
        dodging = [series for series in panel.series if series.method != "dense"]
        for series in panel.series:
            style = self._line(series)
            if series.method == "dense" and len(series.x) == 2 and series.x[0] < 0:
                axes.axhline(series.y[0], **style)
                continue
            step = 0.5 / max(len(panel.series), 1) if panel.apart else 0.0
            offset = step * (dodging.index(series) - (len(dodging) - 1) / 2) if series in dodging else 0.0
            x = [place + offset for place in series.x]
            marker = _marker(self.looks[series.method], series.alternate)
            axes.plot(x, series.y, marker=marker, markeredgewidth=0, **style)
            if any(series.spread) and not panel.logarithmic:
                axes.errorbar(x, series.y, series.spread, fmt="none", ecolor=style["color"], elinewidth=0.9)
        long = max(map(len, panel.ticks)) > 6
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, **({"rotation": 90, "fontsize": 7} if long else {}))
        axes.set_xlim(-0.5, len(panel.ticks) - 0.5)
        if panel.from_zero and not panel.logarithmic:
            axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")

    def _bars(self, axes: Any, panel: Panel) -> None:
        if panel.logarithmic:
            _logarithmic(axes.set_xscale, axes.xaxis)
        names = [series.label for series in panel.series]
        furthest = max(series.y[0] + (series.spread[0] if series.spread else 0) for series in panel.series)
        for place, series in enumerate(panel.series):
            spread = series.spread[0] if series.spread else 0.0
            colour = self.looks[series.method].light
            if panel.logarithmic:  # a bar has no beginning on such an axis
                marker = _marker(self.looks[series.method], series.alternate)
                axes.errorbar(series.y[0], place, xerr=spread or None, color=colour, marker=marker, markersize=7)
            else:
                axes.barh(place, series.y[0], height=0.62, color=colour, xerr=spread or None, ecolor=INK)
            end = series.y[0] + spread
            end = end * 1.15 if panel.logarithmic else end + 0.015 * furthest
            axes.text(end, place, f"{series.y[0]:.1f}", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(max(len(names), 4) - 0.4, -0.6)
        axes.set_xlim(right=furthest * (1.9 if panel.logarithmic else 1.15))
        axes.grid(visible=False, axis="y")

    def _rewiring(self, part: Any, panel: Panel) -> None:
        above, below = part.subplots(2, 1, height_ratios=(1, 1.3))
        born, died, alive = panel.series
        _title(part, panel.title)
        above.plot(alive.x, alive.y, **self._line(alive))
        above.set_ylim(bottom=0)
        above.set_ylabel("alive")
        for series in (born, died):
            below.bar(series.x, series.y, width=0.8, color=self.looks[series.method].light, linewidth=0)
        below.axhline(0, color=MUTED, linewidth=0.6)
        below.set_ylabel("born / dropped")
        below.set_xlabel(panel.x_label)
        above.tick_params(labelbottom=False)
        for axes in (above, below):
            axes.set_xlim(alive.x[0] - 1, alive.x[-1] + 1)
            axes.yaxis.set_major_formatter(_thousands)

    def _line(self, series: Series) -> dict[str, Any]:
        look = self.looks[series.method]
        dash = _dash(look, series.alternate)
        return {"color": look.light, "linestyle": (0, dash) if dash else "solid"}

    def _handle(self, series: Series) -> Any:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Rectangle

        if series.method in EXTRA_LOOKS:
            return Rectangle((0, 0), 1, 1, color=self.looks[series.method].light, label=series.label)
        marker = _marker(self.looks[series.method], series.alternate)
        style = self._line(series) | {"marker": marker, "markeredgewidth": 0, "label": series.label}
        return Line2D([], [], **style)


def css_name(method: str) -> str:
    """Return the CSS variable of a method's colour, without its dashes in front."""
    return "m-" + re.sub(r"[^a-zA-Z0-9]+", "-", method)


@contextmanager
def _canvas(name: str, width: float, height: float) -> Iterator[Any]:
    """Give a matplotlib figure that belongs to no window, in the style of reports, with ids from `name`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        yield Drawing(figsize=(width, height), layout="constrained", facecolor=PAPER)


def _tidy(svg: str) -> str:
    """Number the ids, round the coordinates to 0.01 points, and cut blank ends of lines.

    The last bits of coordinates depend on the order in which the layout was solved, which differs between
    processes; ids are hashes of them. The shift keeps round numbers away from the edges of rounding.
    """
    numbers: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return numbers.setdefault(match.group(), f"{match.group()[0]}{len(numbers)}")

    def rounded(tag: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match.group()) + 0.00137:.2f}", tag.group())

    svg = re.sub(r"<[^>]*>", rounded, svg)  # tags alone: what stands between them is text
    svg = re.sub(r"\b[a-zA-Z][0-9a-f]{10}\b(?=[\")])", numbered, svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _title(part: Any, text: str) -> None:
    """Set a title at the left edge of a panel, in as many lines as it takes."""
    lines = textwrap.wrap(re.sub(r" (?=[=\d])|(?<==) ", "\N{NO-BREAK SPACE}", text), TITLE_WIDTH)
    part.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9, fontweight="bold")


def _logarithmic(set_scale: Any, axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(_plain)
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}".replace("-", "−")


def _dash(look: Look, alternate: int) -> tuple[float, ...]:
    return look.dash if not alternate else OTHER_DASHES[(alternate - 1) % len(OTHER_DASHES)]


def _marker(look: Look, alternate: int) -> str:
    if not alternate:
        return look.marker
    others = [marker for marker in OTHER_MARKERS if marker != look.marker]
    return others[(alternate - 1) % len(others)]


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
