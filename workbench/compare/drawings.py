"""The drawings of a comparison's page; empty if there is nothing to show.

Every curve is marked with its runs' numbers, so a legend can hide it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from cyclegan.metrics.agreement import HALF
from cyclegan.numbers import ceil_div
from viz.html import address, drawn
from viz.palette import GREY, RUNS
from viz.plots import Mark, Plot, literal, new_figure, score_range, tidy
from workbench.compare.panels import Table, chips, part
from workbench.compare.result import Comparison
from workbench.compare.text import agreement_text

History = Mapping[int, float]
_NAMED = 10
"""Most pairs for which every curve is labelled with its runs."""


def score(found: Comparison) -> str:
    """Draw the scores of all runs in one plot."""
    curves = {run.number: run.curve for run in found.runs if run.curve}
    if not curves:
        return ""
    low, high = score_range([value for curve in curves.values() for value in curve.values()])
    margin = 0.06 * (high - low)
    axes = PlotAxes(
        x="iteration",
        y="score (higher is better)",
        about=f"Scores of {len(curves)} runs by iteration.",
        limits=(low - margin, high + margin),
        size=WIDE,
    )
    told = "Points far below the others are drawn on the lower edge."
    return _plot(told, _series(found, curves), axes, "score")


def losses(found: Comparison, histories: Mapping[str, Mapping[int, History]]) -> str:
    """Draw one plot per loss, with all runs in it."""
    figures = []
    for name, curves in histories.items():
        values = [value for curve in curves.values() for value in curve.values()]
        axes = PlotAxes(
            x="iteration",
            y=name.removeprefix("loss/"),
            about=f"{name} of {len(curves)} runs by iteration.",
            log_y=bool(values) and min(values) > 0 and max(values) > 10 * min(values),
        )
        figure = plot(_series(found, curves), axes)
        if figure is not None:
            figures.append(drawn(figure, name))
    return part("plots", figures) if figures else ""


def slices(found: Comparison) -> str:
    """Show the input, each run's output and a real slow scan, on one grey scale."""
    shown = found.images.shown
    if not shown:
        return ""
    names = {run.number: run.name for run in found.runs}
    first = next(iter(shown.values()))
    figures: list[tuple[object, ...]] = []
    if "real_A" in first.slices:
        source = address(first.slices["real_A"], lossless=True)
        figures.append((source, "real_A", "the input of the runs"))
    for number, one in shown.items():
        made = one.slices.get("fake_B", one.slices.get("enhanced"))
        if made is None:
            continue
        caption = one.caption + ("" if one.same_input else "; another patch, on its own grey scale")
        figures.append((address(made, lossless=True), names[number], caption, number))
    if "real_B" in first.slices:
        source = address(first.slices["real_B"], lossless=True)
        figures.append((source, "real_B", "a slow scan of another place: how it should look"))
    whole = [
        (address(one.whole), names[number], one.caption, number)
        for number, one in shown.items()
        if one.whole is not None
    ]
    return part("slices", figures, whole)


def differences(found: Comparison) -> str:
    """Show central slices of each run less the first."""
    images = found.images
    names = {run.number: run.name for run in found.runs}
    figures = [
        (
            address(picture, lossless=True),
            names[b],
            f"minus {names[a]}: rms {images.pairs[a, b].difference.rms:.3g}",
            f"{a} {b}",
        )
        for (a, b), picture in images.differences.items()
        if (a, b) in images.pairs
    ]
    return part("differences", figures, f"{images.limit:.3g}") if figures else ""


def spectra(found: Comparison) -> str:
    """Draw the radial power of every run, and of the images that it should be like."""
    images = found.images
    named = {run.number: run.name for run in found.runs}
    series = [
        Series(name=named[n], points=_points(curve), runs=(n,), label=str(n))
        for n, curve in images.spectra.items()
    ]
    series += [
        Series(name=name, points=_points(curve), label=name, dashed=True)
        for name, curve in images.references.items()
    ]
    axes = PlotAxes(
        x="cycles per voxel",
        y="power",
        about=f"Radial power spectra of {images.what} of {len(images.spectra)} runs.",
        log_y=True,
        x_end=0.5,
        size=WIDE,
    )
    told = (
        "Dashed: real images. A spectrum below real_B's is too smooth, one above it too rough."
        if images.references
        else "Mean over blocks spread over the volume."
    )
    return _plot(told, series, axes, "spectra")


def agreement(found: Comparison) -> str:
    """Draw the shell correlation of every pair; list where it ends and the differences."""
    images = found.images
    if not images.pairs:
        return ""
    series = [
        Series(
            name=f"{a} and {b}: agree down to {agreement_text(pair, images.voxel_um)}",
            points=_points((pair.curve.frequencies, pair.curve.correlation)),
            runs=(b, a) if a == images.runs[0] else (a, b),
            label=f"{a}–{b}" if len(images.pairs) <= _NAMED else "",
            dashed=a != images.runs[0],
        )
        for (a, b), pair in images.pairs.items()
        if pair.curve is not None
    ]
    axes = PlotAxes(
        x="cycles per voxel",
        y="shell correlation (FSC)",
        about=f"Fourier shell correlation of {len(series)} pairs of runs.",
        limits=(min(0.0, *(v for s in series for _, v in s.points), 0.0), 1.02),
        level=HALF,
        x_end=0.5,
        size=WIDE,
    )
    figure = plot(series, axes)
    shown = "" if figure is None else drawn(figure, "agreement")
    return part("agreement", images.region, shown, _matrix(found))


def _matrix(found: Comparison) -> Table:
    """Return a table: above the diagonal where pairs stop agreeing, below it correlation."""
    images, numbers = found.images, found.images.runs

    def cell(a: int, b: int) -> str:
        if a == b:
            return ""
        if a < b:
            return agreement_text(images.pairs[a, b], images.voxel_um)
        difference = images.pairs[b, a].difference
        return part("cell", f"{difference.correlation:.4f}", f"{difference.rms:.3g}")

    heads = chips(numbers)
    rows = [[head, *(cell(a, b) for b in numbers)] for head, a in zip(heads, numbers, strict=True)]
    return ("", *heads), rows


def _plot(told: str, series: list[Series], axes: PlotAxes, name: str) -> str:
    figure = plot(series, axes)
    return "" if figure is None else part("plot", told, drawn(figure, name))


def _series(found: Comparison, curves: Mapping[int, History]) -> list[Series]:
    names = {run.number: run.name for run in found.runs}
    return [
        Series(name=names[n], points=sorted(curve.items()), runs=(n,), label=str(n))
        for n, curve in curves.items()
    ]


def _points(curve: tuple[Any, Any]) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(*curve, strict=True)]


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
