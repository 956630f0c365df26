"""The path of a training as one HTML page without scripts or external files; text is escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from cyclegan.events import RollbackEvent
from viz import units
from viz.html import document
from viz.rollback.drawing import DISCARDED, inline_svg, number, outcome_colour
from viz.rollback.panels import saw_tooth_figure, step_figure
from viz.rollback.path import TrainingPath

OPEN = "not known yet"
"""Outcome of a rollback that nothing has concluded yet."""
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff;
       max-width: 1240px; margin: 1.6em auto; padding: 0 1.2em; }
h1 { font-size: 1.45em; margin: 0 0 .15em; overflow-wrap: anywhere; }
h2 { font-size: 1.12em; margin: 1.7em 0 .35em; }
svg { width: 100%; min-width: 860px; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: .38em .8em .38em 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th { white-space: nowrap; color: #555; font-weight: 600; }
th.number, td.number { text-align: right; }
td.reason { min-width: 16em; overflow-wrap: anywhere; }
td.plain { white-space: nowrap; }
.changes { display: grid; grid-template-columns: auto auto auto auto; column-gap: .5em;
           justify-content: start; white-space: nowrap; }
.changes span:nth-child(4n+2), .changes span:nth-child(4n+4) { text-align: right; }
.outcome { display: inline-block; border-radius: .6em; padding: 0 .6em; color: #fff;
           white-space: nowrap; }
.wide { overflow-x: auto; }
p.summary { font-size: 1.05em; margin: .2em 0; }
p.note { color: #555; font-size: .9em; margin: .3em 0; }
.key { display: inline-block; width: 1.6em; height: .65em; margin: 0 .3em 0 .1em; }
"""
_HEADER = (
    *("", "iteration", "step", "fault", "severity", "attempt", "reason", "changed", "kickstart"),
    "outcome",
)
_NUMBERS = (0, 1, 4, 5, 8)


def path_page(path: TrainingPath) -> str:
    """Return the whole document; it is the same for the same path."""
    title = f"Rollbacks of {path.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="summary">{escape(_summary(path.rollbacks))}<br>{escape(path.spent)}.</p>',
        "<h2>The accepted path</h2>",
        '<p class="note">In colour: the path that the networks took; '
        f'<i class="key" style="background:{DISCARDED}"></i>'
        "grey: attempts that a rollback discarded; "
        '<i class="key" style="background:#fbf3df"></i>steps that were lost and trained again; '
        '<b style="color:#c62828">×</b> values that were not finite, or a validation that failed '
        "a gate. Bands span the values of neighbouring steps, lines are their medians. Values of "
        "an attempt that exploded may lie outside the axes.</p>",
        _wide(inline_svg(step_figure(path), "steps")),
        "<h2>Iterations spent</h2>",
        _wide(inline_svg(saw_tooth_figure(path), "spent")),
        "<h2>The rollbacks</h2>",
        _wide(_table(path.rollbacks)),
    ]
    return document(title, _STYLE, parts)


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


def _wide(content: str) -> str:
    """Make content scroll where the page is narrow, as MLflow's pane is."""
    return f'<div class="wide">{content}</div>'


def _table(events: Iterable[RollbackEvent]) -> str:
    rows = []
    for place, event in enumerate(events, start=1):
        cells = (
            f"<b>{place}</b>",
            f"{event.iteration:,}",
            f"{event.from_step:,} → {event.to_step:,}",
            escape(event.cause.kind or "–"),
            number(event.cause.severity),
            str(event.cause.attempt),
            escape(event.reason),
            _changes(event),
            f"{event.kickstart:,} steps" if event.kickstart else "–",
            _outcome(event),
        )
        rows.append("".join(_cell(cell, column) for column, cell in enumerate(cells)))
    top = "".join(
        f'<th class="number">{text}</th>' if column in _NUMBERS else f"<th>{text}</th>"
        for column, text in enumerate(_HEADER)
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(content: str, column: int) -> str:
    kind = {6: "reason", 7: "", 9: ""}.get(column, "plain")
    names = " ".join(filter(None, [kind, "number" if column in _NUMBERS else ""]))
    return f'<td class="{names}">{content}</td>' if names else f"<td>{content}</td>"


def _changes(event: RollbackEvent) -> str:
    spans = [
        f"<span>{escape(name.removeprefix('lambdas.'))}</span><span>{number(before)}</span>"
        f"<span>→</span><span>{number(after)}</span>"
        for name, before, after in changed_values(event)
    ]
    return f'<div class="changes">{"".join(spans)}</div>' if spans else "nothing"


def _outcome(event: RollbackEvent) -> str:
    text = escape(event.outcome or OPEN)
    chip = f'<span class="outcome" style="background:{outcome_colour(event.outcome)}">{text}</span>'
    when = f"<br>at iteration {event.concluded:,}" if event.concluded else ""
    return chip + when
