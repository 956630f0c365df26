"""What the page of a study tells, as plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cyclegan.errors import DataError
from search.study.definition import StudyDefinition
from search.study.importance import Importance, importance
from search.study.report.evidence import Evidence, Slices
from search.study.sessions import hours
from search.study.study import OpenStudy
from search.study.trials import TrialRecord, best_first, best_of, trial_records

_COMPARED = 4
"""Trials whose slices stand side by side."""
_WITH_PARTS = 30
"""Best trials whose scores are taken apart: each costs the store some questions, once."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A study at one moment."""

    opened: OpenStudy
    state: str
    """`running`, `finished`, `interrupted`, or `stopped: ` and an error."""
    records: Sequence[TrialRecord]
    """Best first."""
    importance: Importance | None = None
    no_importance: str = ""
    """Why there is none."""
    parts: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Parts of the score by trial."""
    slices: Sequence[Slices] = ()
    """Of the best trials, the best first."""
    experiment_id: str = ""
    wall_seconds: float = 0.0
    written: datetime = field(default_factory=datetime.now)

    @property
    def name(self) -> str:
        """Of the study."""
        return self.opened.definition.name

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest score."""
        return best_of(self.records)

    @property
    def ranks(self) -> dict[int, int]:
        """Rank by trial, of the complete ones."""
        done = [r for r in self.records if r.state == "complete" and r.score is not None]
        return {record.number: rank for rank, record in enumerate(done, start=1)}

    def seconds(self, record: TrialRecord) -> float | None:
        """From a trial's start to its end, or to now while it runs."""
        if record.state == "running" and record.started is not None:
            return max(0.0, (self.written - record.started).total_seconds())
        return record.seconds


def gather(opened: OpenStudy, evidence: Evidence | None, state: str) -> Facts:
    """What is known now; without `evidence` nothing that lies in MLflow.

    Errors: `CycleGANError` if the store fails, Optuna's if the study's storage does.
    """
    records = best_first(trial_records(opened))
    found, why = None, ""
    try:
        found = importance(opened)
    except DataError as error:
        # What to do about it is no advice to a study that runs.
        why = str(error).partition(";")[0] if state == "running" else str(error)
    now = time.time() if state == "running" else None
    known = [r for r in records if r.run_id and r.score is not None]
    done = [r for r in known if r.state == "complete"]
    at = {r.number: judged_iteration(r, opened.definition) for r in known}
    parts, slices = {}, []
    if evidence:
        parts = {r.number: evidence.parts(r.run_id, at[r.number]) for r in known[:_WITH_PARTS]}
        shown = sorted(done or known, key=lambda r: -(r.score or 0.0))[:_COMPARED]
        slices = [evidence.slices(r.number, r.run_id, at[r.number]) for r in shown]
    return Facts(
        opened=opened,
        state=state,
        records=records,
        importance=found,
        no_importance=why,
        parts=parts,
        slices=[one for one in slices if one is not None],
        experiment_id=evidence.experiment_id if evidence else "",
        wall_seconds=3600 * hours(opened.study.user_attrs, now),
    )


def judged_iteration(record: TrialRecord, definition: StudyDefinition) -> int:
    """The validation that a trial's score is from: see `search.study.objective.worth`.

    Over several seeds the score is a mean; then it is the one of the first training that counted.
    """
    if not record.curve:
        return record.iteration
    same = [at for at, score in record.curve if score == record.score]
    if same:
        return same[-1]
    last, since = record.curve[-1], definition.pruner.prune_after
    if definition.judge_by == "last":
        return last[0]
    counted = [point for point in record.curve if point[0] >= since]
    return max(counted, key=lambda point: point[1], default=last)[0]
