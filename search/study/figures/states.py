"""Markers and legends for the states of trials in a study's figures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from search.study.trials import Trial
from viz.figures import MARKERS, ScoreAxis, colour, legend_below
from viz.palette import GREY, STATES


def scatter_states(
    axes: Axes, x: Sequence[float], records: Sequence[Trial], scale: ScoreAxis
) -> None:
    """Draw scores over `x`, one marker per state, with triangles at the rim for scores below it."""
    for position, record in zip(x, records, strict=True):
        outside = scale.below(record.score)
        y = scale.rim if record.score is None or outside else record.score
        marker = "v" if outside else MARKERS.get(record.state, ".")
        size = 34 if record.state == "complete" else 26
        axes.scatter(position, y, s=size, marker=marker, color=colour(record.state), zorder=3)


def state_legend(
    figure: Figure, records: Sequence[Trial], scale: ScoreAxis, extra: Sequence[Line2D] = ()
) -> None:
    """Draw a legend below the axes: the states that occur, and the triangle if there is one."""
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS.get(s, "."), color=colour(s), label=s)
        for s in states_of(records)
    ]
    if any(scale.below(r.score) for r in records):
        label = f"below {scale.low:.3g}, or no score"
        handles.append(Line2D([], [], linestyle="", marker="v", color=GREY, label=label))
    legend_below(figure, [*extra, *handles])


def states_of(records: Sequence[Trial]) -> list[str]:
    """Return the states that occur."""
    return [state for state in STATES if any(r.state == state for r in records)]
