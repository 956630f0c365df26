"""The drawings of a comparison's page, as HTML; empty if there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from cyclegan.metrics.agreement import HALF
from viz.figures import score_range
from viz.html import address, figure, table
from viz.plots import Axes, Series, chip, plot
from workbench.compare.result import Comparison
from workbench.compare.text import agreement_text

History = Mapping[int, float]
_NAMED = 10
"""Most pairs for which every curve is labelled with its runs."""
_WIDE, _SMALL = (980.0, 320.0), (480.0, 280.0)


def score(found: Comparison) -> str:
    """Draw the scores of all runs in one plot."""
    curves = {run.number: run.curve for run in found.runs if run.curve}
    if not curves:
        return ""
    low, high = score_range([value for curve in curves.values() for value in curve.values()])
    margin = 0.06 * (high - low)
    axes = Axes(
        x="iteration",
        y="score (higher is better)",
        about=f"Scores of {len(curves)} runs by iteration.",
        limits=(low - margin, high + margin),
        size=_WIDE,
    )
    rim = '<p class="note">Points far below the others are drawn on the lower rim.</p>'
    return f'{rim}<div class="wide">{plot(_series(found, curves), axes)}</div>'


def losses(found: Comparison, histories: Mapping[str, Mapping[int, History]]) -> str:
    """Draw one plot per loss, with all runs in it."""
    plots = []
    for name, curves in histories.items():
        values = [value for curve in curves.values() for value in curve.values()]
        axes = Axes(
            x="iteration",
            y=name.removeprefix("loss/"),
            about=f"{name} of {len(curves)} runs by iteration.",
            log_y=bool(values) and min(values) > 0 and max(values) > 10 * min(values),
            size=_SMALL,
        )
        plots.append(plot(_series(found, curves), axes))
    return f'<div class="many plots">{"".join(plots)}</div>' if any(plots) else ""


def slices(found: Comparison) -> str:
    """Show the input, each run's output and a real slow scan, on one grey scale."""
    shown = found.images.shown
    if not shown:
        return ""
    names = {run.number: run.name for run in found.runs}
    first = next(iter(shown.values()))
    figures = []
    if "real_A" in first.slices:
        source = address(first.slices["real_A"], lossless=True)
        figures.append(figure(source, "real_A", "the input of the runs"))
    for number, one in shown.items():
        made = one.slices.get("fake_B", one.slices.get("enhanced"))
        if made is None:
            continue
        caption = one.caption + ("" if one.same_input else "; another patch, on its own grey scale")
        drawn = figure(address(made, lossless=True), names[number], caption)
        figures.append(drawn.replace("<figure", f'<figure data-runs="{number}"', 1))
    if "real_B" in first.slices:
        source = address(first.slices["real_B"], lossless=True)
        figures.append(figure(source, "real_B", "a slow scan of another place: how it should look"))
    whole = "".join(
        f'<figure data-runs="{number}"><figcaption><b>{escape(names[number])}</b>, '
        f'{escape(one.caption)}</figcaption><img loading="lazy" '
        f'alt="The six images of {escape(names[number])}" src="{address(one.whole)}"></figure>'
        for number, one in shown.items()
        if one.whole is not None
    )
    more = f"<details><summary>All six images of each</summary>{_whole(whole)}</details>"
    return (
        '<p class="note">Central slices of the same held-out region, on one grey scale.</p>'
        f'<div class="slices">{"".join(figures)}</div>{more if whole else ""}'
    )


def differences(found: Comparison) -> str:
    """Show central slices of each run less the first."""
    images = found.images
    names = {run.number: run.name for run in found.runs}
    figures = "".join(
        f'<figure data-runs="{a} {b}"><figcaption><b>{escape(names[b])}</b><br>less '
        f"{escape(names[a])}: rms {images.pairs[a, b].difference.rms:.3g}</figcaption>"
        f'<img alt="Difference of {escape(names[b])} and {escape(names[a])}" '
        f'src="{address(picture, lossless=True)}"></figure>'
        for (a, b), picture in images.differences.items()
        if (a, b) in images.pairs
    )
    if not figures:
        return ""
    return (
        f'<p class="note">Central xy slice; red is brighter, blue darker, full colour '
        f"{images.limit:.3g} grey values. Noise here is harmless, structure is not: one of the two "
        f'shows what is not there, or hides what is.</p><div class="slices">{figures}</div>'
    )


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
    about = f"Radial power spectra of {images.what} of {len(images.spectra)} runs."
    axes = Axes(
        x="cycles per voxel", y="power", about=about, log_y=True, x_end=0.5, size=(980.0, 340.0)
    )
    drawn = plot(series, axes)
    note = (
        "Dashed: real images. A spectrum below real_B's is too smooth, one above it too rough."
        if images.references
        else "Mean over blocks spread over the volume."
    )
    return f'<p class="note">{note}</p><div class="wide">{drawn}</div>' if drawn else ""


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
    axes = Axes(
        x="cycles per voxel",
        y="shell correlation (FSC)",
        about=f"Fourier shell correlation of {len(series)} pairs of runs.",
        limits=(min(0.0, *(v for s in series for _, v in s.points), 0.0), 1.02),
        level=HALF,
        x_end=0.5,
        size=(980.0, 340.0),
    )
    return (
        f'<p class="note">{escape(images.region)}. Below 0.5 (dashed) two runs have less in '
        "common than each has of its own: at least one of them invents the finer detail. Where "
        "they agree both may still be wrong, and noise that both pass on from the same input "
        "counts as agreement.</p>"
        f'<div class="wide">{plot(series, axes)}</div>{_matrix(found)}'
    )


def _matrix(found: Comparison) -> str:
    """Return a table: above the diagonal where pairs stop agreeing, below it correlation."""
    images, numbers = found.images, found.images.runs
    rows = []
    for a in numbers:
        cells = []
        for b in numbers:
            if a == b:
                cells.append("")
            elif a < b:
                cells.append(escape(agreement_text(images.pairs[a, b], images.voxel_um)))
            else:
                difference = images.pairs[b, a].difference
                cells.append(
                    f"{difference.correlation:.4f} <small>rms {difference.rms:.3g}</small>"
                )
        rows.append([chip(a), *cells])
    note = "Above the diagonal: the finest period at which two runs agree. Below it: correlation."
    return f'<p class="note">{note}</p>' + table(("", *map(chip, numbers)), rows)


def _series(found: Comparison, curves: Mapping[int, History]) -> list[Series]:
    names = {run.number: run.name for run in found.runs}
    return [
        Series(name=names[n], points=sorted(curve.items()), runs=(n,), label=str(n))
        for n, curve in curves.items()
    ]


def _points(curve: tuple[Any, Any]) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(*curve, strict=True)]


def _whole(figures: str) -> str:
    return f'<div class="whole">{figures}</div>'
