"""The path of a training as one HTML page without scripts or external files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cyclegan.events import RollbackEvent
from viz import units
from viz.html import drawn, render
from viz.palette import BROKEN, DISCARDED, LOST, page_colour
from viz.rollback.drawing import number, outcome_colour
from viz.rollback.panels import saw_tooth_figure, step_figure
from viz.rollback.path import TrainingPath

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
