"""The tables of a comparison's page; empty if there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from tracking.retention import kind_of
from viz import units
from viz.html import macro
from viz.units import short_time
from workbench.compare.result import Comparison, MetricRow
from workbench.compare.runs import short_hash
from workbench.compare.text import number_text, value_text

_LONG = 120
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Names of columns, and rows."""


def part(name: str, *values: object) -> Markup:
    """Return what a macro of `panels.html` makes of values."""
    return macro(name, "panels.html", Path(__file__).parent, *values)


def runs(found: Comparison) -> str:
    """Return a table of the runs: name, id, kind, outcome, score, steps, time and reason."""
    names = ("", "run", "id", "kind", "outcome", "score", "steps", "time", "why it ended")
    rows = [
        [
            part("chip", run.number),
            run.info.name,
            part("code", run.info.id[:8], run.info.id),
            kind_of(run.info),
            run.outcome,
            "–" if run.score is None else f"{run.score:.2f}",
            "–" if run.steps is None else f"{run.steps:,}",
            short_time(run.seconds),
            run.reason[:400],
        ]
        for run in found.runs
    ]
    return part("table", (names, rows))


def parameters(found: Comparison) -> str:
    """Return tables of the parameters and the environment that differ."""
    tables = [
        _values(found, group.values, what)
        for what, group in (("parameter", found.parameters), ("made with", found.environment))
        if group.values
    ]
    same = units.count(found.parameters.same, "parameter")
    return part("parameters", tables, bool(found.parameters.values), same)


def data(found: Comparison) -> str:
    """Return a table of the data that each run was judged on."""
    told = {True: "the same", False: part("bold", "different"), None: "not known"}
    rows = [
        [
            name,
            told[found.data.equal(name)],
            *(units.shortened(short_hash(value), 40) for value in values),
        ]
        for name, values in found.data.hashes.items()
    ]
    return part("table", (("data", "", *_numbers(found)), rows)) if rows else ""


def metrics(found: Comparison) -> str:
    """Return tables of the score that counts and its parts, and of all metrics at the end."""
    if not found.judged and not found.last:
        return ""
    judged = _metric_table(found, found.judged) if found.judged else None
    return part("metrics", judged, _metric_table(found, found.last))


def missing(found: Comparison) -> str:
    """Return a list of what could not be compared, with the reasons."""
    return part("missing", found.images.remarks) if found.images.remarks else ""


def chips(numbers: Sequence[int]) -> list[Markup]:
    """Return the numbers of runs in their colours."""
    return [part("chip", number) for number in numbers]


def _values(found: Comparison, values: Mapping[str, Sequence[str | None]], what: str) -> Table:
    rows = [[name, *map(_value, row)] for name, row in sorted(values.items())]
    return (what, *_numbers(found)), rows


def _value(value: str | None) -> str:
    if value is None:
        return "–"
    return part("value", units.shortened(value_text(value), _LONG), value)


def _metric_table(found: Comparison, rows: Sequence[MetricRow]) -> Table:
    lines = [
        [
            row.name,
            *(
                part("bold", number_text(value)) if i in row.best else number_text(value)
                for i, value in enumerate(row.values)
            ),
        ]
        for row in rows
    ]
    return ("metric", *_numbers(found)), lines


def _numbers(found: Comparison) -> list[Markup]:
    return chips([run.number for run in found.runs])
