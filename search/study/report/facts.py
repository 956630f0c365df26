"""The contents of a study's page as plain values, gathered from the study and from MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cyclegan.errors import DataError
from search.study.definition import StudyDefinition
from search.study.importance import Importance, importance
from search.study.lease import hours
from search.study.study import StudyHandle
from search.study.trials import Trial, best_first, best_of, selected, worth_promoting
from tracking.views import CYCLE_PICTURES
from viz.html import address
from viz.pictures import Picture, cut_six

if TYPE_CHECKING:
    from tracking import Run, Store


_COMPARED = 4
"""Number of trials whose slices are shown side by side."""
_WITH_PARTS = 30
"""Number of best trials for which the parts of the score are shown; each costs a few queries,
once."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A study at one moment, as its page shows it."""

    handle: StudyHandle
    state: str
    """`running`, `finished`, `interrupted`, or `stopped: ` with an error."""
    records: Sequence[Trial]
    """The trials, the best first."""
    importance: Importance | None = None
    no_importance: str = ""
    """Reason why there is no importance."""
    parts: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Parts of the score by trial."""
    slices: Sequence[Slices] = ()
    """Slices of the best trials, the best first."""
    experiment_id: str = ""
    wall_seconds: float = 0.0
    written: datetime = field(default_factory=datetime.now)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.handle.definition.name

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest score."""
        return best_of(self.records)

    @cached_property
    def shown(self) -> Sequence[Trial]:
        """The trials in the page's tables and pictures: of thousands, a selection."""
        return selected(self.records)

    @property
    def to_promote(self) -> Trial | None:
        """The trial that would be promoted."""
        return next(iter(worth_promoting(self.records)), None)

    @cached_property
    def ranks(self) -> dict[int, int]:
        """Rank of each complete trial, by its number."""
        done = [r for r in self.records if r.state == "complete" and r.score is not None]
        return {record.number: rank for rank, record in enumerate(done, start=1)}


def gather(handle: StudyHandle, evidence: Evidence | None, state: str) -> Facts:
    """Gather the current facts; without `evidence`, leave out everything that lies in MLflow.

    Errors: `CycleGANError` if the store fails; Optuna's errors if the study's storage fails.
    """
    records = best_first(handle.trials_and_chances())
    found, why = None, ""
    try:
        found = importance(handle)
    except DataError as error:
        # The advice in the second part of the message is not meant for a running study.
        why = str(error).partition(";")[0] if state == "running" else str(error)
    known = [r for r in records if r.run_id and r.score is not None]
    done = [r for r in known if r.state == "complete"]
    at = {r.number: judged_iteration(r, handle.definition) for r in known}
    parts, slices = {}, []
    if evidence:
        parts = {r.number: evidence.parts(r.run_id, at[r.number]) for r in known[:_WITH_PARTS]}
        shown = sorted(done or known, key=lambda r: -(r.score or 0.0))[:_COMPARED]
        slices = [evidence.slices(r.number, r.run_id, at[r.number]) for r in shown]
    return Facts(
        handle=handle,
        state=state,
        records=records,
        importance=found,
        no_importance=why,
        parts=parts,
        slices=[one for one in slices if one is not None],
        experiment_id=evidence.experiment_id if evidence else "",
        wall_seconds=3600 * hours(handle.study.user_attrs),
    )


def judged_iteration(record: Trial, definition: StudyDefinition) -> int:
    """Return the iteration of the validation that gave a trial its score.

    The score of several seeds is a mean; then this is the validation of the first training that
    counted. See `search.study.judging.score_of_reports`.
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


# -- Data from the trials' MLflow runs: parts of scores, and slices ----------------------------
#
# They come from the store, not from `results/`: the pictures of trials on other hosts are only
# there. Values are read once and cached, since they no longer change.

PARTS = {
    "score/pseudo_pair_gain_db": "gain / dB",
    "score/spectrum_distance_db": "spectrum / dB",
    "score/sliced_wasserstein": "SWD",
    "score/shell_gain": "shells",
    "score/checkerboard": "checkerboard",
}
"""Metrics that make up the score, and their labels on the page."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The six images of a trial's validation, each as a `data:` address by name."""

    trial: int
    iteration: int
    images: Mapping[str, str]
    whole: str
    """The whole picture with titles, as a `data:` address."""
    real_A: bytes
    """Pixels of the input: trials with equal inputs can be compared directly."""


class Evidence:
    """Reads from the runs of one study. All methods raise `CycleGANError` if the store fails."""

    def __init__(self, store: Store, parent: str) -> None:
        self.store = store
        self.parent: Run = store.run(parent)
        self._runs: dict[str, Run | None] = {}
        self._parts: dict[tuple[str, int], dict[str, float]] = {}
        self._slices: dict[tuple[str, int], Slices] = {}

    @property
    def experiment_id(self) -> str:
        """MLflow experiment of the study and its trials."""
        return self.parent.experiment_id

    def parts(self, run_id: str, iteration: int) -> Mapping[str, float]:
        """Return the parts of a run's score at `iteration`; empty if the run has none."""
        run, key = self._run(run_id), (run_id, iteration)
        if run is None:
            return {}
        if not self._parts.get(key):  # the outbox may be behind, so an empty result is retried
            found = {name: run.history(name).get(iteration) for name in PARTS}
            self._parts[key] = {n: value for n, value in found.items() if value is not None}
        return self._parts[key]

    def slices(self, trial: int, run_id: str, iteration: int) -> Slices | None:
        """Return the six images at `iteration`, or else of the last validation before it."""
        run, key = self._run(run_id), (run_id, iteration)
        if run is None:
            return None
        if key not in self._slices:
            steps = [step for step in run.image_steps(CYCLE_PICTURES) if step <= iteration]
            picture = run.image(CYCLE_PICTURES, max(steps)) if steps else None
            if picture is None:
                return None
            self._slices[key] = _cut(trial, max(steps), picture)
        return self._slices[key]

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            try:
                self._runs[run_id] = self.store.run(run_id)
            except DataError:  # deleted, or of another store
                self._runs[run_id] = None
        return self._runs[run_id]


def _cut(trial: int, iteration: int, picture: Picture) -> Slices:
    images = cut_six(picture)
    return Slices(
        trial=trial,
        iteration=iteration,
        images={name: address(images[name], lossless=True) for name in _SHOWN},
        whole=address(picture),
        real_A=np.ascontiguousarray(images["real_A"]).tobytes(),
    )


_SHOWN = ("real_A", "fake_B", "real_B")
