"""The scores of the trials in their order, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from search.study.figures.states import scatter_states, state_legend, trials
from search.study.study import OpenStudy
from search.study.trials import TrialRecord, best_of
from viz.figures import BEST, ScoreAxis, new_figure, tidy


def history(opened: OpenStudy, records: Sequence[TrialRecord]) -> Figure | None:
    """Score by trial number; None before the first score."""
    shown = [r for r in records if r.state != "waiting"]
    if not any(r.score is not None for r in shown):
        return None
    title = f"{opened.definition.name}: scores of {trials(len(shown))}"
    figure = new_figure(8.0, 4.0, title)
    axes = figure.subplots()
    scale = ScoreAxis.of(r.score for r in shown)
    scatter_states(axes, [r.number for r in shown], shown, scale)
    extra = _draw_best(axes, shown, scale)
    axes.set_xlabel("trial", fontsize=9)
    axes.set_ylabel("score (higher is better)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.6, shown[-1].number + 0.6)
    scale.apply(axes)
    tidy(axes)
    state_legend(figure, shown, scale, extra)
    return figure


def _draw_best(axes: Axes, records: Sequence[TrialRecord], scale: ScoreAxis) -> list[Line2D]:
    """A staircase of the best score so far, and the best trial's number; handles for the legend."""
    best = best_of(records)
    if best is None or best.score is None:
        return []
    steps, last = _best_so_far(records), records[-1].number
    x = [*(number for number, _ in steps), last]
    y = scale.place([*(score for _, score in steps), steps[-1][1]])
    axes.step(x, y, where="post", color=BEST, linewidth=1.2)
    axes.annotate(
        f"trial {best.number}: {best.score:.2f}",
        (best.number, best.score),
        xytext=(0, 6),
        textcoords="offset points",
        ha="left" if best.number < 0.7 * max(1, last) else "right",
        fontsize=8,
    )
    return [Line2D([], [], color=BEST, linewidth=1.2, label="best so far")]


def _best_so_far(records: Sequence[TrialRecord]) -> list[tuple[int, float]]:
    """(number, best score up to it) at each complete trial."""
    points: list[tuple[int, float]] = []
    for record in records:
        if record.state == "complete" and record.score is not None:
            before = points[-1][1] if points else record.score
            points.append((record.number, max(before, record.score)))
    return points
