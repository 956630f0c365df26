"""A study's trials with everything that tables, exports and figures show of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from search.study.study import OpenStudy, TrialSummary

FINISHED = ("complete", "pruned", "failed")
_ORDER = ("complete", "pruned", "running", "interrupted", "failed", "waiting")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial. What it does not have is None, empty or 0."""

    number: int
    state: str
    score: float | None
    """Of a complete trial its result, else the last score reported; None if not finite."""
    step: int
    iteration: int
    """Optimisation steps computed; a rollback rewinds the step but not this."""
    seconds: float | None
    """From its start to its end, with the time in between in which it was interrupted."""
    values: Mapping[str, Any]
    """By searched key."""
    curve: Sequence[tuple[int, float]]
    """The scores reported: (iteration, score), finite ones only."""
    reason: str
    run_id: str
    verdict: Mapping[str, Any]
    seeds: Sequence[Mapping[str, Any]]
    origin: Mapping[str, Any]
    deaths: int
    """Of the process that trained it, since its last progress."""
    revives: int | None
    started: datetime | None
    ended: datetime | None
    distributions: Mapping[str, BaseDistribution]
    """What the values were drawn from."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "number": self.number,
            "state": self.state,
            "score": self.score,
            "step": self.step,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "started": None if self.started is None else self.started.isoformat(),
            "values": dict(self.values),
            "reason": self.reason,
            "run_id": self.run_id,
            "verdict": dict(self.verdict),
            "seeds": [dict(seed) for seed in self.seeds],
            "origin": dict(self.origin),
            "deaths": self.deaths,
            "revives": self.revives,
            "curve": [list(point) for point in self.curve],
        }


def trial_records(opened: OpenStudy) -> list[TrialRecord]:
    """All trials of a study, by number."""
    frozen = opened.study.get_trials(deepcopy=False)
    # A trial that is started between the two readings is left out.
    return [_record(s, f) for s, f in zip(opened.trials(), frozen, strict=False)]


def best_first(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """By state, complete ones first, then by score."""

    def rank(record: TrialRecord) -> tuple[int, float, int]:
        order = _ORDER.index(record.state) if record.state in _ORDER else len(_ORDER)
        return order, math.inf if record.score is None else -record.score, record.number

    return sorted(records, key=rank)


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest score, if there is one."""
    ranked = best_first(r for r in records if r.state == "complete" and r.score is not None)
    return ranked[0] if ranked else None


def searched_keys(records: Iterable[TrialRecord], declared: Iterable[str] = ()) -> list[str]:
    """The keys of all trials' values: a space may differ from trial to trial."""
    return list(dict.fromkeys([*declared, *(key for r in records for key in r.values)]))


def declared_keys(space: object) -> list[str]:
    """The keys of a space that is written down; none of one that a function makes up."""
    return list(space) if isinstance(space, Mapping) else []


def _record(summary: TrialSummary, frozen: FrozenTrial) -> TrialRecord:
    attrs, reported = frozen.user_attrs, frozen.intermediate_values
    return TrialRecord(
        number=summary.number,
        state=summary.state,
        score=_finite(summary.score),
        step=summary.step,
        iteration=int(attrs.get("iteration", max(reported, default=summary.step))),
        seconds=summary.seconds,
        values=summary.values,
        curve=[(i, v) for i, v in sorted(reported.items()) if math.isfinite(v)],
        reason=summary.reason,
        run_id=summary.run_id,
        verdict=attrs.get("verdict") or {},
        seeds=attrs.get("seeds") or (),
        origin=attrs.get("origin") or {},
        deaths=int(attrs.get("deaths", {}).get("count", 0)),
        revives=attrs.get("revives"),
        started=frozen.datetime_start,
        ended=frozen.datetime_complete,
        distributions=frozen.distributions,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
