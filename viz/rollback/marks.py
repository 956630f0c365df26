"""What happened at single steps: rollbacks as arrows, validations as points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from viz.rollback.curves import thinned, zigzag
from viz.rollback.drawing import BROKEN, DISCARDED, PALETTE, outcome_colour, tidy
from viz.rollback.path import TrainingPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ARROWS = 24
"""Rollbacks up to which every arrow bears its number."""
_DOTS = 500
"""Validations up to which each has a dot."""


def draw_rollbacks(axes: Axes, path: TrainingPath) -> None:
    """An arrow each, one below the other, from where the fault was found to where it fell back."""
    count = len(path.rollbacks)
    every = -(-count // _ARROWS)
    for number, event in enumerate(path.rollbacks, start=1):
        colour = outcome_colour(event.outcome)
        axes.annotate(
            "",
            xy=(event.to_step, number),
            xytext=(event.from_step, number),
            arrowprops={
                "arrowstyle": "-|>,head_width=0.22,head_length=0.45",
                "color": colour,
                "linewidth": 1.6 if every == 1 else 0.8,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        if (number - 1) % every == 0:
            axes.annotate(
                str(number),
                xy=(event.from_step, number),
                xytext=(4, 0),
                textcoords="offset points",
                color=colour,
                fontsize=9,
                fontweight="bold",
                va="center",
            )
    tidy(axes, "rollback")
    axes.set_ylim(count + 0.8, 0.2)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")


def draw_scores(axes: Axes, path: TrainingPath, width: float) -> None:
    """Usable scores by step; others, and those far below the accepted ones, at the lower rim."""
    row_of = {row.iteration: i for i, row in enumerate(path.rows)}
    known = [(row_of[s.iteration], s) for s in path.scores if s.iteration in row_of]
    usable = {i: s.score for i, s in known if s.usable}
    accepted = [score for i, score in usable.items() if path.accepted[i]] or list(usable.values())
    low, high = min(accepted, default=0.0), max(usable.values(), default=1.0)
    span = max(max(accepted, default=0.0) - low, 0.1)
    floor = low - 0.8 * span
    style = "o-" if len(known) <= _DOTS else "-"

    def draw(rows: list[int], colour: str) -> None:
        scores = np.array([max(usable[i], floor) for i in rows])
        line = zigzag(thinned(path.steps[rows], scores, width))
        axes.plot(*line, style, color=colour, markersize=3.4, linewidth=1.4)

    attempts = [[i for i in range(s.first, s.last) if i in usable] for s in path.discarded]
    for rows in filter(None, attempts):
        draw(rows, DISCARDED)
    if kept := [i for i in usable if path.accepted[i]]:
        draw(kept, PALETTE[0])
    gated = np.unique([round(path.steps[i] / width) * width for i, s in known if not s.usable])
    axes.plot(gated, [floor] * len(gated), "x", color=BROKEN, markersize=5, linestyle="none")
    tidy(axes, "validation\nscore" if usable else "validation\n(none usable)")
    axes.set_ylim(floor - 0.15 * span, high + 0.12 * span)
    if not usable:
        axes.set_yticks([])
