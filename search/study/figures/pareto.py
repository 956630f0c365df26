"""Figure of a study with several objectives: its trials, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from search.study.figures.states import WIDTH
from search.study.objective import TIME, is_minimised, short
from search.study.study import StudyHandle
from search.study.trials import Trial, front_of
from viz import units
from viz.palette import BEST, GREY
from viz.plots import Mark, Plot, colour, legend_below, new_figure, tidy


def pareto(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw the first objective over each of the others; None with one, or before a front."""
    first, *others = handle.definition.objective
    front = front_of(records)
    if not front:
        return None
    ids = {record.number for record in front}
    rest = [r for r in records if r.objectives and r.number not in ids]
    title = f"{handle.definition.name}: Pareto front of {units.count(len(front), 'trial')}"
    figure = new_figure(WIDTH, 4.6, title)
    figure.about = f"{title}: " + "; ".join(values_in_words(record) for record in front)
    grid: NDArray[Any] = figure.subplots(1, len(others), sharey=True, squeeze=False)
    for axes, name in zip(grid[0], others, strict=True):
        _scatter(figure, axes, rest, first, name, edge=None)
        _scatter(figure, axes, front, first, name, edge=BEST)
        if len(others) == 1:
            _stairs(axes, front, first, name)
        axes.set_xlabel(_label(name), fontsize=9)
        tidy(axes)
    grid[0][0].set_ylabel(_label(first), fontsize=9)
    legend = [
        Line2D([], [], linestyle="", marker="o", color=colour("complete"), label="complete"),
        Line2D(
            [],
            [],
            linestyle="" if len(others) > 1 else "-",
            marker="o",
            color=BEST if len(others) == 1 else GREY,
            markerfacecolor=colour("complete"),
            markeredgecolor=BEST,
            label="Pareto front",
        ),
    ]
    legend_below(figure, legend)
    return figure


def values_in_words(record: Trial) -> str:
    """Return a trial's values by all objectives in words."""
    values = (f"{short(n)} {_shown(value, n)}" for n, value in record.objectives.items())
    return f"trial {record.number}, {', '.join(values)}"


def _scatter(
    figure: Plot, axes: Axes, records: Sequence[Trial], first: str, name: str, edge: str | None
) -> None:
    drawn = axes.scatter(
        [record.objectives[name] for record in records],
        [record.objectives[first] for record in records],
        s=34,
        color=colour("complete"),
        edgecolors=edge,
        linewidths=1.6 if edge else None,
        zorder=4 if edge else 3,
    )
    figure.mark(drawn, *(Mark("trial", str(r.number), values_in_words(r)) for r in records))


def _stairs(axes: Axes, front: Sequence[Trial], first: str, name: str) -> None:
    """Draw the border of what the front beats, between its first and its last trial."""
    points = sorted((r.objectives[name], r.objectives[first]) for r in front)
    x, y = zip(*points, strict=True)
    axes.step(x, y, where="post" if is_minimised(name) else "pre", color=BEST, linewidth=1.2)


def _label(name: str) -> str:
    return f"{short(name)} ({'lower' if is_minimised(name) else 'higher'} is better)"


def _shown(value: float, name: str) -> str:
    return f"{value:,.1f}" if name == TIME else f"{value:.3g}"
