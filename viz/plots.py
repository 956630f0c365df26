"""Plot curves of several runs in SVG. Each bears its run's number, and a legend can hide it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from cyclegan.rounding import ceil_div
from viz.palette import RUNS, run_classes

_POINTS = 300
_FEW_DECADES = 2.0
_LETTER = 7.0
"""Width of a letter of a label, in pixels."""
_APART = 11.0
"""Distance between two numbers at the ends of curves, in pixels."""

STYLE = (
    run_classes(dark=False)
    + "\n@media (prefers-color-scheme: dark) { "
    + run_classes(dark=True)
    + """ }
.reference { --c: var(--ink); } .line.dashed { stroke-dasharray: 6 4; }
.end.number { fill: var(--c); font-weight: 700; font-size: 11px; text-anchor: start; }
.level { stroke: var(--soft); stroke-dasharray: 4 3; stroke-width: .8; }
.legend { position: sticky; top: 0; z-index: 2; background: var(--paper); padding: .4em 0;
  display: flex; flex-wrap: wrap; gap: .4em; border-bottom: 1px solid var(--line); }
.legend button { font: inherit; font-size: .88em; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: .5em; padding: .15em .7em; cursor: pointer;
  max-width: 24em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.legend button[aria-pressed=false] { opacity: .45; text-decoration: line-through; }
.dot { display: inline-block; width: .75em; height: .75em; border-radius: .2em;
  background: var(--c); margin-right: .35em; } .off { display: none !important; }
"""
)
SCRIPT = """
(() => {
const off = new Set();
document.querySelectorAll('.legend button').forEach(button => button.addEventListener('click',
  () => {
    const run = button.dataset.run, hide = !off.has(run);
    hide ? off.add(run) : off.delete(run);
    button.setAttribute('aria-pressed', String(!hide));
    document.querySelectorAll('[data-runs]').forEach(e =>
      e.classList.toggle('off', e.dataset.runs.split(' ').some(one => off.has(one))));
  }));
})();
"""


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


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The axes of a plot: labels, limits, and size in pixels."""

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
    size: tuple[float, float] = (480.0, 280.0)


def plot(series: Sequence[Series], axes: Axes) -> str:
    """Return the plot; empty if no curve has a point that can be drawn."""
    drawn = [(one, points) for one in series if (points := _drawable(one.points, axes))]
    if not drawn:
        return ""
    width, height = axes.size
    every = [point for _, points in drawn for point in points]
    low, high = axes.limits or _limits([y for _, y in every])
    first, last = min(x for x, _ in every), axes.x_end or max(x for x, _ in every)
    room = 12.0 + _LETTER * max(len(one.label) for one, _ in drawn)
    x = Span(min(0.0, first), last or 1.0, 66.0, width - room)
    y = Span(low, high, height - 44.0, 12.0)
    parts = [
        upright(y, x, decades(low, high) if axes.log_y else ticks(low, high), axes.y),
        across(x, y.start, ticks(x.low, x.high, 6), axes.x),
    ]
    if axes.level is not None:
        parts.append(line(x.start, y(axes.level), x.end, y(axes.level), "level"))
    parts += [_curve(one, points, x, y) for one, points in drawn]
    parts.append(_labels(drawn, x, y))
    return drawing(width, height, axes.about, *parts)


def legend(names: Sequence[str]) -> str:
    """Return a button per run that shows or hides it on the whole page; names in runs' order."""
    buttons = (
        f'<button type="button" class="r{n}" data-run="{n}" aria-pressed="true" '
        f'title="{escape(name)}"><span class="dot"></span>{escape(name)}</button>'
        for n, name in enumerate(names, start=1)
    )
    return f'<div class="legend">{"".join(buttons)}</div>'


def ticks(low: float, high: float, count: int = 7) -> list[Tick]:
    """Return ticks at round numbers between two ends."""
    raw = max((high - low) / max(count, 1), 1e-300)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= 0.999 * raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, _number(i * step, step)) for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[Tick]:
    """Return ticks at powers of ten between two logarithms; also at 2 and 5 times these if few."""
    factors = (1, 2, 5) if high - low <= _FEW_DECADES else (1,)
    found = [
        (math.log10(factor) + power, f"{factor * 10.0**power:.6g}")
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    inside = [tick for tick in found if low <= tick[0] <= high]
    every = ceil_div(len(inside), 8) or 1
    return inside[::every]


def _number(value: float, step: float) -> str:
    if step >= 1:
        return f"{value:,.0f}"
    return f"{value:.{min(12, -math.floor(math.log10(step)))}f}"


def _drawable(points: Sequence[tuple[float, float]], axes: Axes) -> list[tuple[float, float]]:
    kept = [(a, b) for a, b in points if math.isfinite(b) and (b > 0 or not axes.log_y)]
    every = ceil_div(len(kept), _POINTS) or 1
    thin = [*kept[::every], *kept[-1:]] if every > 1 else kept
    return [(float(a), math.log10(b) if axes.log_y else float(b)) for a, b in thin]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _curve(one: Series, points: Sequence[tuple[float, float]], x: Span, y: Span) -> str:
    at = [(x(a), y(min(max(b, y.low), y.high))) for a, b in points]
    d = path(at if len(at) > 1 else [at[0], (at[0][0] + 3, at[0][1])])
    kind = "line dashed" if one.dashed else "line"
    marks = {"data_runs": " ".join(map(str, one.runs))} if one.runs else {}
    return element(
        "g",
        title(one.name),
        element("path", d=d, class_="hit"),
        element("path", d=d, class_=kind),
        class_=f"curve {_colour(one)}",
        **marks,
    )


def _labels(drawn: Sequence[tuple[Series, Sequence[tuple[float, float]]]], x: Span, y: Span) -> str:
    """Draw labels at the ends of curves, moved apart where they would overlap."""
    ends = sorted(
        (x(points[-1][0]), y(min(max(points[-1][1], y.low), y.high)), i)
        for i, (one, points) in enumerate(drawn)
        if one.label
    )
    parts, before = [], (-1e9, 0.0)
    for at, height, i in sorted(ends, key=lambda end: (round(end[0] / 20), end[1])):
        if abs(at - before[0]) < 20:
            height = max(height, before[1] + _APART)
        one = drawn[i][0]
        marks = {"data_runs": " ".join(map(str, one.runs))} if one.runs else {}
        kind = f"end number {_colour(one)}"
        parts.append(text(at + 5, height + 4, one.label, class_=kind, **marks))
        before = (at, height)
    return "".join(parts)


def _colour(one: Series) -> str:
    return f"r{(one.runs[0] - 1) % len(RUNS) + 1}" if one.runs else "reference"


def chip(number: int) -> str:
    """Return the number of a run in its colour."""
    return f'<span class="r{number}"><span class="dot"></span>{number}</span>'


# -- Small drawings in SVG: marks, axes and frames in the page's own colours -------------------
#
# Drawn without matplotlib, unlike the PNG figures: they follow the reader's light or dark colours,
# name what the pointer is on, and need hundredths of a second for two hundred curves.

Tick = tuple[float, str]
"""Value on the axis, and its label."""


_R = 4.0


@dataclass(frozen=True)
class Span:
    """A linear axis: values from `low` to `high` lie between the pixels `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def element(name: str, *content: str, **attributes: object) -> str:
    """Return `<name ...>content</name>`; `content` is markup, attributes are escaped.

    `_` in an attribute's name stands for `-`; one at its end is left out (`class_`).
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{given}>{''.join(content)}</{name}>"


def title(text: str) -> str:
    """Return a text that appears at the pointer and is read out by screen readers."""
    return element("title", escape(text))


def text(x: float, y: float, content: str, **attributes: object) -> str:
    """Return a line of text."""
    return element("text", escape(content), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the `d` of a path through points."""
    return "M" + "L".join(f"{_text(x)} {_text(y)}" for x, y in points)


def mark(state: str, x: float, y: float, *, below: bool = False) -> str:
    """Return a state's mark, with its own shape and colour. `below`: it lies off the axis."""
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
    """Return a horizontal axis below the drawing: ticks, their labels, its name in the middle."""
    parts = [line(x.start, y, x.end, y, "axis")]
    for value, name in ticks:
        at = x(value)
        parts += [line(at, y, at, y + 4, "axis"), text(at, y + 16, name, class_="tick middle")]
    if label:
        parts.append(text((x.start + x.end) / 2, y + 32, label, class_="label middle"))
    return "".join(parts)


def upright(y: Span, x: Span, ticks: Iterable[Tick], label: str = "") -> str:
    """Return a vertical axis at the left, with lines across the drawing."""
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
    """Return the whole drawing, with a description for those who can't see it."""
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {_text(width)} {_text(height)}",
        role="img",
        aria_label=description,
        **({"style": style} if style else {}),
    )


def round_ticks(low: float, high: float, count: int = 8) -> list[Tick]:
    """Return ticks at whole round numbers between two ends."""
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
