"""Shared parts of the figures of a path: colours, axes, and thinned curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viz.palette import CURVES, OUTCOMES, UNKNOWN
from viz.plots import Plot, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Values = NDArray[np.float64]

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 10.4, 0.95, 1.7, 0.3, 0.5, 0.2
"""Lengths of a figure in inches; names of curves stand in the right margin."""
_HEADROOM = 4.0
"""Room that an axis shows around the accepted path: a factor on a log axis, else spans."""


def outcome_colour(outcome: str) -> str:
    """Return the colour of a rollback's outcome, on white paper."""
    return OUTCOMES.get(outcome, UNKNOWN).light


def number(value: float) -> str:
    """Format a value with three digits: `0.123`, `12,300`, `1.23e-4`."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "not finite"
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def stacked(heights: Sequence[float], about: str) -> tuple[Plot, list[Axes]]:
    """Return a figure of the page's width with axes below each other, `heights` in inches.

    They share the x axis, which only the last one labels. Their places are computed here: those of
    matplotlib's layout engine differ in the last digits from call to call.
    """
    whole = sum(heights) + _GAP * (len(heights) - 1) + _TOP + _BOTTOM
    figure = Plot(figsize=(_WIDTH, whole))
    figure.about = about
    axes: list[Axes] = []
    top = whole - _TOP
    for height in heights:
        box = (_LEFT, top - height, _WIDTH - _LEFT - _RIGHT, height)
        place = (box[0] / _WIDTH, box[1] / whole, box[2] / _WIDTH, box[3] / whole)
        axes.append(figure.add_axes(place, sharex=axes[0] if axes else None))
        top -= height + _GAP
    for one in axes[:-1]:
        one.tick_params(labelbottom=False)
    return figure, axes


def label_left(axes: Axes, label: str) -> None:
    """Draw a light grid, no box, and a label at the left, in line with those of other axes."""
    tidy(axes)
    axes.set_ylabel(label, fontsize=9)
    axes.yaxis.set_label_coords(-0.078, 0.5)


def legend(axes: Axes, names: Sequence[str]) -> None:
    """Write names beside the axes, unchanged: `$` in a name is no formula."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=CURVES[i % len(CURVES)], linewidth=2.2) for i in range(len(names))
    ]
    found = axes.legend(
        handles,
        [""] * len(names),
        loc="upper left",
        bbox_to_anchor=(1.005, 1.03),
        fontsize=8.5,
        frameon=False,
        handlelength=1.2,
        borderaxespad=0,
        labelspacing=0.35,
        ncols=1 + len(names) // 8,
    )
    for text, name in zip(found.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name if len(name) <= 24 else name[:23] + "…")


def scale(axes: Axes, shown: Values, everything: Values) -> None:
    """Fit the vertical axis to the accepted path; it is logarithmic if all values are positive.

    The values of an attempt that exploded may leave the axes: otherwise they alone would be seen.
    """
    finite = everything[np.isfinite(everything)]
    inside = shown[np.isfinite(shown)]
    inside = inside if inside.size else finite
    if not finite.size:
        return
    if finite.min() > 0:
        axes.set_yscale("log")
        low = max(finite.min(), inside.min() / _HEADROOM)
        high = min(finite.max(), inside.max() * _HEADROOM)
        margin = max(high / low, 10.0) ** 0.06
        low, high = low / margin, high * margin
        _label_log(axes, high / low)
    else:
        span = max(float(np.ptp(inside)), 1e-12)
        low = max(finite.min(), inside.min() - _HEADROOM * span) - 0.05 * span
        high = min(finite.max(), inside.max() + _HEADROOM * span) + 0.05 * span
    axes.set_ylim(low, high)


def _label_log(axes: Axes, ratio: float) -> None:
    """Label a log axis with enough plain numbers, even over less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if ratio < 5:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    elif ratio < 300:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 30 else (1, 3)))
    else:
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def group_thousands(axis: Any) -> None:
    """Label an axis with whole numbers with commas."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# -- Curves with as many points as a page has pixels, however long the training ----------------


@dataclass(frozen=True)
class Curve:
    """A noisy curve: the middle and the ends of its values in each column of the page."""

    x: Values
    low: Values
    """Smallest finite value of each column; NaN if it has none, as in `middle` and `high`."""
    middle: Values
    """Median of the finite values."""
    high: Values
    broken: Values
    """Places of columns in which a value was not finite."""


def thinned(x: Values, y: Values, width: float) -> Curve:
    """Return the curve in columns of `width`, in units of `x`, which rises."""
    columns = np.floor(x / width)
    starts = np.flatnonzero(np.diff(columns, prepend=np.nan) != 0)
    parts = np.split(y, starts[1:])
    finite = [part[np.isfinite(part)] for part in parts]
    rows = [
        (part.min(), np.median(part), part.max()) if part.size else (np.nan,) * 3 for part in finite
    ]
    low, middle, high = np.array(rows, dtype=float).reshape(-1, 3).T
    places = np.array([part.mean() for part in np.split(x, starts[1:])])
    whole = np.array([len(f) == len(p) for f, p in zip(finite, parts, strict=True)], dtype=bool)
    return Curve(places, low, middle, high, places[~whole])


def joined(parts: Sequence[tuple[Values, Values]]) -> tuple[Values, Values]:
    """Join several lines to one with gaps: every line makes the page larger."""
    gap = np.array([np.nan])
    x = [piece for part, _ in parts for piece in (part, gap)]
    y = [piece for _, part in parts for piece in (part, gap)]
    return np.concatenate([*x, gap]), np.concatenate([*y, gap])


def zigzag(curve: Curve) -> tuple[Values, Values]:
    """Return a thinned curve as one line through both ends of every column."""
    x, y = np.repeat(curve.x, 2), np.stack([curve.low, curve.high], axis=1).ravel()
    kept = np.ones(y.shape, dtype=bool)
    kept[1::2] = curve.low != curve.high
    return x[kept], y[kept]


def stairs(x: Values, y: Values, width: float) -> tuple[Values, Values]:
    """Return corners of values that hold over (x - 1, x]; changes within a `width` become one."""
    changed = np.flatnonzero(np.diff(y)) + 1
    kept = [0]
    for index in changed.tolist():
        if kept[-1] == 0 or x[index] - x[kept[-1]] >= width:
            kept.append(index)
    levels = y[[*kept[1:], len(y)] - np.ones(len(kept), dtype=int)]  # the last value of each stair
    edges = [*(x[kept] - 1), x[-1]]
    return np.repeat(edges, 2)[1:-1], np.repeat(levels, 2)


def union(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Merge spans that overlap, and sort them."""
    joined: list[tuple[float, float]] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined
