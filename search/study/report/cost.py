"""What a study took: iterations and time by state, and when each trial ran."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from search.study.report.facts import Facts
from search.study.trials import TrialRecord
from viz.svg import Span, across, drawing, element, round_ticks, text, title
from viz.units import short_time

_WIDTH = 980
_ROWS = 40
"""Trials up to which every bar bears its number."""
_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def cost(facts: Facts) -> str:
    """A table of sums and a timeline; nothing before the first trial."""
    shown = [r for r in facts.records if r.started is not None]
    if not shown:
        return ""
    rows = [_row(facts, state, [r for r in shown if r.state == state]) for state in _states(shown)]
    rows.append(_row(facts, "all", shown))
    names = ("", "trials", "iterations", "share", "time", "per trial", "s per iteration")
    top = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<div class="wide"><table class="sums"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Time is from a trial\'s start to its end. Each bar is a trial; point at '
        "it for its iterations and seconds.</p>"
        f'<div class="wide">{_timeline(facts, sorted(shown, key=lambda r: r.number))}</div>'
    )


def _row(facts: Facts, name: str, records: Sequence[TrialRecord]) -> str:
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


def _timeline(facts: Facts, records: Sequence[TrialRecord]) -> str:
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
    facts: Facts, record: TrialRecord, begin: datetime, records: Sequence[TrialRecord]
) -> tuple[float, float]:
    """(start, end) in seconds after `begin`; what has no end lasts until now."""
    assert record.started is not None
    if record.ended is not None:
        end = record.ended
    elif record.state == "running":
        end = facts.written
    else:  # nobody knows when it was interrupted: until the last thing known of the study
        end = max(t for r in records for t in (r.started, r.ended) if t is not None)
    start = (record.started - begin).total_seconds()
    return start, max(start, (end - begin).total_seconds())


def _states(records: Sequence[TrialRecord]) -> list[str]:
    return list(dict.fromkeys(r.state for r in records))
