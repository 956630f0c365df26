"""Markers, words and legends for the states of trials in a study's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from search.study.trials import Trial, best_of
from viz.palette import BEST, GREY, STATES
from viz.plots import MARKERS, Mark, Plot, ScoreAxis, colour, legend_below

WIDTH = 11.0
"""Width of figures in inches. In a page as wide as its style allows, 8 points are 12 pixels."""


def scatter_states(
    figure: Plot,
    axes: Axes,
    points: Sequence[tuple[float, str]],
    records: Sequence[Trial],
    scale: ScoreAxis,
) -> None:
    """Draw scores, one marker per state, with triangles at the rim for scores below it.

    `points` has for each trial its horizontal place and what to say of it. All trials of a state
    are one artist, since hundreds of artists take seconds.
    """
    best = best_of(records)
    groups: defaultdict[tuple[str, bool, bool], list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        groups[record.state, scale.below(record.score), record is best].append(place)
    for (state, outside, is_best), places in groups.items():
        scores = [records[place].score for place in places]
        drawn = axes.scatter(
            [points[place][0] for place in places],
            [scale.rim if outside or score is None else score for score in scores],
            s=34 if state == "complete" else 26,
            marker="v" if outside else MARKERS.get(state, "."),
            color=colour(state),
            edgecolors=BEST if is_best else None,
            linewidths=1.6 if is_best else None,
            zorder=4 if is_best else 3,
        )
        drawn.set_in_layout(False)
        words = [(str(records[place].number), points[place][1]) for place in places]
        figure.mark(drawn, *(Mark("trial", number, text) for number, text in words))


def add_quickly(axes: Axes, artist: Artist) -> None:
    """Add a line or a bar that lies inside the axes and changes neither limits nor layout.

    For hundreds of them this takes a fraction of the time of `plot` or `barh`.
    """
    artist.set_in_layout(False)
    axes.add_artist(artist)


def state_legend(
    figure: Plot, records: Sequence[Trial], scale: ScoreAxis, extra: Sequence[Line2D] = ()
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


def score_words(record: Trial) -> str:
    """Return the number, the state and the score of a trial in words."""
    score = "no score" if record.score is None else f"score {record.score:.2f}"
    return f"trial {record.number}, {record.state}, {score}"


def counts_and_best(records: Sequence[Trial]) -> str:
    """Return `5 complete, 4 pruned. The best is trial 3 with 1.23.` for a description."""
    counts = ", ".join(f"{sum(r.state == s for r in records)} {s}" for s in states_of(records))
    best = best_of(records)
    if best is None or best.score is None:
        return f"{counts}."
    return f"{counts}. The best is trial {best.number} with {best.score:.2f}."
