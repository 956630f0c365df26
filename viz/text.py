"""Plain text for a terminal: tables, curves, short names, and what a stream can show."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from cyclegan.numbers import ceil_div


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[str] = ()
) -> str:
    """Return columns of text, aligned right except those whose header is among `words`."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = [
            cell.ljust(width) if name in words else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# -- Short names for dotted configuration keys -------------------------------------------------


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return for each key as many of its last components as tell it from the others.

    `lambdas.C_A` becomes `C_A`, but `lambdas.G_A.0` and `lambdas.G_A.1` become `G_A.0`, `G_A.1`.
    """
    parts = {key: key.split(".") for key in keys}
    taken = {key: 2 if p[-1].isdigit() and len(p) > 1 else 1 for key, p in parts.items()}
    while True:
        names = {key: ".".join(p[-taken[key] :]) for key, p in parts.items()}
        counts = Counter(names.values())
        longer = [k for k, name in names.items() if counts[name] > 1 and taken[k] < len(parts[k])]
        if not longer:
            return names
        for key in longer:
            taken[key] += 1


def short_text(value: object, length: int = 14) -> str:
    """Return a value in few characters: three digits of a float, the beginning of a long text."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= length else text[: length - 1] + "~"


# -- Limits of standard output -----------------------------------------------------------------

_NARROWEST = 72


def can_draw_blocks(stream: TextIO) -> bool:
    """Return True if the stream's encoding has the block characters."""
    try:
        "▁█".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def line_width(stream: TextIO) -> int | None:
    """Return a terminal's characters per line; None for a file or pipe, where lines may be long."""
    if not stream.isatty():
        return None
    return max(_NARROWEST, shutil.get_terminal_size().columns)


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
