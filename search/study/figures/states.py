"""The states of trials, as figures of a study mark them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from search.study.trials import Trial
from viz.figures import _MARKERS, COLOURS, GREY, ScoreAxis, colour, legend_below


def scatter_states(
    axes: Axes, x: Sequence[float], records: Sequence[Trial], scale: ScoreAxis
) -> None:
    """Scores over `x`: one marker a state, triangles at the rim for what lies below."""
    for position, record in zip(x, records, strict=True):
        outside = scale.below(record.score)
        y = scale.rim if record.score is None or outside else record.score
        marker = "v" if outside else _MARKERS.get(record.state, ".")
        size = 34 if record.state == "complete" else 26
        axes.scatter(position, y, s=size, marker=marker, color=colour(record.state), zorder=3)


def state_legend(
    figure: Figure, records: Sequence[Trial], scale: ScoreAxis, extra: Sequence[Line2D] = ()
) -> None:
    """Below the axes: the states that occur, and what a triangle means if there is one."""
    handles = [
        Line2D([], [], linestyle="", marker=_MARKERS.get(s, "."), color=colour(s), label=s)
        for s in states_of(records)
    ]
    if any(scale.below(r.score) for r in records):
        label = f"below {scale.low:.3g}, or no score"
        handles.append(Line2D([], [], linestyle="", marker="v", color=GREY, label=label))
    legend_below(figure, [*extra, *handles])


def states_of(records: Sequence[Trial]) -> list[str]:
    """The states that occur."""
    return [state for state in COLOURS if any(r.state == state for r in records)]
