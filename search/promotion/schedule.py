"""The schedule of lambdas and learning rates that a trial found, for its promotion.

See `search.rollback.schedule` for what a schedule is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan import state as states
from cyclegan.checkpoints import newest_checkpoint
from cyclegan.errors import CycleGANError, DataError
from cyclegan.events import HParamChange
from search.launch import RECORD_NAME, SAVE_FOLDER
from search.rollback.schedule import SCHEDULE_NAME, Schedule, read_schedule, surviving_path

if TYPE_CHECKING:
    from tracking import Run


def schedule_of(folder: Path, run: Run | None) -> Schedule:
    """The schedule of the training in `folder`, from its checkpoint.

    Checkpoints may have been removed since; then the file that a training leaves when it ends says
    the same, and so do, for trials of earlier versions, the rollbacks recorded in MLflow.

    Errors: `DataError` if it changed its values and nothing says how.
    """
    checkpoint = newest_checkpoint(folder / SAVE_FOLDER)
    if checkpoint is not None:
        state = states.load(checkpoint, formats=(states.CHECKPOINT_FORMAT,))
        return surviving_path(HParamChange(**entry) for entry in state["hparam_log"])
    if (folder / SCHEDULE_NAME).is_file():
        schedule = read_schedule(folder / SCHEDULE_NAME)
        return tuple(change for change in schedule if change.reason != "start")
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
            kickstart=event.get("kickstart", 0),
        )
        for event in events
    )
