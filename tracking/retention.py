"""Decide which runs of the store can be deleted, from plain values without a connection.

A rule names runs that can be deleted; a guard keeps a run whatever the rules say. A `Plan` lists
the runs that the rules free and those that the guards keep.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from tracking.process import PROCESS
from tracking.run_lookup import RunInfo

RuleName = Literal["named", "deleted", "failed", "pruned", "worse"]
_DAY_MS = 24 * 3600 * 1000
_TEXT = (".yaml", ".yml", ".json", ".txt", ".md", ".csv")
# Outcomes that count as results, whatever their status in MLflow.
_RESULTS = ("completed", "pruned", "stopped")
_OURS = "cyclegan "


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules that name the runs to delete; the default names none."""

    named: frozenset[str] = frozenset()
    """Ids of runs that the user named."""
    deleted: bool = False
    """Runs deleted in the user interface."""
    failed_days: float | None = None
    """Runs that failed, were killed or interrupted, and ended more than so many days ago."""
    pruned: bool = False
    """Pruned trials."""
    keep_best: int | None = None
    """Ended trials, except the best so many complete ones of each study."""
    artifacts_only: bool = False
    """Free only the large files: the run stays, with its metrics, parameters and texts."""
    experiments: frozenset[str] | None = None
    """Experiments to look in; None: all."""
    others: bool = False
    """Include the runs of other programs."""


@dataclass(frozen=True, kw_only=True)
class StoredRuns:
    """The whole store as it is now, including deleted runs."""

    runs: Sequence[RunInfo]
    registered: Mapping[str, str]
    """Model versions that hold a run's generator, as text by run id."""
    is_alive: Callable[[str], bool | None]
    """Function that tells if the process of a name lives; see `tracking.process`."""
    now_ms: int
    unreachable: Mapping[str, str] = field(default_factory=dict)
    """Reasons why files can't be removed from here, by run id."""

    @cached_property
    def by_id(self) -> Mapping[str, RunInfo]:
        """All runs by id."""
        return {run.id: run for run in self.runs}

    @cached_property
    def trials(self) -> Mapping[tuple[str, str], RunInfo]:
        """Trials by study and number; if a trial began again in another run, the last one."""
        trials = (run for run in self.runs if kind_of(run) == "trial")
        return {_trial_of(run): run for run in sorted(trials, key=lambda run: run.start_ms)}

    @cached_property
    def children(self) -> Mapping[str, Sequence[RunInfo]]:
        """Runs that were not deleted, by the id of their parent."""
        found: defaultdict[str, list[RunInfo]] = defaultdict(list)
        for run in self.runs:
            if run.parent and not run.deleted:
                found[run.parent].append(run)
        return found

    @cached_property
    def promoted(self) -> Mapping[tuple[str, str], str]:
        """Promoted run that a trial became, by its study and number, and by ("", id)."""
        found = {}
        for run in self.runs:
            if run.tags.get("kind") == "promoted":
                found["", run.tags.get("promoted_from", "")] = run.name
                found[_trial_of(run)] = run.name
        found.pop(("", ""), None)
        return found

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Place of each ended trial in its study, by run id; the best complete one has 1."""
        studies: defaultdict[str, list[RunInfo]] = defaultdict(list)
        for run in self.runs:
            if kind_of(run) == "trial" and not run.deleted and trial_state(run):
                studies[run.experiment_id].append(run)
        return {
            run.id: place
            for trials in studies.values()
            for place, run in enumerate(sorted(trials, key=_rank), start=1)
        }

    def is_dead(self, run: RunInfo) -> bool:
        """Return True if a run is shown as RUNNING although its process is known to be gone."""
        return run.status == "RUNNING" and self.is_alive(run.tags.get(PROCESS, "")) is False

    def state(self, run: RunInfo) -> str:
        """Return a run's state: its outcome, `running`, or `dead` if its process is gone."""
        if run.status in ("RUNNING", "SCHEDULED"):
            return "dead" if self.is_dead(run) else run.status.lower()
        return run.tags.get("outcome", "").replace("running", "") or run.status.lower()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs to delete, and those that the guards keep."""

    free: Sequence[tuple[RunInfo, RuleName]] = ()
    """Runs to delete, each with its rule; children before their parents."""
    kept: Sequence[tuple[RunInfo, str]] = ()
    """Runs that a rule named, each with the reason why it stays."""
    artifacts_only: bool = False
    ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", frozenset(run.id for run, _ in self.free))


def plan(stored: StoredRuns, rules: Rules) -> Plan:
    """Apply `rules` and the guards to the store; a run also stays if a child of it stays."""
    chosen = [(run, rule) for run in stored.runs if (rule := rule_for(run, rules, stored))]
    reasons = {run.id: guard(run, stored, named=rule == "named") for run, rule in chosen}
    if not rules.artifacts_only:
        while True:  # a child that stays keeps its parent, and so on up
            free = {run.id for run, _ in chosen if not reasons[run.id]}
            staying = {run.id: below for run, _ in chosen if (below := _below(run, stored, free))}
            new = [key for key in staying if not reasons[key]]
            if not new:
                break
            reasons |= {key: staying[key] for key in new}
    return Plan(
        free=sorted(
            ((run, rule) for run, rule in chosen if not reasons[run.id]),
            key=lambda item: -_depth(item[0], stored),
        ),
        kept=[(run, reason) for run, _ in chosen if (reason := reasons[run.id])],
        artifacts_only=rules.artifacts_only,
    )


def rule_for(run: RunInfo, rules: Rules, stored: StoredRuns) -> RuleName | None:
    """Return the first rule by which a run can be deleted, ignoring the guards."""
    if run.id in rules.named:
        return "named"
    if not _in_scope(run, rules):
        return None
    if rules.deleted and run.deleted:
        return "deleted"
    if rules.failed_days is not None and _failed(run, stored, rules.failed_days):
        return "failed"
    trial = stored.trials.get(_trial_of(run)) if kind_of(run) in ("trial", "seed") else None
    if trial is None:
        return None
    if rules.pruned and trial_state(trial) == "pruned":
        return "pruned"
    if rules.keep_best is not None and _worse(trial, stored, rules.keep_best):
        return "worse"
    return None


def guard(run: RunInfo, stored: StoredRuns, *, named: bool = False) -> str | None:
    """Return the reason why a run stays whatever the rules say; None if it may be deleted.

    A run that became a trained model is deleted only after two decisions of a person: deleting it
    in the user interface and naming it here. With a version in the model registry it always stays.
    """
    if run.id in stored.registered:
        return f"its generator is registered as {stored.registered[run.id]}"
    if run.status in ("RUNNING", "SCHEDULED") and not stored.is_dead(run):
        process = run.tags.get(PROCESS, "")
        if stored.is_alive(process):
            return "it is running"
        where = process.partition("/")[0] or "an unknown host"
        return f"it may be running on {where}"
    if run.id in stored.unreachable:
        return stored.unreachable[run.id]
    if named and run.deleted:
        return None
    way_out = "; name it to delete it" if run.deleted else ""
    if kind_of(run) == "promoted":
        return f"it is a promoted training{way_out}"
    became = stored.promoted.get(("", run.id), run.tags.get("promoted_to"))
    if became is None and kind_of(run) in ("trial", "seed"):
        became = stored.promoted.get(_trial_of(run))
    return f"it became {became}{way_out}" if became else None


def is_large(path: str) -> bool:
    """Return True for an artifact that `artifacts_only` frees: all except texts."""
    return not path.lower().endswith(_TEXT)


def kind_of(run: RunInfo) -> str:
    """Return `study`, `trial`, `seed`, `confirm`, `promoted`, `train`, `enhance` or `""`."""
    return run.tags.get("kind", "")


def is_ours(run: RunInfo) -> bool:
    """Return True if this program made the run."""
    return run.tags.get("mlflow.source.name", "").startswith(_OURS) and bool(kind_of(run))


def score_of(run: RunInfo) -> float | None:
    """Return a run's score: a trial's value in its study, else the best score, else the last."""
    names = ("score/value", "score/best", "score")
    return next((run.metrics[name] for name in names if name in run.metrics), None)


def trial_state(run: RunInfo) -> str:
    """Return `complete`, `pruned` or `failed` for an ended trial; empty while it can continue."""
    state, outcome = run.tags.get("state", ""), run.tags.get("outcome", "")
    ended = {"completed": "complete", "stopped": "complete", "pruned": "pruned", "failed": "failed"}
    return state or (ended.get(outcome, "") if run.status != "RUNNING" else "")


def _rank(run: RunInfo) -> tuple[bool, float, int]:
    score = score_of(run)
    return trial_state(run) != "complete", math.inf if score is None else -score, run.start_ms


def _in_scope(run: RunInfo, rules: Rules) -> bool:
    inside = rules.experiments is None or run.experiment in rules.experiments
    return inside and (rules.others or is_ours(run))


def _failed(run: RunInfo, stored: StoredRuns, days: float) -> bool:
    ended = run.start_ms if run.end_ms is None else run.end_ms
    if stored.now_ms - ended < days * _DAY_MS or run.tags.get("outcome") in _RESULTS:
        return False
    return run.status in ("FAILED", "KILLED") or stored.is_dead(run)


def _worse(run: RunInfo, stored: StoredRuns, count: int) -> bool:
    return bool(trial_state(run)) and stored.places.get(run.id, math.inf) > count


def _below(run: RunInfo, stored: StoredRuns, free: set[str]) -> str | None:
    """Return the reason why children keep a run; None if they don't."""
    names = [child.name for child in stored.children.get(run.id, ()) if child.id not in free]
    if not names:
        return None
    shown = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
    return f"{len(names)} of its child runs would stay: {shown}"


def _depth(run: RunInfo, stored: StoredRuns) -> int:
    """Return the number of runs from its topmost parent down to itself."""
    seen = {run.id}
    while (above := stored.by_id.get(run.parent or "")) and above.id not in seen:
        seen.add(above.id)
        run = above
    return len(seen)


def _trial_of(run: RunInfo) -> tuple[str, str]:
    """Return study and number of the trial that a run is or belongs to."""
    return run.tags.get("study", ""), run.tags.get("trial", "")
