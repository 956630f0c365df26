"""Shared parts of the figures: colours of the states, axes for scores, legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cyclegan.score import GATED
from viz.palette import GREY, STATES

MARKERS = {"complete": "o", "pruned": "x", "failed": "P", "running": ">", "interrupted": "s"}


def colour(state: str) -> str:
    """Return the colour of a state."""
    return STATES[state].light if state in STATES else GREY


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    return figure


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
