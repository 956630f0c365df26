"""Draw curves as single lines of text on one scale, to compare trials by eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cyclegan.rounding import ceil_div

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.:-=+*#"

Curve = Sequence[tuple[int, float]]
"""Pairs (iteration, score)."""


def sparklines(curves: Sequence[Curve], *, width: int = 12, blocks: bool = True) -> list[str]:
    """Return one line of `width` characters for each curve, on common axes.

    The height is a score's rank among all scores of all curves, in eighths: a higher character is a
    better score, and neither bad beginnings nor gates flatten the end, which matters. A score fills
    the characters since the previous one; of several in one character the last is shown. A curve
    that ends early leaves blanks.
    """
    levels = _BLOCKS if blocks else _ASCII
    known = np.sort([score for curve in curves for _, score in curve])
    end = max((iteration for curve in curves for iteration, _ in curve), default=1)
    return [_line(curve, width, end, known, levels) for curve in curves]


def _line(curve: Curve, width: int, end: int, known: NDArray[np.float64], levels: str) -> str:
    cells = [" "] * width
    start = 0
    for iteration, score in curve:
        last = min(width - 1, max(0, ceil_div(iteration * width, max(end, 1)) - 1))
        rank = (np.searchsorted(known, score) + np.searchsorted(known, score, "right")) / 2
        level = levels[min(len(levels) - 1, int(len(levels) * rank / len(known)))]
        cells[min(start, last) : last + 1] = level * (last + 1 - min(start, last))
        start = last + 1
    return "".join(cells)
