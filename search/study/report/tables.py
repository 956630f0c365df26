"""The trials of a study as a ranked table, with why each was pruned and where its run is."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from search.study.report.evidence import PARTS
from search.study.report.facts import Facts
from search.study.trials import TrialRecord, declared_keys, searched_keys
from tracking.views import link_between_runs
from viz.names import short_names, short_text
from viz.units import short_time

_ID = 8
"""Digits of a run's id that tell it from the others."""
_REASON = 400


@dataclass(frozen=True)
class _Cell:
    content: str
    order: float | str = ""
    """What its column is sorted by; what has none stays below."""
    kind: str = ""


def trials(facts: Facts) -> str:
    """The table, and what can be done with it."""
    if not facts.records:
        return '<p class="note">No trial was begun yet.</p>'
    keys = searched_keys(facts.records, declared_keys(facts.opened.definition.space))
    names = short_names(keys)
    with_parts = any(facts.parts.values())
    parts = list(PARTS.values()) if with_parts else []
    columns = ["rank", "trial", "run in MLflow", "state", "score", "why it ended"]
    columns += [*(names[k] for k in keys), *parts, "step", "iterations", "time"]
    full = {names[k]: k for k in keys} | {short: name for name, short in PARTS.items()}
    top = "".join(
        f'<th title="{escape(full.get(name, name))}"><button>{escape(name)}</button></th>'
        for name in columns
    )
    body = "".join(_row(facts, record, keys, with_parts) for record in facts.records)
    return (
        '<p class="note">The best complete trial first; a click on a column\'s name sorts by it. '
        f"{_parts_note(facts) if with_parts else ''}<span class='how'></span></p>"
        f'<div class="wide tall"><table class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def run_name(facts: Facts, record: TrialRecord) -> str:
    """Of a trial's run in MLflow."""
    return f"{facts.name}-{record.number:03d}"


def _parts_note(facts: Facts) -> str:
    shown = sum(bool(parts) for parts in facts.parts.values())
    whose = "" if shown >= len(facts.records) else f" of the {shown} best"
    return (
        f"The score is gain − 0.25 spectrum − 5 SWD + 20 shells; the parts{whose} are those of the "
        "validation that counted. "
    )


def _row(facts: Facts, record: TrialRecord, keys: list[str], with_parts: bool) -> str:
    rank = facts.ranks.get(record.number)
    cells = [
        _Cell("" if rank is None else f"<b>{rank}</b>", rank or "", "number"),
        _Cell(str(record.number), record.number, "number"),
        _Cell(_run(facts, record), run_name(facts, record), "plain"),
        _Cell(f'<span class="state {record.state}">{record.state}</span>', record.state),
        _number(record.score, "score"),
        _Cell(_reason(record), "".join(record.reason.split()), "reason"),
        *(_value(record.values.get(key)) for key in keys),
    ]
    if with_parts:
        found = facts.parts.get(record.number, {})
        cells += [_number(found.get(name)) for name in PARTS]
    seconds = facts.seconds(record)
    cells += [
        _Cell(f"{record.step:,}", record.step, "number"),
        _Cell(f"{record.iteration:,}", record.iteration, "number"),
        _Cell(short_time(seconds), seconds or 0.0, "number plain"),
    ]
    best = facts.best
    classes = f"trial-{record.number}" + (" best" if best and record is best else "")
    return f'<tr class="{classes}" data-trial="{record.number}">{"".join(map(_td, cells))}</tr>'


def _td(cell: _Cell) -> str:
    kind = f' class="{cell.kind}"' if cell.kind else ""
    return f'<td{kind} data-v="{escape(str(cell.order))}">{cell.content}</td>'


def _number(value: float | None, kind: str = "") -> _Cell:
    if value is None:
        return _Cell("–", "", "number")
    shown = f"{value:.2f}" if kind == "score" else f"{value:.3g}"
    return _Cell(shown, value, f"number {kind}".strip())


def _value(value: object) -> _Cell:
    if value is None:
        return _Cell("–", "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Cell(f'<span title="{value}">{short_text(value)}</span>', value, "number")
    return _Cell(
        f'<span title="{escape(str(value))}">{escape(short_text(value))}</span>', str(value)
    )


def _reason(record: TrialRecord) -> str:
    text = " ".join(record.reason.split())
    if record.revives is not None:
        text = f"goes on with trial {record.revives}; {text}".removesuffix("; ")
    return escape(text[:_REASON]) or ("all steps" if record.state == "complete" else "")


def _run(facts: Facts, record: TrialRecord) -> str:
    """Name, short id, and where it is: the script makes links of it."""
    if not record.run_id:
        return "–"
    name = escape(run_name(facts, record))
    if not facts.experiment_id:
        return f"{name} <code>{escape(record.run_id[:_ID])}</code>"
    place = escape(link_between_runs(facts.experiment_id, record.run_id))
    return (
        f'<span class="run" data-at="{place}">{name}</span> '
        f'<code title="{escape(record.run_id)}">{escape(record.run_id[:_ID])}</code>'
    )
