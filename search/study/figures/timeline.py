"""When each trial ran, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from search.study.figures.states import states_of
from search.study.study import OpenStudy
from search.study.trials import TrialRecord
from viz.figures import colour, legend_below, new_figure, tidy

_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def timeline(opened: OpenStudy, records: Sequence[TrialRecord]) -> Figure | None:
    """A bar for each trial from its start to its end; None before the first one."""
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


def _bar(
    record: TrialRecord, begin: datetime, records: Sequence[TrialRecord]
) -> tuple[float, float]:
    """(start, length) in seconds after `begin`; what has no end lasts until now."""
    assert record.started is not None
    if record.ended is not None:
        end = record.ended
    elif (
        record.state == "interrupted"
    ):  # nobody knows when: until the last thing known of the study
        end = max(t for r in records for t in (r.started, r.ended) if t is not None)
    else:
        end = datetime.now()
    start = (record.started - begin).total_seconds()
    return start, max(0.0, (end - record.started).total_seconds())
