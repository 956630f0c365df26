"""Studies as text tables and as plain values."""

from __future__ import annotations

from typing import Any

from cyclegan.errors import DataError
from search.study.opened import OpenStudy, TrialSummary
from search.table import table


def study_data(opened: OpenStudy) -> dict[str, Any]:
    """A study and its trials as plain values."""
    trials = opened.trials()
    finished = [t for t in trials if t.state in ("complete", "pruned", "failed")]
    return {
        "study": opened.definition.name,
        "trials_wanted": opened.definition.trials,
        "trials_finished": len(finished),
        "best": _best_or_none(opened),
        "trials": [vars(t) | {"values": dict(t.values)} for t in trials],
    }


def one_line(opened: OpenStudy) -> str:
    """Name, progress and best score."""
    data = study_data(opened)
    best = data["best"]
    score = f"best score {best['score']:.2f} (trial {best['number']})" if best else "no result yet"
    return f"{data['study']}: {data['trials_finished']} of {data['trials_wanted']} trials, {score}"


def study_table(opened: OpenStudy) -> str:
    """All trials, best score first, with why a trial was pruned below."""
    trials = sorted(opened.trials(), key=_rank)
    keys = list(opened.definition.space)
    header = ["trial", "state", "step", "score", *keys]
    rows = [
        [str(t.number), t.state, str(t.step), _number(t.score), *(_value(t, k) for k in keys)]
        for t in trials
    ]
    lines = [one_line(opened), "", table(header, rows)]
    reasons = [f"  trial {t.number} {t.state}: {t.reason}" for t in trials if t.reason]
    return "\n".join([*lines, *(["", *reasons] if reasons else [])])


def best_text(opened: OpenStudy) -> str:
    """The best trial and its values."""
    best = opened.best()
    values = "\n".join(f"  {key} = {_value(best, key)}" for key in opened.definition.space)
    return f"trial {best.number}, score {_number(best.score)}\n{values}"


def _rank(trial: TrialSummary) -> tuple[int, float, int]:
    order = {"complete": 0, "pruned": 1}.get(trial.state, 2)
    return order, -(trial.score if trial.score is not None else float("-inf")), trial.number


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _value(trial: TrialSummary, key: str) -> str:
    value = trial.values.get(key, "")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _best_or_none(opened: OpenStudy) -> dict[str, Any] | None:
    try:
        best = opened.best()
    except DataError:
        return None
    return vars(best) | {"values": dict(best.values)}
