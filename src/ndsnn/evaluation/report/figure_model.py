"""Figures as data, before they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["curve", "categories", "bars", "rewiring"]


@dataclass(frozen=True)
class Series:
    """One line, row of points or bar of a panel.

    Args:
        method: The method whose look it has.
        label: What the legend calls it.
        x: Places.
        y: Values at these places.
        spread: Standard deviation over seeds at each place; 0 where there is one seed.
        alternate: 0 for the first variant of a method, 1 for the second … : they differ in dash and marker.
    """

    method: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    alternate: int = 0


@dataclass(frozen=True)
class Panel:
    """One picture with axes.

    Args:
        title: Above it.
        kind: "curve" over a number, "categories" for points over names, "bars" lying, "rewiring" of a layer:
            series born, died, alive.
        x_label: Below the horizontal axis.
        y_label: Beside the vertical one.
        series: What is drawn.
        ticks: Names of the places 0, 1, … for "categories".
        logarithmic: Whether the axis of values is.
        from_zero: Whether that axis begins at 0, if it is not logarithmic.
        apart: Whether the points of "categories" stand beside each other, not above.
    """

    title: str
    kind: Kind
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()
    logarithmic: bool = False
    from_zero: bool = False
    apart: bool = True

    @property
    def description(self) -> str:
        """What a reader who can't see it is told: what is drawn, and where each series begins and ends."""
        parts = [f"{self.title}. {self.y_label} over {self.x_label or 'methods'}."]
        for series in self.series:
            ends = f"{series.y[0]:.3g}" if len(series.y) == 1 else f"{series.y[0]:.3g} to {series.y[-1]:.3g}"
            parts.append(f"{series.label}: {ends}.")
        return " ".join(parts)


@dataclass(frozen=True)
class Figure:
    """A figure of one or more panels with a common legend.

    Args:
        name: Name of its files.
        title: One line.
        caption: What it shows and how it is to be read.
        panels: Its panels.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def legend(self) -> list[Series]:
        """One series for each entry of the legend."""
        found: dict[tuple[str, str], Series] = {}
        for panel in self.panels:
            for series in panel.series:
                found.setdefault((series.method, series.label), series)
        return list(found.values())
