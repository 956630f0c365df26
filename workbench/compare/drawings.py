"""The drawings of a comparison's page; empty if there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyclegan.metrics.agreement import HALF
from viz.html import address, drawn
from viz.plots import score_range
from workbench.compare.panels import Table, chips, part
from workbench.compare.plots import WIDE, PlotAxes, Series, plot
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
