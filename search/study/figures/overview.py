"""Overview figures of a study: score history, importance of each key, and timeline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cyclegan.errors import DataError
from search.study.figures.states import scatter_states, state_legend, states_of
from search.study.importance import importance
from search.study.study import OpenStudy
from search.study.trials import Trial, best_of
from viz import units
from viz.figures import ScoreAxis, colour, legend_below, new_figure, tidy
from viz.palette import BEST
from viz.text import short_names


def history(opened: OpenStudy, records: Sequence[Trial]) -> Figure | None:
    """Draw the score by trial number; None before the first score."""
    shown = [r for r in records if r.state != "waiting"]
    if not any(r.score is not None for r in shown):
        return None
    title = f"{opened.definition.name}: scores of {units.count(len(shown), 'trial')}"
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


def ranking(opened: OpenStudy, records: Sequence[Trial]) -> Figure | None:
    """Draw a bar for each key; None with too few complete trials."""
    try:
        found = importance(opened)
    except DataError:
        return None
    names = short_names(list(found.shares))
    title = f"{opened.definition.name}: importance over {found.trials} complete trials"
    figure = new_figure(8.0, 1.5 + 0.26 * len(names), title)
    axes = figure.subplots()
    bars = axes.barh([names[k] for k in found.shares], list(found.shares.values()), height=0.65)
    for bar in bars:
        bar.set_color(colour("complete"))
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(found.shares.values()))
    label = f"share (PED-ANOVA: the {found.top} best against all)"
    axes.set_xlabel("\n".join([label, *([found.caution] if found.caution else [])]), fontsize=8)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    return figure


# -- Timeline of the trials --------------------------------------------------------------------

_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def timeline(opened: OpenStudy, records: Sequence[Trial]) -> Figure | None:
    """Draw a bar for each trial from its start to its end; None before the first one."""
    shown = [r for r in records if r.started is not None]
    if not shown:
        return None
    begin = min(r.started for r in shown if r.started)
    bars = [_bar(record, begin, shown) for record in shown]
    end = max(start + length for start, length in bars)
    unit, seconds = next(((u, s) for u, s in _UNITS if end >= 2 * s), _UNITS[-1])
    figure = new_figure(
        8.0, min(12.0, 1.6 + 0.16 * max(len(shown), 6)), f"{opened.definition.name}: timeline"
    )
    axes = figure.subplots()
    for record, (start, length) in zip(shown, bars, strict=True):
        axes.barh(
            record.number,
            max(length, 0.002 * end) / seconds,
            left=start / seconds,
            height=0.8,
            color=colour(record.state),
            hatch="///" if record.state == "interrupted" else None,
            edgecolor="white" if record.state == "interrupted" else None,
        )
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
    """Return (start, length) in seconds after `begin`; a running trial ends now."""
    assert record.started is not None
    if record.ended is not None:
        end = record.ended
    elif record.state == "interrupted":  # unknown when: take the last known moment of the study
        end = max(t for r in records for t in (r.started, r.ended) if t is not None)
    else:
        end = datetime.now()
    start = (record.started - begin).total_seconds()
    return start, max(0.0, (end - record.started).total_seconds())
