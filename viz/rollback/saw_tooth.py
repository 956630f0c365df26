"""The figure of the step over the iteration: what a training spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from viz.rollback.drawing import DISCARDED, PALETTE, group_thousands, outcome_colour, stacked, tidy
from viz.rollback.path import TrainingPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def saw_tooth_figure(path: TrainingPath) -> Figure:
    """The step over the iteration: every fall is a rollback, grey is what it cost."""
    figure, (axes,) = stacked([1.6])
    iterations = np.array([row.iteration for row in path.rows], dtype=float)
    for stretch in path.stretches:
        ends = [stretch.first, stretch.last - 1]
        x, y = iterations[ends] + [-1, 0], path.steps[ends] + [-1, 0]
        name = "accepted" if stretch.accepted else "discarded"
        colour = PALETTE[0] if stretch.accepted else DISCARDED
        axes.plot(x, y, color=colour, linewidth=2.2, solid_capstyle="butt", gid=f"way-{name}")
    for event in path.rollbacks:
        axes.plot(
            [event.iteration] * 2,
            [event.from_step, event.to_step],
            color=outcome_colour(event.outcome),
            linewidth=1.1,
            linestyle=(0, (2, 1.5)),
        )
    tidy(axes, "step")
    axes.set_xlabel("iteration (optimisation steps executed)", fontsize=9)
    axes.set_title(path.spent, fontsize=9.5, loc="left")
    axes.set_ylim(0, None)
    axes.set_xlim(0, None)
    group_thousands(axes.xaxis)
    group_thousands(axes.yaxis)
    return figure
