"""The scores of every trial during its training, and the rungs where trials are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cyclegan.numbers import ceil_div
from search.study.figures.states import WIDTH, add_quickly, counts_and_best, state_legend
from search.study.study import StudyHandle
from search.study.trials import Trial, best_of
from viz import units
from viz.palette import BEST, GREY
from viz.plots import MARKERS, Mark, Plot, ScoreAxis, colour, new_figure, tidy

_HALVING = ("successive_halving", "hyperband")
_NAMED = 12
"""Number of trials up to which every curve is numbered."""
_APART = 0.04
"""Smallest distance between labels, as a share of the axis."""
_POINTS = 150
"""Number of points of a curve; longer ones are thinned."""
_HIT_POINTS = 40
"""The same of the wide invisible curve at which the pointer finds a thin one."""
_HIT_WIDTH = 9.0


def rung_iterations(pruner: Any, steps: int) -> list[int]:
    """Return the iterations at which trials are judged.

    These are the rungs of successive halving and Hyperband, whose brackets share one geometric
    series; for other pruners, the iteration where judging begins.
    """
    first, factor = int(pruner.prune_after), int(getattr(pruner, "reduction_factor", 0))
    if pruner.name == "none":
        return []
    if pruner.name not in _HALVING or factor < 2:
        return [first] if first < steps else []
    found = []
    while first < steps:
        found.append(first)
        first *= factor
    return found


def rungs(handle: StudyHandle, records: Sequence[Trial]) -> Plot | None:
    """Draw the scores by iteration; None before the first report."""
    shown = [r for r in records if r.curve]
    if not shown:
        return None
    definition = handle.definition
    judged = rung_iterations(definition.pruner, definition.steps)
    figure = new_figure(WIDTH, 4.6, f"{definition.name}: scores during the trainings")
    figure.about = f"Scores of {units.count(len(shown), 'trial')} over the iteration: "
    figure.about += counts_and_best(shown)
    axes = figure.subplots()
    # Scores from before the first judgement are often far off and irrelevant.
    begin = judged[0] if judged else 0
    scale = ScoreAxis.of(
        [score for r in shown for i, score in r.curve if i >= begin]
        or [score for r in shown for _, score in r.curve]
    )
    for iteration in judged:
        axes.axvline(iteration, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    best = best_of(shown)
    for record in shown:
        _curve(figure, axes, record, scale, best=record is best)
    _name_ends(axes, shown if len(shown) <= _NAMED else [best] if best else [], best, scale)
    _lower_rim(axes, scale)
    axes.set_xlabel("iteration", fontsize=9)
    axes.set_ylabel("score (higher is better)", fontsize=9)
    axes.set_xlim(0, 1.05 * max(i for r in shown for i, _ in r.curve))
    scale.apply(axes)
    tidy(axes)
    state_legend(figure, [r for r in shown if r.score is not None], scale, _legend(judged, best))
    return figure


def thinned(curve: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return at most about `most` points of a curve, including its end and its maximum."""
    every = ceil_div(len(curve), most)
    kept = {*range(0, len(curve), every), len(curve) - 1}
    kept.add(max(range(len(curve)), key=lambda i: curve[i][1]))
    return [curve[i] for i in sorted(kept)]


def _curve(figure: Plot, axes: Axes, record: Trial, scale: ScoreAxis, *, best: bool) -> None:
    """Draw a curve with a marker at its end, and a wide invisible one for the pointer behind."""
    key, words = str(record.number), _words(record)
    below = record.curve[-1][1] < scale.low
    line = Line2D(
        *_places(record, scale, _POINTS),
        color=BEST if best else colour(record.state),
        linewidth=2.0 if best else 1.0,
        alpha=0.85,
        marker="v" if below else MARKERS.get(record.state, "."),
        markevery=[-1],
        markersize=4.5,
        zorder=4 if best else 3 if record.state == "complete" else 2,
    )
    add_quickly(axes, line)
    figure.mark(line, Mark("trial", key, words))
    hit = Line2D(*_places(record, scale, _HIT_POINTS), linewidth=_HIT_WIDTH, alpha=0.0, zorder=1)
    add_quickly(axes, hit)
    figure.mark(hit, Mark("trial hit", key, words))


def _places(record: Trial, scale: ScoreAxis, most: int) -> tuple[list[float], NDArray[np.float64]]:
    points = thinned(record.curve, most)
    return [float(i) for i, _ in points], scale.place([score for _, score in points])


def _words(record: Trial) -> str:
    end, score = record.curve[-1]
    words = f"trial {record.number}, {record.state}, {score:.2f} at iteration {end:,}"
    if record.score is not None:
        words += f"; its score is {record.score:.2f}"
    if record.state in ("pruned", "failed") and record.reason:
        words += f"; {' '.join(record.reason.split())[:200]}"
    return words


def _name_ends(axes: Axes, records: Sequence[Trial], best: Trial | None, scale: ScoreAxis) -> None:
    """Draw trial numbers at the ends of their curves; numbers that overlap share a label."""
    apart = _APART * (scale.high - scale.low)
    groups: list[tuple[float, float, list[Trial]]] = []
    for record in sorted(records, key=lambda r: (r.curve[-1][0], -r.curve[-1][1])):
        x = float(record.curve[-1][0])
        y = float(scale.place([record.curve[-1][1]])[0])
        if groups and groups[-1][0] == x and abs(groups[-1][1] - y) < apart:
            groups[-1][2].append(record)
        else:
            groups.append((x, y, [record]))
    for end, height, members in groups:
        is_best = best in members
        axes.annotate(
            ", ".join(str(r.number) for r in members),
            (end, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=BEST if is_best else colour(members[0].state),
            weight="bold" if is_best else "normal",
            zorder=7,
        )


def _lower_rim(axes: Axes, scale: ScoreAxis) -> None:
    axes.axhspan(scale.limits[0], scale.low, color="#F2F2F2", zorder=-1)
    axes.text(
        *(0.995, scale.rim, "lower scores"),
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        fontsize=7,
        color=GREY,
    )


def _legend(judged: Sequence[int], best: Trial | None) -> list[Line2D]:
    lines = []
    if best is not None:
        lines.append(Line2D([], [], color=BEST, linewidth=2.0, label=f"best: {best.number}"))
    if judged:
        label = "judged here" if len(judged) > 1 else "judged from here on"
        lines.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle="--", label=label))
    return lines
