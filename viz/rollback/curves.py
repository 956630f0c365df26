"""Curves for a page: as many points as it has pixels, however long the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A noisy curve: in each column of the page its middle and its ends."""

    x: Values
    low: Values
    """Smallest finite value of the column; NaN if it has none, as in the two others."""
    middle: Values
    """Median of the finite values."""
    high: Values
    broken: Values
    """Places of columns in which something was not finite."""


def thinned(x: Values, y: Values, width: float) -> Curve:
    """The curve in columns of `width`, in units of `x`, which rises."""
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
    """Several lines as one with gaps: a page pays for every line it has."""
    gap = np.array([np.nan])
    x = [piece for part, _ in parts for piece in (part, gap)]
    y = [piece for _, part in parts for piece in (part, gap)]
    return np.concatenate([*x, gap]), np.concatenate([*y, gap])


def zigzag(curve: Curve) -> tuple[Values, Values]:
    """A thinned curve as one line, through both ends of every column."""
    x, y = np.repeat(curve.x, 2), np.stack([curve.low, curve.high], axis=1).ravel()
    kept = np.ones(y.shape, dtype=bool)
    kept[1::2] = curve.low != curve.high
    return x[kept], y[kept]


def stairs(x: Values, y: Values, width: float) -> tuple[Values, Values]:
    """Corners of values that hold over (x - 1, x]; changes within a `width` are drawn as one."""
    changed = np.flatnonzero(np.diff(y)) + 1
    kept = [0]
    for index in changed.tolist():
        if kept[-1] == 0 or x[index] - x[kept[-1]] >= width:
            kept.append(index)
    levels = y[[*kept[1:], len(y)] - np.ones(len(kept), dtype=int)]  # the last value of each stair
    edges = [*(x[kept] - 1), x[-1]]
    return np.repeat(edges, 2)[1:-1], np.repeat(levels, 2)


def union(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same ground, without overlaps, in order."""
    joined: list[tuple[float, float]] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined
