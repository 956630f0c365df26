"""Trials of a study as plain values, and the one rule for ranking them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from cyclegan.numbers import finite_or_none
from cyclegan.score import GATED
from search.study.lease import is_held
from search.study.objective import is_minimised

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
SECONDS = "seconds"
"""User attribute: the seconds that workers spent on the trial, by a clock that nobody sets."""
REVIVES = "revives"
"""User attribute of a trial: the number of the trial that it continues."""
INTERRUPTIONS = "interruptions"
"""User attribute: how often a worker continued the trial that another one had left."""
KEPT = "kept"
"""User attribute of a trial that a person has thawed: nothing pauses it again."""
PAUSED = "paused"
"""User attribute of a paused trial: the verdict that paused it, as `Verdict.as_dict` returns it;
else empty or missing."""
MOST_SHOWN = 500
"""Most trials in a picture or a page, which a browser must be able to show."""
FINISHED = ("complete", "pruned", "failed")
_ORDER = ("complete", "pruned", "paused", "running", "interrupted", "failed", "waiting")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a study. Missing values are None, empty or 0."""

    number: int
    state: str
    """`complete pruned failed running waiting`, `paused`: it waits until its next steps are worth
    more than those of others, or `interrupted`: begun, but no worker trains it now."""
    score: float | None
    """Result of a complete trial; of any other, the score of its reports so far. None if it is
    not finite."""
    expected: float | None = None
    """Score that a complete trial is expected to have in the mean of many seeds; None if that was
    not asked for, or too little is known."""
    step: int = 0
    iteration: int = 0
    """Optimisation steps computed so far, as of the last report while it runs. A rollback
    rewinds the step but not this."""
    seconds: float | None = None
    """Seconds that workers spent on it, as of the last validation while it runs. For a trial of an
    earlier version the seconds from start to end, including any interruption."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """Values of a complete trial by objective, if the study has several."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Values by searched key."""
    curve: Sequence[tuple[int, float]] = ()
    """Reported (iteration, score) pairs with a finite score."""
    reason: str = ""
    """Reason why it was pruned, stopped or failed."""
    run_id: str = ""
    """Id of its MLflow run."""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    """The pruner's decision as numbers."""
    seeds: Sequence[Mapping[str, Any]] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    deaths: int = 0
    """Number of times the process that trained it has died since its last progress."""
    interruptions: int = 0
    """Number of times that a worker continued it after another one had left it."""
    revives: int | None = None
    """Number of the pruned trial that it continues."""
    started: datetime | None = None
    ended: datetime | None = None
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    """Distributions from which the values were drawn."""

    @property
    def worth(self) -> float:
        """Score that is expected of the trial, else its own; minus infinity if it has neither."""
        known = self.score if self.expected is None else self.expected
        return -math.inf if known is None else known

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as plain values for JSON."""
        return {
            "number": self.number,
            "state": self.state,
            "score": self.score,
            **({} if self.expected is None else {"expected": self.expected}),
            **({"objectives": dict(self.objectives)} if self.objectives else {}),
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
            "interruptions": self.interruptions,
            "revives": self.revives,
            "curve": [list(point) for point in self.curve],
        }


def trials_of(
    frozen: Iterable[FrozenTrial],
    score_of_reports: Callable[[Mapping[int, float]], float | None],
    folder: Path,
    objectives: Sequence[str] = (),
) -> list[Trial]:
    """Return the trials of a study, by number.

    Args:
        frozen: the trials as Optuna stores them.
        worth: gives the score for the reports (by iteration) of an unfinished trial.
        folder: the study's folder, whose lock files show which running trials have a worker.
        objectives: the names of the study's objectives.
    """
    return [_trial(one, score_of_reports, folder, objectives) for one in frozen]


def first_value(frozen: FrozenTrial) -> float | None:
    """Return a trial's value by the first objective; None if it has none."""
    return frozen.values[0] if frozen.values else None


def front_of(records: Iterable[Trial]) -> list[Trial]:
    """Return the complete trials that no other beats by every objective, the best first.

    They are the Pareto front of a study with several objectives; of one with a single objective,
    nothing. Unusable generators are left out, however fast.
    """
    known = [r for r in complete(records) if r.objectives and (r.score or 0.0) > GATED]
    return [r for r in known if not any(dominates(other, r) for other in known)]


def dominates(one: Trial, other: Trial) -> bool:
    """Return True if `one` is at least as good by every objective, and better by one."""
    pairs = [
        (-one.objectives[name], -value) if is_minimised(name) else (one.objectives[name], value)
        for name, value in other.objectives.items()
    ]
    return all(mine >= its for mine, its in pairs) and any(mine > its for mine, its in pairs)


def best_first(records: Iterable[Trial]) -> list[Trial]:
    """Return the trials sorted by state, complete ones first, and then by score."""

    def rank(record: Trial) -> tuple[int, float, int]:
        order = _ORDER.index(record.state) if record.state in _ORDER else len(_ORDER)
        return order, math.inf if record.score is None else -record.score, record.number

    return sorted(records, key=rank)


def best_of(records: Iterable[Trial]) -> Trial | None:
    """Return the complete trial with the highest score, if there is one."""
    ranked = complete(records)
    return ranked[0] if ranked else None


def complete(records: Iterable[Trial]) -> list[Trial]:
    """Return the complete trials that have a score, the best first."""
    return best_first(r for r in records if r.state == "complete" and r.score is not None)


def worth_promoting(records: Iterable[Trial]) -> list[Trial]:
    """Return the complete trials in the order in which they are worth promoting.

    The first one is expected to have the highest score in the mean of many seeds. For a trial of
    which too little is known for that, its own score stands.
    """
    return sorted(complete(records), key=lambda trial: -trial.worth)


def selected(records: Sequence[Trial], most: int = MOST_SHOWN) -> list[Trial]:
    """Return at most `most` of the trials, in the same order, for pictures and tables.

    Two in five are the best ones, up to one in five the unfinished ones, and the rest are evenly
    many of the others.
    """
    if len(records) <= most:
        return list(records)
    over = best_first(r for r in records if r.state in FINISHED)
    unfinished = [r.number for r in records if r.state not in FINISHED][: most // 5]
    kept = {r.number for r in over[: 2 * most // 5]} | set(unfinished)
    others = sorted(r.number for r in over if r.number not in kept)
    room = min(most - len(kept), len(others))
    kept |= {others[at * len(others) // room] for at in range(room)}
    return [record for record in records if record.number in kept]


def searched_keys(records: Iterable[Trial], declared: Iterable[str] = ()) -> list[str]:
    """Return the keys of all trials' values: a space may differ from trial to trial."""
    return list(dict.fromkeys([*declared, *(key for r in records for key in r.values)]))


def declared_keys(space: object) -> list[str]:
    """Return the keys that a space declares; none for a space that is a function."""
    return list(space) if isinstance(space, Mapping) else []


def _trial(
    frozen: FrozenTrial,
    score_of_reports: Callable[[Mapping[int, float]], float | None],
    folder: Path,
    objectives: Sequence[str],
) -> Trial:
    attrs, reported = frozen.user_attrs, frozen.intermediate_values
    # To a pruned trial Optuna gives its last report as its value, whatever counts here.
    known = first_value(frozen) if frozen.state == TrialState.COMPLETE else None
    several = frozen.values if known is not None and len(objectives) > 1 else []
    last = max(reported, default=0)
    return Trial(
        number=frozen.number,
        state=_state(frozen, folder),
        score=finite_or_none(score_of_reports(reported) if known is None else known),
        step=int(attrs.get("step", last)),
        iteration=int(attrs.get("iteration", last)),
        seconds=_seconds(frozen),
        objectives=dict(zip(objectives, several, strict=False)),
        values=frozen.params,
        curve=[(i, v) for i, v in sorted(reported.items()) if math.isfinite(v)],
        reason=attrs.get("reason", ""),
        run_id=attrs.get("mlflow_run_id", ""),
        verdict=attrs.get("verdict") or {},
        seeds=attrs.get("seeds") or (),
        origin=attrs.get("origin") or {},
        deaths=int(attrs.get("deaths", {}).get("count", 0)),
        interruptions=int(attrs.get(INTERRUPTIONS, 0)),
        revives=attrs.get("revives"),
        started=frozen.datetime_start,
        ended=frozen.datetime_complete,
        distributions=frozen.distributions,
    )


def _seconds(frozen: FrozenTrial) -> float | None:
    measured = frozen.user_attrs.get(SECONDS)
    if measured is not None:
        return float(measured)
    # The difference of two times of day: negative if the clock was set back in between.
    return max(0.0, frozen.duration.total_seconds()) if frozen.duration else None


def _state(frozen: FrozenTrial, folder: Path) -> str:
    if frozen.state == TrialState.RUNNING and not is_held(frozen, folder):
        return "paused" if frozen.user_attrs.get(PAUSED) else "interrupted"
    return STATES[frozen.state]
