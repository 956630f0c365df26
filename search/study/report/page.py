"""The page of a study: one HTML document, readable without scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from search.study.definition import StudyDefinition
from search.study.figures.rungs import rung_iterations
from search.study.objective import is_minimised
from search.study.outlook import EARLIER
from search.study.report.facts import Facts
from search.study.report.panels import (
    FOLDER,
    cost,
    curves,
    front,
    history,
    importance,
    slices,
    trials,
    values,
)
from search.study.trials import FINISHED, Trial
from viz.html import render
from viz.units import short_time

Panel = Callable[[Facts], str]
"""Returns `Markup`; a plain text is escaped."""
PANELS: dict[str, Panel] = {
    "Trials": trials,
    "Best slices side by side": slices,
    "Pareto front": front,
    "Learning curves": curves,
    "Scores of all trials": history,
    "Importance": importance,
    "Score by searched value": values,
    "Cost": cost,
}
"""The panels below the head, in this order. An empty panel is left out."""
_log = logging.getLogger(__name__)


def study_page(facts: Facts) -> str:
    """Return the whole document. A panel that fails is replaced by its error, with a warning."""
    panels = []
    for title, panel in PANELS.items():
        try:
            content = panel(facts)
        except Exception as error:  # noqa: BLE001  (a picture must never hide the rest)
            _log.warning("report: %s can't be shown: %s: %s", title, type(error).__name__, error)
            content = f"This can't be shown: {error}"
        if content:
            panels.append((title, content))
    page = render(
        "study.html",
        FOLDER,
        title=f"Study {facts.name}",
        kind=facts.state.partition(":")[0],
        state=facts.state,
        written=f"{facts.written:%Y-%m-%d %H:%M:%S}",
        tiles=tiles(facts),
        setup=settings(facts),
        panels=panels,
    )
    return str(page)  # a `Markup` would escape what is added to it


_DIGITS = 19
"""Number of characters shown of a data file's hash: its kind and the first digits."""


def saved_iterations(records: Sequence[Trial], whole: int) -> int:
    """Return the optimisation steps saved by pruning; a complete trial has `whole` of them.

    A pruned trial that was revived saved nothing.
    """
    revived = {r.revives for r in records}
    pruned = [r for r in records if r.state == "pruned" and r.number not in revived]
    return sum(max(0, whole - r.iteration) for r in pruned)


def tiles(facts: Facts) -> list[tuple[str, str]]:
    """Return the key figures, each with its name."""
    records, definition = facts.records, facts.handle.definition
    best = facts.best
    states = dict.fromkeys(r.state for r in records if r.state != "waiting")
    done = sum(r.state in FINISHED for r in records)
    spent = sum(r.iteration for r in records)
    seconds = sum(r.seconds or 0.0 for r in records)
    saved = saved_iterations(records, definition.steps * definition.seeds)
    pace = seconds / spent if spent else 0.0
    found = [
        ("best score", "none yet" if best is None else f"{best.score:.2f} (trial {best.number})"),
        *_promotes(facts),
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


def _promotes(facts: Facts) -> list[tuple[str, str]]:
    """Return the trial that would be promoted, if it isn't that with the best score."""
    first, best = facts.to_promote, facts.best
    if first is None or best is None or first.number == best.number:
        return []
    return [("promote takes", f"trial {first.number} ({first.worth:.2f} expected)")]


def settings(facts: Facts) -> list[tuple[str, str]]:
    """Return the settings of the study, each with its name."""
    definition, attributes = facts.handle.definition, facts.handle.study.user_attrs
    pruner, sampler = definition.pruner, definition.sampler
    rungs = ", ".join(f"{at:,}" for at in rung_iterations(pruner, definition.steps))
    judged = f", judges at iteration {rungs}" if rungs else ""
    seeds = f", {definition.seeds} seeds each" if definition.seeds > 1 else ""
    hidden, why = {"name", "reason", "recorded_trials"}, _taken(sampler.reason)
    earlier = ["learns from trainings on other data"] if attributes.get(EARLIER) else []
    said = [sampler.name, *_said(sampler.model_dump(exclude=hidden)), *earlier]
    return [
        ("objective", f"{_aims(definition)}, the {definition.judge_by} validation counts"),
        ("trial", f"{definition.steps:,} steps, judged every {definition.report_every:,}{seeds}"),
        ("sampler", ", ".join(said) + why),
        ("pruner", f"{pruner.name}{judged}" + _taken(pruner.reason)),
        ("data A", _data(definition.base.get("data_A"))),
        ("data B", _data(definition.base.get("data_B"))),
        ("data files", _hashes(attributes.get("data", {}))),
    ]


def _aims(definition: StudyDefinition) -> str:
    if len(definition.objective) == 1:
        return definition.first_objective
    lower = (f"{name} (lower is better)" for name in definition.objective if is_minimised(name))
    return ", ".join([*(n for n in definition.objective if not is_minimised(n)), *lower])


def _taken(reason: str) -> str:
    return f" (auto: {reason})" if reason else ""


def _said(values: Mapping[str, Any]) -> list[str]:
    """Return the settings of a section as text."""
    plain = {k: v for k, v in values.items() if v is not None and not isinstance(v, dict | list)}
    return [f"{key.replace('_', ' ')} {value}" for key, value in plain.items()]


def _data(value: object) -> str:
    return "" if value is None else str(value)


def _hashes(known: Mapping[str, str]) -> str:
    return ", ".join(f"{PurePath(p).name} {h[:_DIGITS]}" for p, h in known.items()) or "not known"
