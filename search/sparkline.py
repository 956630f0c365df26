"""A curve in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

from cyclegan.score import GATED

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=^"


def sparkline(values: Sequence[float], *, width: int = 24, ascii_only: bool = False) -> str:
    """`values` as blocks between their least and greatest; gated ones, which lie far below, as `x`.

    Of more than `width` the last ones are shown.
    """
    blocks = _ASCII if ascii_only else _BLOCKS
    shown = values[-width:]
    usable = [value for value in shown if value > GATED]
    low, high = min(usable, default=0.0), max(usable, default=0.0)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(
        blocks[round((value - low) * scale)] if value > GATED else "x" for value in shown
    )
