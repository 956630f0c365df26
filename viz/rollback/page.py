"""The path of a training as one HTML page without scripts or external files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.events import RollbackEvent
from cyclegan.numbers import ceil_div
from viz import units
from viz.html import drawn, render
from viz.palette import BROKEN, CURVES, DISCARDED, FAINT, LOST, page_colour
from viz.rollback.drawing import (
    group_thousands,
    joined,
    label_left,
    legend,
    number,
    outcome_colour,
    scale,
    stacked,
    stairs,
    thinned,
    union,
    zigzag,
)
from viz.rollback.path import TrainingPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from viz.plots import Plot


OPEN = "not known yet"
"""Outcome of a rollback that nothing has concluded yet."""


def path_page(path: TrainingPath) -> str:
    """Return the whole document; it is the same for the same path."""
    return render(
        "rollbacks.html",
        Path(__file__).parent,
        title=f"Rollbacks of {path.name}",
        summary=_summary(path.rollbacks),
        spent=path.spent,
        discarded=page_colour(DISCARDED),
        lost=LOST,
        broken=page_colour(BROKEN),
        steps=drawn(step_figure(path), "steps"),
        iterations=drawn(saw_tooth_figure(path), "spent"),
        events=[_row(event) for event in path.rollbacks],
    )


def changed_values(event: RollbackEvent) -> list[tuple[str, float, float]]:
    """Return (dotted name, before, after) of the hyperparameters that a rollback changed."""
    before, after = event.before.flat(), event.after.flat()
    return [
        (name, before.get(name, math.nan), value)
        for name, value in after.items()
        if value != before.get(name)
    ]


def _summary(events: Sequence[RollbackEvent]) -> str:
    counts = Counter(event.outcome or OPEN for event in events)
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{units.count(len(events), 'rollback')}: {parts}."


def _row(event: RollbackEvent) -> dict[str, object]:
    """Return the texts of a row of the table."""
    return {
        "iteration": f"{event.iteration:,}",
        "steps": f"{event.from_step:,} → {event.to_step:,}",
        "fault": event.cause.kind or "–",
        "severity": number(event.cause.severity),
        "attempt": event.cause.attempt,
        "reason": event.reason,
        "changes": [
            (name.removeprefix("lambdas."), number(before), number(after))
            for name, before, after in changed_values(event)
        ],
        "kickstart": f"{event.kickstart:,} steps" if event.kickstart else "–",
        "colour": outcome_colour(event.outcome),
        "outcome": event.outcome or OPEN,
        "concluded": f"{event.concluded:,}" if event.concluded else "",
    }


Values = NDArray[np.float64]
_COLUMNS = 420
"""Most columns of the step axis: about two pixels each."""
_BUDGET = 9000
"""Most columns of all curves together: keeps the page below a megabyte with many rollbacks."""


@dataclass(frozen=True)
class _Panel:
    label: str
    height: float
    """Height in inches."""
    curves: Mapping[str, Values]
    """Name -> one value per row."""
    noisy: bool


def step_figure(path: TrainingPath) -> Plot:
    """Draw rollbacks, scores, losses, lambdas and learning rates over the step."""
    panels = _panels(path)
    lane = min(0.5 + 0.24 * len(path.rollbacks), 2.6)
    heights = [lane, *([1.5] if path.scores else []), *(panel.height for panel in panels)]
    figure, axes = stacked(heights, f"The path of {path.name} over the step: {path.spent}.")
    for one in axes:
        for low, high in union([(float(e.to_step), float(e.from_step)) for e in path.rollbacks]):
            one.axvspan(low, high, color=LOST, alpha=0.11, linewidth=0)
    draw_rollbacks(axes[0], path)
    width = _column(path, 1 + sum(len(panel.curves) for panel in panels if panel.noisy))
    if path.scores:
        draw_scores(axes[1], path, width)
    for one, panel in zip(axes[len(axes) - len(panels) :], panels, strict=True):
        _draw_panel(one, path, panel, width)
    last = max([1.0, path.steps.max(initial=0), *(event.from_step for event in path.rollbacks)])
    axes[-1].set_xlim(-0.012 * last, 1.012 * last)
    axes[-1].set_xlabel("training step", fontsize=9)
    group_thousands(axes[-1].xaxis)
    return figure


def _panels(path: TrainingPath) -> list[_Panel]:
    panels = []
    for label, names in path.losses.items():
        curves = {name.removeprefix("loss/"): path.metric(name) for name in names}
        curves = {name: values for name, values in curves.items() if not np.isnan(values).all()}
        if curves:
            panels.append(_Panel(f"loss:\n{label}", 1.7, curves, noisy=True))
    on = {name: values for name, values in path.hparams.items() if np.any(values > 0)}
    lambdas = {n.removeprefix("lambdas."): v for n, v in on.items() if n.startswith("lambdas.")}
    rates = {name: values for name, values in on.items() if name.startswith("lr_")}
    for label, curves in (("lambdas", lambdas), ("learning rates", rates)):
        if curves and path.rows:
            panels.append(_Panel(label, 1.4, curves, noisy=False))
    return panels


def _column(path: TrainingPath, curves: int) -> float:
    """Return the number of steps that a column of the page stands for."""
    span = max(float(path.steps.max(initial=0)), 1.0)
    total = span + sum(stretch.last - stretch.first for stretch in path.discarded)
    width = span / _COLUMNS
    return max(width, total * curves / _BUDGET, 1.0)


def _draw_panel(axes: Axes, path: TrainingPath, panel: _Panel, width: float) -> None:
    for values in panel.curves.values():
        _draw_discarded(axes, path, values, panel.noisy, width)
    kept = np.flatnonzero(path.accepted)
    for curve, values in enumerate(panel.curves.values()):
        if kept.size:
            colour = CURVES[curve % len(CURVES)]
            _draw_accepted(axes, path.steps[kept], values[kept], panel.noisy, width, colour)
    everything = np.concatenate(list(panel.curves.values()))
    shown = np.concatenate([values[kept] for values in panel.curves.values()])
    scale(axes, shown, everything)
    label_left(axes, panel.label)
    legend(axes, list(panel.curves))


def _draw_accepted(
    axes: Axes, x: Values, y: Values, noisy: bool, width: float, colour: str
) -> None:
    """Draw a band and its middle, or stairs."""
    if not noisy:
        axes.plot(*stairs(x, y, width), color=colour, linewidth=1.6, gid="accepted")
        return
    curve = thinned(x, y, width)
    axes.fill_between(
        curve.x, curve.low, curve.high, color=colour, alpha=0.28, linewidth=0, zorder=2.4
    )
    axes.plot(curve.x, curve.middle, color=colour, linewidth=1.2, zorder=2.5, gid="accepted")
    _mark_broken(axes, curve.broken)


def _draw_discarded(
    axes: Axes, path: TrainingPath, values: Values, noisy: bool, width: float
) -> None:
    """Draw all discarded attempts of one curve, in grey behind the accepted path."""
    spans = [slice(stretch.first, stretch.last) for stretch in path.discarded]
    if not spans:
        return
    options: dict[str, Any] = {"color": DISCARDED, "zorder": 2.0, "gid": "discarded"}
    if not noisy:
        corners = [stairs(path.steps[span], values[span], width) for span in spans]
        axes.plot(*joined(corners), linewidth=1.6, **options)
        return
    curves = [thinned(path.steps[span], values[span], width) for span in spans]
    axes.plot(*joined([zigzag(c) for c in curves]), color=FAINT, linewidth=0.8, zorder=1.9)
    axes.plot(*joined([(c.x, c.middle) for c in curves]), linewidth=1.1, **options)
    _mark_broken(axes, np.unique(np.concatenate([c.broken for c in curves])))


def _mark_broken(axes: Axes, places: Values) -> None:
    """Mark values that were not finite at the upper rim."""
    if places.size:
        rim = np.full(places.shape, 0.96)
        place = axes.get_xaxis_transform()
        axes.plot(places, rim, "x", color=BROKEN, markersize=4.5, transform=place)


# -- Events at single steps: rollbacks as arrows, validations as dots --------------------------

_ARROWS = 24
"""Most rollbacks with which every arrow bears its number."""


_DOTS = 500
"""Most validations with which each has a dot."""


def draw_rollbacks(axes: Axes, path: TrainingPath) -> None:
    """Draw an arrow per rollback, from the step of the fault back to the restored step."""
    count = len(path.rollbacks)
    every = ceil_div(count, _ARROWS)
    for rank, event in enumerate(path.rollbacks, start=1):
        colour = outcome_colour(event.outcome)
        axes.annotate(
            "",
            xy=(event.to_step, rank),
            xytext=(event.from_step, rank),
            arrowprops={
                "arrowstyle": "-|>,head_width=0.22,head_length=0.45",
                "color": colour,
                "linewidth": 1.6 if every == 1 else 0.8,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        if (rank - 1) % every == 0:
            axes.annotate(
                str(rank),
                xy=(event.from_step, rank),
                xytext=(4, 0),
                textcoords="offset points",
                color=colour,
                fontsize=9,
                fontweight="bold",
                va="center",
            )
    label_left(axes, "rollback")
    axes.set_ylim(count + 0.8, 0.2)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")


def draw_scores(axes: Axes, path: TrainingPath, width: float) -> None:
    """Draw usable scores by step; others, and those far below the accepted ones, at the rim."""
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
        draw(kept, CURVES[0])
    gated = np.unique([round(path.steps[i] / width) * width for i, s in known if not s.usable])
    axes.plot(gated, [floor] * len(gated), "x", color=BROKEN, markersize=5, linestyle="none")
    label_left(axes, "validation\nscore" if usable else "validation\n(none usable)")
    axes.set_ylim(floor - 0.15 * span, high + 0.12 * span)
    if not usable:
        axes.set_yticks([])


# -- The figure of the step over the iteration -------------------------------------------------


def saw_tooth_figure(path: TrainingPath) -> Plot:
    """Draw the step over the iteration: every fall is a rollback, and its cost is grey."""
    figure, (axes,) = stacked([1.6], f"The step over the iteration: {path.spent}.")
    iterations = np.array([row.iteration for row in path.rows], dtype=float)
    for stretch in path.stretches:
        ends = [stretch.first, stretch.last - 1]
        x, y = iterations[ends] + [-1, 0], path.steps[ends] + [-1, 0]
        name = "accepted" if stretch.accepted else "discarded"
        colour = CURVES[0] if stretch.accepted else DISCARDED
        axes.plot(x, y, color=colour, linewidth=2.2, solid_capstyle="butt", gid=f"way-{name}")
    for event in path.rollbacks:
        axes.plot(
            [event.iteration] * 2,
            [event.from_step, event.to_step],
            color=outcome_colour(event.outcome),
            linewidth=1.1,
            linestyle=(0, (2, 1.5)),
        )
    label_left(axes, "step")
    axes.set_xlabel("iteration (optimisation steps executed)", fontsize=9)
    axes.set_title(path.spent, fontsize=9.5, loc="left")
    axes.set_ylim(0, None)
    axes.set_xlim(0, None)
    group_thousands(axes.xaxis)
    group_thousands(axes.yaxis)
    return figure
