"""The lambdas and learning rates that a trial found while it trained, for its promotion.

A trial with the rollback optimizer changes them on its way: what it ended well with is a schedule,
not a set of values. Its log (`Trainer.hparam_log`) also tells of ways that were given up; what
counts is the path that survived, on the axis of the training step, which a rollback rewinds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cyclegan import state as states
from cyclegan.callbacks import Callback
from cyclegan.checkpoints import newest_checkpoint
from cyclegan.errors import CycleGANError, DataError
from cyclegan.trainer import HParamChange, RollbackEvent, Trainer
from search.launch import RECORD_NAME, SAVE_FOLDER

if TYPE_CHECKING:
    from tracking import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is set at the end of training step `step`."""

    step: int
    reason: str
    values: Mapping[str, float]


Schedule = tuple[Change, ...]


def surviving_path(log: Iterable[HParamChange]) -> Schedule:
    """The changes that led to where a training ended, at most one a step, by rising step.

    A change logged at step t after others at later steps stands for a rollback to t: these were
    discarded. At the same step the later change is added to the earlier one.
    """
    path: list[Change] = []
    for entry in log:
        path = [change for change in path if change.step <= entry.step]
        values = dict(entry.changes)
        if path and path[-1].step == entry.step:
            values = {**path.pop().values, **values}
        path.append(Change(step=entry.step, reason=entry.reason, values=values))
    return tuple(path)


def without(schedule: Schedule, names: Collection[str]) -> Schedule:
    """The schedule for a training that was asked to have other values of `names`."""
    left = [
        Change(
            step=change.step,
            reason=change.reason,
            values={n: value for n, value in change.values.items() if n not in names},
        )
        for change in schedule
    ]
    return tuple(change for change in left if change.values)


def schedule_of(folder: Path, run: Run | None) -> Schedule:
    """The schedule of the training in `folder`, from its checkpoint.

    Checkpoints may have been removed since; then the rollbacks recorded in MLflow tell the same.

    Errors: `DataError` if it changed its values and neither says how.
    """
    checkpoint = newest_checkpoint(folder / SAVE_FOLDER)
    if checkpoint is not None:
        state = states.load(checkpoint, formats=(states.CHECKPOINT_FORMAT,))
        return surviving_path(HParamChange(**entry) for entry in state["hparam_log"])
    record = folder / RECORD_NAME
    if record.is_file() and not json.loads(record.read_text(encoding="utf-8")).get("rollbacks"):
        return ()
    try:
        if run is None:
            raise DataError("its MLflow run is in another store")
        events = json.loads(run.artifact_path("rollbacks.json").read_text(encoding="utf-8"))
    except (CycleGANError, OSError) as error:
        raise DataError(
            f"{folder}: the schedule of its lambdas is lost: there is no checkpoint, and {error}; "
            "promote another trial with --trial"
        ) from error
    return surviving_path(
        HParamChange(
            iteration=event["iteration"],
            step=event["to_step"],
            reason=event["reason"],
            changes=event["after"],
        )
        for event in events
    )


def to_plain(schedule: Schedule) -> list[dict[str, Any]]:
    """As JSON takes it."""
    return [{**vars(change), "values": dict(change.values)} for change in schedule]


def from_plain(items: Sequence[Mapping[str, Any]]) -> Schedule:
    """What `to_plain` gave."""
    return tuple(Change(**item) for item in items)


class Replay(Callback):
    """Sets the values of a trial's schedule at the steps it set them.

    It ends with the schedule, or with the first rollback of this training: from then on its path
    is another one than the trial's, and its own optimizer goes on from the values in force.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._next = 0

    def on_train_start(self, trainer: Trainer) -> None:
        """Set what the trial changed before its first step."""
        self._apply(trainer)

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Set what the trial set at this step."""
        self._apply(trainer)

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """Leave the rest to the optimizer that asked for it."""
        left = len(self.schedule) - self._next
        if left:
            logger.info("replay: %d changes of the trial's schedule are left out", left)
        self._next = len(self.schedule)

    def _apply(self, trainer: Trainer) -> None:
        while self._next < len(self.schedule) and self.schedule[self._next].step <= trainer.step:
            change = self.schedule[self._next]
            self._next += 1
            trainer.set_hparams(change.values, reason=f"as in the trial: {change.reason}")

    def state_dict(self) -> dict[str, Any]:
        """How far it is."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._next = int(state["next"])
