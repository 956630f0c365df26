"""The tables of a comparison's page, as HTML; empty if there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tracking.retention import kind_of
from viz import units
from viz.html import table
from viz.plots import chip
from viz.units import short_time
from workbench.compare.parameters import short_hash
from workbench.compare.result import Comparison, MetricRow
from workbench.compare.text import number_text, value_text

_LONG = 120


def runs(found: Comparison) -> str:
    """Return a table of the runs: name, id, kind, outcome, score, steps, time and reason."""
    names = ("", "run", "id", "kind", "outcome", "score", "steps", "time", "why it ended")
    rows = [
        [
            chip(run.number),
            escape(run.info.name),
            f'<code title="{escape(run.info.id)}">{escape(run.info.id[:8])}</code>',
            escape(kind_of(run.info)),
            escape(run.outcome),
            "–" if run.score is None else f"{run.score:.2f}",
            "–" if run.steps is None else f"{run.steps:,}",
            short_time(run.seconds),
            escape(run.reason[:400]),
        ]
        for run in found.runs
    ]
    return table(names, rows)


def parameters(found: Comparison) -> str:
    """Return tables of the parameters and the environment that differ."""
    count = units.count(found.parameters.same, "parameter")
    tables = [
        _values(found, group.values, what)
        for what, group in (("parameter", found.parameters), ("made with", found.environment))
        if group.values
    ]
    if not found.parameters.values:
        tables.insert(0, "<p>No parameter differs.</p>")
    return "".join(tables) + f'<p class="note">The same in all runs: {count}.</p>'


def data(found: Comparison) -> str:
    """Return a table of the data that each run was judged on."""
    told = {True: "the same", False: "<b>different</b>", None: "not known"}
    rows = [
        [
            escape(name),
            told[found.data.equal(name)],
            *(escape(units.shortened(short_hash(value), 40)) for value in values),
        ]
        for name, values in found.data.hashes.items()
    ]
    return table(("data", "", *_numbers(found)), rows) if rows else ""


def metrics(found: Comparison) -> str:
    """Return tables of the score that counts and its parts, and of all metrics at the end."""
    if not found.judged and not found.last:
        return ""
    last = _metric_table(found, found.last)
    if not found.judged:
        return f'<p class="note">Bold: the best.</p>{last}'
    return (
        '<p class="note">Bold: the best. Parts are those of the validation that counted.</p>'
        f"{_metric_table(found, found.judged)}"
        f"<details><summary>Every metric at the end</summary>{last}</details>"
    )


def missing(found: Comparison) -> str:
    """Return a list of what could not be compared, with the reasons."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.images.remarks)
    return f"<ul>{lines}</ul>" if lines else ""


def _values(found: Comparison, values: Mapping[str, Sequence[str | None]], what: str) -> str:
    rows = [
        [escape(name), *(_value(value) for value in row)] for name, row in sorted(values.items())
    ]
    return table((what, *_numbers(found)), rows)


def _value(value: str | None) -> str:
    if value is None:
        return "–"
    return (
        f'<span title="{escape(value)}">{escape(units.shortened(value_text(value), _LONG))}</span>'
    )


def _metric_table(found: Comparison, rows: Sequence[MetricRow]) -> str:
    lines = [
        [
            escape(row.name),
            *(
                f"<b>{number_text(value)}</b>" if i in row.best else number_text(value)
                for i, value in enumerate(row.values)
            ),
        ]
        for row in rows
    ]
    return table(("metric", *_numbers(found)), lines)


def _numbers(found: Comparison) -> list[str]:
    return [chip(run.number) for run in found.runs]
