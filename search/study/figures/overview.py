"""Overview figures of a study: score history, importance of each key, and timeline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from cyclegan.errors import DataError
from search.study.figures.states import (
    WIDTH,
    add_quickly,
    counts_and_best,
    scatter_states,
    score_words,
    state_legend,
    states_of,
)
from search.study.importance import importance
from search.study.study import StudyHandle
from search.study.trials import Trial, best_of
from viz import units
from viz.palette import BEST
from viz.plots import Mark, Plot, ScoreAxis, colour, legend_below, literal, new_figure, tidy
from viz.text import short_names


def history(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw the score by trial number; None before the first score."""
    shown = [r for r in records if r.state != "waiting"]
    if not any(r.score is not None for r in shown):
        return None
    title = f"{handle.definition.name}: scores of {units.count(len(shown), 'trial')}"
    figure = new_figure(WIDTH, 4.2, title)
    figure.about = f"Scores of {units.count(len(shown), 'trial')} by number: "
    figure.about += counts_and_best(shown)
    axes = figure.subplots()
    scale = ScoreAxis.of(r.score for r in shown)
    points = [(float(r.number), score_words(r)) for r in shown]
    scatter_states(figure, axes, points, shown, scale)
    extra = _draw_best(axes, shown, scale)
    axes.set_xlabel("trial", fontsize=9)
    axes.set_ylabel("score (higher is better)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.6, shown[-1].number + 0.6)
    scale.apply(axes)
    tidy(axes)
    state_legend(figure, shown, scale, extra)
    return figure


def _draw_best(axes: Axes, records: Sequence[Trial], scale: ScoreAxis) -> list[Line2D]:
    """Draw the best score so far and the best trial's number; return handles for the legend."""
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


def _best_so_far(records: Sequence[Trial]) -> list[tuple[int, float]]:
    """Return (number, best score so far) at each complete trial."""
    points: list[tuple[int, float]] = []
    for record in records:
        if record.state == "complete" and record.score is not None:
            before = points[-1][1] if points else record.score
            points.append((record.number, max(before, record.score)))
    return points


# -- The importance of each searched key -------------------------------------------------------


def ranking(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw a bar for each key; None with too few complete trials."""
    try:
        found = importance(handle)
    except DataError:
        return None
    names = short_names(list(found.shares))
    title = f"{handle.definition.name}: importance over {found.trials} complete trials"
    title += f"\n{found.caution}" if found.caution else ""
    figure = new_figure(WIDTH, 1.0 + 0.26 * len(names), title)
    shares = ", ".join(f"{key} {share:.2f}" for key, share in found.shares.items())
    figure.about = f"Importance of each key over {found.trials} complete trials: {shares}."
    axes = figure.subplots()
    bars = axes.barh(
        [literal(names[k]) for k in found.shares], list(found.shares.values()), height=0.65
    )
    for bar in bars:
        bar.set_color(colour("complete"))
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(found.shares.values()))
    axes.set_xlabel(f"share (PED-ANOVA: the {found.top} best against all)", fontsize=9)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    return figure


# -- Timeline of the trials --------------------------------------------------------------------

_TALLEST = 6.0
"""Height in inches of the timeline of a hundred trials or thousands."""
_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def timeline(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw a bar for each trial from its start to its end; None before the first one."""
    shown = [r for r in records if r.started is not None]
    if not shown:
        return None
    begin = min(r.started for r in shown if r.started)
    bars = [_bar(record, begin, shown) for record in shown]
    end = max(start + length for start, length in bars)
    unit, seconds = next(((u, s) for u, s in _UNITS if end >= 2 * s), _UNITS[-1])
    height = min(_TALLEST, 1.3 + 0.14 * max(len(shown), 6))
    figure = new_figure(WIDTH, height, f"{handle.definition.name}: timeline")
    count = units.count(len(shown), "trial")
    figure.about = f"Start and end of each of {count}, over {units.short_time(end)}."
    axes = figure.subplots()
    least = 0.002 * end or 1.0
    for record, (start, length) in zip(shown, bars, strict=True):
        cut = record.state in ("interrupted", "paused")
        bar = Rectangle(
            (start / seconds, record.number - 0.4),
            max(length, least) / seconds,
            0.8,
            facecolor=colour(record.state),
            edgecolor="white" if cut else "none",
            hatch="///" if cut else None,
        )
        add_quickly(axes, bar)
        words = f"trial {record.number}, {record.state}: {record.iteration:,} iterations"
        figure.mark(bar, Mark("trial bar", str(record.number), f"{words}, {length:,.0f} s"))
    axes.set_xlim(0.0, 1.02 * max(end, least) / seconds)
    axes.set_ylim(max(r.number for r in shown) + 0.6, min(r.number for r in shown) - 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
    axes.set_xlabel(f"{unit} since {begin:%Y-%m-%d %H:%M}", fontsize=9)
    axes.set_ylabel("trial", fontsize=9)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    states = states_of(shown)
    legend_below(figure, [Patch(color=colour(state), label=state) for state in states])
    return figure


def _bar(record: Trial, begin: datetime, records: Sequence[Trial]) -> tuple[float, float]:
    """Return (start, length) in seconds after `begin`.

    A length is what was measured during the trial: its times of day may be wrong by hours.
    """
    assert record.started is not None
    start = (record.started - begin).total_seconds()
    if record.state not in ("interrupted", "paused"):
        return start, record.seconds or 0.0
    # Its end is unknown: take the study's last known moment.
    end = max(t for r in records for t in (r.started, r.ended) if t is not None)
    return start, max(0.0, (end - record.started).total_seconds())
