"""Tables of a study's page: its head, the ranked trials, and the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import PurePath
from typing import Any

from search.study.figures.rungs import rung_iterations
from search.study.report.facts import PARTS, Facts
from search.study.trials import FINISHED, Trial, declared_keys, searched_keys
from tracking.views import link_between_runs
from viz.plots import Span, across, drawing, element, round_ticks, text, title
from viz.text import short_names, short_text
from viz.units import short_time

_ID = 8
"""Number of leading digits that tell a run's id from the others."""
_REASON = 400


@dataclass(frozen=True)
class _Cell:
    content: str
    order: float | str = ""
    """Value by which its column is sorted; empty cells stay at the bottom."""
    kind: str = ""


def trials(facts: Facts) -> str:
    """Return the table of trials, with a note on how to use it."""
    if not facts.records:
        return '<p class="note">No trial has begun yet.</p>'
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


def run_name(facts: Facts, record: Trial) -> str:
    """Return the name of a trial's run in MLflow."""
    return f"{facts.name}-{record.number:03d}"


def _parts_note(facts: Facts) -> str:
    shown = sum(bool(parts) for parts in facts.parts.values())
    whose = "" if shown >= len(facts.records) else f" of the {shown} best"
    return (
        f"The score is gain − 0.25 spectrum − 5 SWD + 20 shells; the parts{whose} are those of the "
        "validation that counted. "
    )


def _row(facts: Facts, record: Trial, keys: list[str], with_parts: bool) -> str:
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


def _reason(record: Trial) -> str:
    text = " ".join(record.reason.split())
    if record.revives is not None:
        text = f"continues trial {record.revives}; {text}".removesuffix("; ")
    return escape(text[:_REASON]) or ("all steps" if record.state == "complete" else "")


def _run(facts: Facts, record: Trial) -> str:
    """Return the run's name, short id and address, which the script turns into a link."""
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


# -- Cost of a study: iterations and time by state, and the timeline of the trials -------------

_WIDTH = 980


_ROWS = 40
"""Number of trials up to which every bar is numbered."""
_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def cost(facts: Facts) -> str:
    """Return a table of sums and a timeline; empty before the first trial."""
    shown = [r for r in facts.records if r.started is not None]
    if not shown:
        return ""
    rows = [
        _cost_row(facts, state, [r for r in shown if r.state == state]) for state in _states(shown)
    ]
    rows.append(_cost_row(facts, "all", shown))
    names = ("", "trials", "iterations", "share", "time", "per trial", "s per iteration")
    top = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<div class="wide"><table class="sums"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Time is from a trial\'s start to its end. Each bar is a trial; point at '
        "it for its iterations and seconds.</p>"
        f'<div class="wide">{_timeline(facts, sorted(shown, key=lambda r: r.number))}</div>'
    )


def _cost_row(facts: Facts, name: str, records: Sequence[Trial]) -> str:
    spent = sum(r.iteration for r in records)
    every = sum(r.iteration for r in facts.records)
    seconds = sum(facts.seconds(r) or 0.0 for r in records)
    cells = (
        f"{len(records)}",
        f"{spent:,}",
        f"{spent / every:.0%}" if every else "–",
        short_time(seconds),
        short_time(seconds / len(records)),
        f"{seconds / spent:.3g}" if spent else "–",
    )
    mark = f'<span class="state {name}">{name}</span>' if name != "all" else "<b>all</b>"
    return f"<tr><td>{mark}</td>{''.join(f'<td class=number>{c}</td>' for c in cells)}</tr>"


def _timeline(facts: Facts, records: Sequence[Trial]) -> str:
    begin = min(r.started for r in records if r.started)
    spans = [_span(facts, r, begin, records) for r in records]
    last = max(end for _, end in spans) or 1.0
    unit, length = next(((u, s) for u, s in _UNITS if last >= 2 * s), _UNITS[-1])
    row = 14.0 if len(records) <= _ROWS else max(2.5, 480.0 / len(records))
    height = 14.0 + row * len(records) + 44.0
    x = Span(0.0, last / length, 62.0, _WIDTH - 20.0)
    parts = [
        across(
            x, height - 44, round_ticks(0, last / length), f"{unit} since {begin:%Y-%m-%d %H:%M}"
        )
    ]
    for place, (record, (start, end)) in enumerate(zip(records, spans, strict=True)):
        top = 10.0 + row * place
        left, right = x(start / length), x(end / length)
        told = f"trial {record.number}, {record.state}: {record.iteration:,} iterations"
        told += f", {end - start:,.0f} s"
        parts.append(
            element(
                "g",
                title(told),
                element(
                    "rect",
                    x=left,
                    y=top,
                    width=max(right - left, 1.5),
                    height=0.8 * row,
                    class_=f"bar {record.state}",
                ),
                class_="point",
                data_trial=record.number,
            )
        )
        if len(records) <= _ROWS or place % (len(records) // 20) == 0:
            parts.append(text(54.0, top + 0.4 * row + 4, str(record.number), class_="tick end"))
    told = f"When each of {len(records)} trials ran, over {short_time(last)}."
    return drawing(_WIDTH, height, told, *parts)


def _span(
    facts: Facts, record: Trial, begin: datetime, records: Sequence[Trial]
) -> tuple[float, float]:
    """Return (start, end) in seconds after `begin`; a running trial ends now."""
    assert record.started is not None
    if record.ended is not None:
        end = record.ended
    elif record.state == "running":
        end = facts.written
    else:  # the moment of an interruption is unknown: take the last known one of the study
        end = max(t for r in records for t in (r.started, r.ended) if t is not None)
    start = (record.started - begin).total_seconds()
    return start, max(start, (end - begin).total_seconds())


def _states(records: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(r.state for r in records))


# -- The head of a study's page: progress, results and settings --------------------------------

_DIGITS = 19
"""Number of characters shown of a data file's hash: its kind and the first digits."""


def head(facts: Facts) -> str:
    """Return the title, the state and key figures, and the settings of the study."""
    state = facts.state.partition(":")[0]
    chip = f'<span class="chip {escape(state)}">{escape(facts.state)}</span>'
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in _figures(facts)
    )
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _setup(facts)
    )
    moment = f"{facts.written:%Y-%m-%d %H:%M:%S}"
    fresh = "; it is kept up to date, open it again to see more" if state == "running" else ""
    return (
        f"<h1>Study {escape(facts.name)} {chip}</h1>"
        f'<p class="note">Written {moment}{fresh}.</p>'
        f'<div class="tiles">{tiles}</div><dl class="setup">{rows}</dl>'
    )


def saved_iterations(records: Sequence[Trial], whole: int) -> int:
    """Return the optimisation steps saved by pruning; a complete trial has `whole` of them.

    A pruned trial that was revived saved nothing.
    """
    revived = {r.revives for r in records}
    pruned = [r for r in records if r.state == "pruned" and r.number not in revived]
    return sum(max(0, whole - r.iteration) for r in pruned)


def _figures(facts: Facts) -> list[tuple[str, str]]:
    records, definition = facts.records, facts.opened.definition
    best = facts.best
    states = dict.fromkeys(r.state for r in records if r.state != "waiting")
    done = sum(r.state in FINISHED for r in records)
    spent = sum(r.iteration for r in records)
    seconds = sum(facts.seconds(r) or 0.0 for r in records)
    saved = saved_iterations(records, definition.steps * definition.seeds)
    pace = seconds / spent if spent else 0.0
    found = [
        ("best score", "none yet" if best is None else f"{best.score:.2f} (trial {best.number})"),
        ("trials finished", f"{done} of {definition.trials}"),
        *((state, str(sum(r.state == state for r in records))) for state in states),
        *([("wall time", short_time(facts.wall_seconds))] if facts.wall_seconds else []),
        ("trial time", short_time(seconds)),
        ("iterations", f"{spent:,}"),
    ]
    if saved:
        share = saved / (saved + spent)
        text = f"{saved:,} iterations, about {short_time(saved * pace)} ({share:.0%})"
        found.append(("saved by pruning", text))
    return found


def _setup(facts: Facts) -> list[tuple[str, str]]:
    definition, attributes = facts.opened.definition, facts.opened.study.user_attrs
    pruner, sampler = definition.pruner, definition.sampler
    rungs = ", ".join(f"{at:,}" for at in rung_iterations(pruner, definition.steps))
    judged = f", judges at iteration {rungs}" if rungs else ""
    seeds = f", {definition.seeds} seeds each" if definition.seeds > 1 else ""
    return [
        ("objective", f"{definition.objective}, the {definition.judge_by} validation counts"),
        ("trial", f"{definition.steps:,} steps, judged every {definition.report_every:,}{seeds}"),
        ("sampler", ", ".join([sampler.name, *_said(sampler.model_dump(exclude={"name"}))])),
        ("pruner", f"{pruner.name}{judged}"),
        ("data A", _data(definition.base.get("data_A"))),
        ("data B", _data(definition.base.get("data_B"))),
        ("data files", _hashes(attributes.get("data", {}))),
    ]


def _said(values: Mapping[str, Any]) -> list[str]:
    """Return the settings of a section as text."""
    plain = {k: v for k, v in values.items() if v is not None and not isinstance(v, dict | list)}
    return [f"{key.replace('_', ' ')} {value}" for key, value in plain.items()]


def _data(value: object) -> str:
    return "" if value is None else str(value)


def _hashes(known: Mapping[str, str]) -> str:
    return ", ".join(f"{PurePath(p).name} {h[:_DIGITS]}" for p, h in known.items()) or "not known"
