"""Plot curves of several runs. Each is marked with its runs' numbers, so a legend can hide it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from cyclegan.rounding import ceil_div
from viz.palette import GREY, RUNS
from viz.plots import Mark, Plot, literal, new_figure, tidy

WIDE, SMALL = (12.0, 3.6), (3.9, 2.6)
"""Sizes in inches: a page shows both with about 100 pixels to the inch."""
_POINTS = 300
_FEW = 100.0
"""Ratio of a logarithmic axis' ends up to which 2 and 5 times powers of ten are labelled too."""
_FONT = 9.0
_APART = 10.0
"""Distance between two labels at the ends of curves, in points."""
_NEAR = 0.04
"""Distance between ends of curves, in widths of the plot, below which their labels may overlap."""
_DASHES = (0, (5, 3))
_Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    runs: tuple[int, ...] = ()
    """Numbers of its runs, counted from 1; it is hidden with any of them."""
    label: str = ""
    """Text at its end."""
    dashed: bool = False

    @property
    def key(self) -> str:
        """Numbers of its runs as text."""
        return " ".join(map(str, self.runs))

    @property
    def colour(self) -> str:
        """Colour of its first run, black for a curve of none."""
        return RUNS[(self.runs[0] - 1) % len(RUNS)].light if self.runs else "#000000"


@dataclass(frozen=True, kw_only=True)
class PlotAxes:
    """The axes of a plot: labels, limits, and size in inches."""

    x: str
    y: str
    about: str
    """Description for those who can't see the plot."""
    log_y: bool = False
    limits: tuple[float, float] | None = None
    """Limits of the vertical axis; values outside are drawn on its rim."""
    level: float | None = None
    """Value marked by a dashed line across the plot."""
    x_end: float | None = None
    size: tuple[float, float] = SMALL


def plot(series: Sequence[Series], axes: PlotAxes) -> Plot | None:
    """Return the plot; None if no curve has a point that can be drawn."""
    kept = [(one, _drawable(one.points, positive=axes.log_y)) for one in series]
    kept = [(one, points) for one, points in kept if len(points)]
    if not kept:
        return None
    figure = new_figure(*axes.size)
    figure.about = axes.about
    area: Axes = figure.subplots()
    every = np.concatenate([points for _, points in kept])
    low, high = axes.limits or _limits(every[:, 1], log=axes.log_y)
    drawn = [(one, np.column_stack([p[:, 0], p[:, 1].clip(low, high)])) for one, p in kept]
    _prepare(area, axes, (low, high), every[:, 0])
    for one, points in drawn:
        _curve(figure, area, one, points)
    _labels(figure, area, drawn)
    return figure


def _drawable(points: Sequence[tuple[float, float]], *, positive: bool) -> _Points:
    """Return the points (N, 2) that can be drawn, thinned out, with the last."""
    every = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    kept = every[np.isfinite(every[:, 1]) & ((every[:, 1] > 0) | (not positive))]
    step = ceil_div(len(kept), _POINTS - 1) or 1
    return np.concatenate([kept[:-1:step], kept[-1:]])


def _limits(values: NDArray[np.float64], *, log: bool) -> tuple[float, float]:
    scaled = np.log10(values) if log else values
    low, high = float(scaled.min()), float(scaled.max())
    margin = 0.05 * (high - low) or (0.3 if log else 0.5 * abs(high) or 1.0)
    low, high = low - margin, high + margin
    return (10.0**low, 10.0**high) if log else (low, high)


def _prepare(
    area: Axes, axes: PlotAxes, limits: tuple[float, float], x: NDArray[np.float64]
) -> None:
    tidy(area)
    area.set_xlabel(axes.x, fontsize=_FONT)
    area.set_ylabel(literal(axes.y), fontsize=_FONT)
    area.set_xlim(min(0.0, float(x.min())), axes.x_end or float(x.max()) or 1.0)
    most = 10 if axes.size == WIDE else 4
    area.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    area.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    area.yaxis.get_offset_text().set_fontsize(_FONT)
    if axes.log_y:
        area.set_yscale("log")
        few = limits[1] / limits[0] <= _FEW
        area.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=8))
        area.yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
        area.minorticks_off()
    area.set_ylim(*limits)
    if axes.level is not None:
        area.axhline(axes.level, color=GREY, linewidth=0.8, linestyle=_DASHES)


def _curve(figure: Plot, area: Axes, one: Series, points: _Points) -> None:
    """Draw a curve above an invisible wide one, which the pointer finds easily."""
    look: dict[str, Any] = {"color": one.colour, "clip_on": False, "markersize": 4}
    look["marker"] = "o" if len(points) == 1 else None
    (hit,) = area.plot(*points.T, linewidth=9, alpha=0, **look)
    (line,) = area.plot(*points.T, linewidth=1.5, ls=_DASHES if one.dashed else "-", **look)
    kind, key = ("run", one.key) if one.runs else ("reference", one.name)
    figure.mark(hit, Mark(f"{kind} hit", key, one.name))
    figure.mark(line, Mark(kind, key, one.name))


def _labels(figure: Plot, area: Axes, drawn: Sequence[tuple[Series, _Points]]) -> None:
    """Write labels at the ends of curves, moved apart where they would overlap."""
    width, height = figure.get_size_inches() * 72 - 50  # less the room that axes take
    place = area.transScale + area.transLimits
    at = ((one, place.transform(points[-1])) for one, points in drawn if one.label)
    ends = [(float(x), float(y), one) for one, (x, y) in at]
    for group in _near(sorted(ends, key=lambda end: end[0])):
        group.sort(key=lambda end: end[1])
        heights = _apart([y for _, y, _ in group], _APART / height)
        for (x, _, one), y in zip(group, heights, strict=True):
            look: dict[str, Any] = {"color": one.colour, "fontsize": _FONT, "fontweight": "bold"}
            label = area.text(
                x + 4 / width, y, literal(one.label), va="center", transform=area.transAxes, **look
            )
            if one.runs:
                figure.mark(label, Mark("run label", one.key))


_End = tuple[float, float, Series]


def _near(ends: Sequence[_End]) -> Iterator[list[_End]]:
    """Return groups of ends whose labels may overlap; `ends` lie from left to right."""
    group: list[_End] = []
    for end in ends:
        if group and end[0] - group[-1][0] > _NEAR:
            yield group
            group = []
        group.append(end)
    if group:
        yield group


def _apart(heights: Sequence[float], distance: float) -> list[float]:
    """Return growing heights at least `distance` apart, near the given ones, from 0 to 1."""
    steps = distance * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) - steps).x
    return [float(height) for height in moved.clip(0.0, 1.0 - steps[-1]) + steps]
