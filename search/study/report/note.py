"""The best trials as a table for the description of a study's run, where links work by a click."""

from __future__ import annotations

from search.study.report.facts import Facts
from search.study.report.tables import run_name
from search.study.trials import declared_keys, searched_keys
from tracking.views import link_between_runs
from viz.names import short_names, short_text
from viz.units import short_time

BEGIN = "| Rank |"
"""How the table begins, by which it is found again."""
_ROWS = 10
_KEYS = 6


def best_table(facts: Facts) -> str:
    """Markdown after `BEGIN`; empty while no trial has a run and a score."""
    shown = [r for r in facts.records if r.run_id and r.score is not None][:_ROWS]
    if not shown:
        return ""
    keys = searched_keys(shown, declared_keys(facts.opened.definition.space))[:_KEYS]
    names = short_names(keys)
    columns = ["trial", "state", "score", *(names[key] for key in keys), "iterations", "time"]
    lines = [" | ".join(map(_cell, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    for record in shown:
        link = link_between_runs(facts.experiment_id, record.run_id)
        cells = [
            str(facts.ranks.get(record.number, "")),
            f"[{_cell(run_name(facts, record))}]({link})",
            record.state,
            f"{record.score:.2f}",
            *(_cell(short_text(record.values.get(key, ""))) for key in keys),
            f"{record.iteration:,}",
            short_time(record.seconds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that ends no cell and begins no markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>|" else c for c in text)
