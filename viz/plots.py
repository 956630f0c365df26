"""The one kit to plot with: figures are drawn once, with matplotlib, as PNG or as SVG in a page.

A figure is a `Plot`: it has a description in words and marks. A mark names what an artist stands
for (trial 7, runs 1 and 2) and tells it in words. In a page it becomes a class, an attribute that
scripts find, and a text at the pointer; colours become those of the page, light or dark. Figures
are made without pyplot: a running study draws them again and again, and must neither pile up open
figures nor change global settings.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL.Image import Image, fromarray

from cyclegan.score import GATED
from viz.palette import GREY, STATES, page_colour

MARKERS = {
    "complete": "o",
    "pruned": "x",
    "failed": "P",
    "running": ">",
    "interrupted": "s",
    "paused": "d",
}
_DPI = 110


@dataclass(frozen=True)
class Mark:
    """The thing for which an artist stands."""

    kind: str
    """Classes of its element in a page, such as `trial` or `run hit`; the attribute `data-` with
    the first of them holds the key."""
    key: str
    words: str = ""
    """Text that appears at the pointer and is read out by screen readers."""


class Plot(Figure):
    """A figure with a description in words, and marks on its artists."""

    about = ""
    """Description for those who can't see the figure."""
    title = ""
    """Title above a figure that stands alone; in a page, its section has one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.marks: dict[str, Sequence[Mark]] = {}

    def mark(self, artist: Artist, *marks: Mark) -> None:
        """Mark an artist; one with several elements (a scatter plot) takes a mark for each."""
        name = f"mark-{len(self.marks)}"
        artist.set_gid(name)
        self.marks[name] = marks


def literal(text: str) -> str:
    """Return a text from outside for an artist: in matplotlib's texts `$` would begin a formula."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float, title: str = "") -> Plot:
    """Return an empty figure of a size in inches."""
    figure = Plot(figsize=(width, height), layout="constrained")
    figure.title = title
    return figure


def pixels(figure: Figure) -> Image:
    """Return a figure in 256 colours, a quarter of the bytes: figures are logged again and again.

    A `Plot` gets its title above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if isinstance(figure, Plot) and figure.title:
        figure.suptitle(literal(figure.title), fontsize=11, x=0.02, ha="left")
    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib has no types for it
    canvas.draw()
    return fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256)


# -- Figures as elements of a page -------------------------------------------------------------

# Numbered ids of matplotlib's parts: nothing refers to them, and figures of a page share them.
_COUNTED = re.compile(r' id="[A-Za-z.\d]+_\d+"')
_NAMESPACE = re.compile(r' xmlns(:\w+)?="[^"]*"')
_PATH = re.compile(r' d="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_STYLE = re.compile(r' style="[^"]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_MARKED = re.compile(r'<g id="(mark-\d+)">(.*?)</g>', re.DOTALL)
_POINT = re.compile(r"<use\b[^>]*/>")
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, and found by the browser's search
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "path.simplify": False,
}


def inline_svg(figure: Figure, salt: str) -> str:
    """Return a figure as an element of an HTML page, the same bytes every time.

    `salt` makes ids differ that parts of several figures of a page refer to.
    """
    import matplotlib

    settings: Any = {**_SETTINGS, "svg.hashsalt": salt}  # matplotlib's types want literal names
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the whole page
    text = _COUNTED.sub("", _NAMESPACE.sub("", text).replace("xlink:href", "href"))
    text = _PATH.sub(lambda match: _DECIMALS.sub(r"\1", match[0]).replace("\n", ""), text)
    text = _STYLE.sub(lambda match: _COLOUR.sub(lambda c: page_colour(c[0]), match[0]), text)
    words = ""
    if isinstance(figure, Plot):
        text = _MARKED.sub(lambda match: _marked(match, figure.marks), text)
        words = f' role="img" aria-label="{escape(figure.about)}"' if figure.about else ""
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', lambda _: f"<svg{words}", text, count=1)


def _marked(match: re.Match[str], known: dict[str, Sequence[Mark]]) -> str:
    """Return a marked group with its mark, or with one around each point that has its own."""
    marks, content = known[match[1]], match[2]
    if len(marks) == 1:
        return _opened(marks[0]) + content + "</g>"
    waiting = iter(marks)
    body = _POINT.sub(lambda point: f"{_opened(next(waiting))}{point[0]}</g>", content)
    return f"<g>{body}</g>"


def _opened(mark: Mark) -> str:
    words = f"<title>{escape(mark.words)}</title>" if mark.words else ""
    name = mark.kind.split()[0]
    return f'<g class="{mark.kind}" data-{name}="{escape(mark.key)}">{words}'


# -- Shared parts of figures -------------------------------------------------------------------


def colour(state: str) -> str:
    """Return the colour of a state."""
    return STATES[state].light if state in STATES else GREY


def tidy(axes: Axes) -> None:
    """Draw a light grid and no box."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)


@dataclass(frozen=True)
class ScoreAxis:
    """The range of scores that an axis shows. Lower scores are drawn at its lower rim."""

    low: float
    high: float

    @classmethod
    def of(cls, scores: Iterable[float | None]) -> ScoreAxis:
        """Return an axis that shows all scores except gated ones and far outliers."""
        return cls(*score_range([s for s in scores if s is not None]))

    @property
    def rim(self) -> float:
        """Place of scores below `low`."""
        return self.low - 0.08 * (self.high - self.low)

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the drawn axis."""
        span = self.high - self.low
        return self.low - 0.12 * span, self.high + 0.06 * span

    def place(self, scores: Sequence[float]) -> NDArray[np.float64]:
        """Return the places at which to draw `scores`."""
        values = np.asarray(scores, dtype=float)
        return np.where(values < self.low, self.rim, values)

    def below(self, score: float | None) -> bool:
        """Return True if the score lies below the axis or is missing."""
        return score is None or score < self.low

    def ticks(self) -> list[float]:
        """Return round scores; none in the rim, where the scale does not hold."""
        found = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        return [float(tick) for tick in found if tick >= self.low]

    def apply(self, axes: Axes) -> None:
        """Set the vertical limits and ticks."""
        axes.set_yticks(self.ticks())
        axes.set_ylim(*self.limits)


def score_range(scores: Sequence[float]) -> tuple[float, float]:
    """Return the range of scores that an axis should show: low < high.

    Its top is the best score. Gated scores and those more than three interquartile ranges below
    the lower quartile (Tukey's far outliers) lie below it: they would flatten all the others.
    """
    usable = np.array([s for s in scores if s > GATED and np.isfinite(s)])
    if not usable.size:
        return GATED - 1.0, GATED + 1.0
    lower, upper = np.quantile(usable, [0.25, 0.75])
    fence = lower - 3.0 * (upper - lower) if upper > lower else usable.min()
    low, high = float(usable[usable >= fence].min()), float(usable.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add a one-line legend below everything, where it overlaps no title."""
    figure.legend(
        handles=list(handles),
        loc="outside lower right",
        ncols=len(handles),
        fontsize=8,
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
