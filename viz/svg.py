"""Small drawings in SVG: marks, axes and frames in the page's own colours.

Not by matplotlib, as the PNG figures are: these follow the reader's light or dark colours, tell
what the pointer is on, and two hundred curves are drawn in hundredths of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Tick = tuple[float, str]
"""Where on the axis, and its label."""
_R = 4.0


@dataclass(frozen=True)
class Span:
    """A linear axis: values from `low` to `high` lie between `start` and `end`, in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def element(name: str, *content: str, **attributes: object) -> str:
    """`<name ...>content</name>`; `content` is markup, attributes are escaped.

    `_` in an attribute's name stands for `-`, one at its end is left out (`class_`).
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{given}>{''.join(content)}</{name}>"


def title(text: str) -> str:
    """What appears below the pointer, and is read out."""
    return element("title", escape(text))


def text(x: float, y: float, content: str, **attributes: object) -> str:
    """A line of text."""
    return element("text", escape(content), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a path through points."""
    return "M" + "L".join(f"{_text(x)} {_text(y)}" for x, y in points)


def mark(state: str, x: float, y: float, *, below: bool = False) -> str:
    """The mark of a state: shapes tell it as well as colours do. `below`: it lies off the axis."""
    r = _R
    if below:
        d = path([(x - r, y - r), (x + r, y - r), (x, y + r)]) + "Z"
    elif state == "complete":
        return element("circle", cx=x, cy=y, r=r, class_=f"mark {state}")
    elif state == "running":
        d = path([(x - r, y - r), (x + r, y), (x - r, y + r)]) + "Z"
    elif state == "interrupted":
        d = path([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]) + "Z"
    elif state == "pruned":
        d = path([(x - r, y - r), (x + r, y + r)]) + path([(x - r, y + r), (x + r, y - r)])
        return element("path", d=d, class_=f"cross {state}")
    else:
        d = path([(x - r, y), (x + r, y)]) + path([(x, y - r), (x, y + r)])
        return element("path", d=d, class_=f"cross {state}")
    return element("path", d=d, class_=f"mark {state}")


def across(x: Span, y: float, ticks: Iterable[Tick], label: str = "") -> str:
    """A horizontal axis below the drawing: ticks and their labels, its name in the middle."""
    parts = [line(x.start, y, x.end, y, "axis")]
    for value, name in ticks:
        at = x(value)
        parts += [line(at, y, at, y + 4, "axis"), text(at, y + 16, name, class_="tick middle")]
    if label:
        parts.append(text((x.start + x.end) / 2, y + 32, label, class_="label middle"))
    return "".join(parts)


def upright(y: Span, x: Span, ticks: Iterable[Tick], label: str = "") -> str:
    """A vertical axis at the left with lines across the drawing."""
    parts = []
    for value, name in ticks:
        at = y(value)
        parts += [
            line(x.start, at, x.end, at, "grid"),
            text(x.start - 6, at + 4, name, class_="tick end"),
        ]
    if label:
        middle = (y.start + y.end) / 2
        turn = f"translate(12 {_text(middle)}) rotate(-90)"
        parts.append(element("text", escape(label), transform=turn, class_="label middle"))
    return "".join(parts)


def drawing(width: float, height: float, description: str, *content: str, style: str = "") -> str:
    """The whole, with a description for those who can't see it."""
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {_text(width)} {_text(height)}",
        role="img",
        aria_label=description,
        **({"style": style} if style else {}),
    )


def round_ticks(low: float, high: float, count: int = 8) -> list[Tick]:
    """Whole round numbers between two ends."""
    raw = max((high - low) / max(count, 1), 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(1.0, next(f * power for f in (1, 2, 5, 10) if f * power >= raw))
    first = math.ceil(low / step)
    values = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:,.0f}") for value in values]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)
