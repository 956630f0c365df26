"""Send MLflow what it lacks of a training that has ended, from the training's folder.

While the disk of the store is full, neither MLflow nor the journal take records. If the process
ends before there is room, they are lost there, but not in the folder: the checkpoint has all
metrics and `train/` the pictures. Only the volumes of validations can't be restored.

The same serves a project that came without its store: a complete training gets a run in the new
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cyclegan.checkpoints import CHECKPOINT_NAME, newest_checkpoint
from cyclegan.data import read_json
from cyclegan.errors import CycleGANError, DataError
from cyclegan.events import TrainResult
from cyclegan.locks import exclusive, is_free
from search.launch import (
    GENERATOR_NAME,
    RECORD_NAME,
    SAVE_FOLDER,
    Job,
    LaunchResult,
    renewed_run,
)
from search.rollback.schedule import SCHEDULE_NAME
from tracking import Run, RunInfo, Store, TrackingCallback
from tracking.outbox.records import Attachment, Params, Picture, Record, Text
from tracking.outbox.writer import BackgroundWriter
from tracking.params import compared
from tracking.past_training import PastTraining
from tracking.views import CYCLE_PICTURES
from viz.console import Console

_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class EndedTraining:
    """A training folder whose training has ended."""

    folder: Path
    run_id: str
    result: TrainResult

    @property
    def is_held(self) -> bool:
        """True if a process works in the folder."""
        return not is_free(self.folder / _LOCK)

    def is_told(self, run: RunInfo) -> bool:
        """Return True if MLflow knows how far the training came and how it ended."""
        reached = run.metrics.get("iteration", 0 if not run.metrics else self.result.iteration)
        completed = self.result.outcome == "completed"
        open_end = run.status == "RUNNING" or (completed and run.status == "KILLED")
        return reached >= self.result.iteration and not open_end


def ended_trainings(results: Path) -> Iterator[EndedTraining]:
    """Yield the ended trainings below `results`."""
    for path in sorted(results.rglob(RECORD_NAME)):
        found = ended_training(path.parent)
        if found is not None:
            yield found


def ended_training(folder: Path) -> EndedTraining | None:
    """Return the training in `folder` if it has ended and has a run."""
    try:
        record = dict(read_json(folder / RECORD_NAME))
        if not record.get("result") or not record.get("run_id"):
            return None
        result = TrainResult(**record["result"])
    except (DataError, TypeError):  # not a record of ours
        return None
    return EndedTraining(folder=folder, run_id=str(record["run_id"]), result=result)


def shortfall(store: Store, ended: EndedTraining) -> str | None:
    """Return what MLflow lacks of a training and its checkpoint has, as text, or None."""
    if ended.is_held or not (ended.folder / SAVE_FOLDER / CHECKPOINT_NAME).is_file():
        return None
    try:
        run = store.find_run(ended.run_id)
    except DataError:  # deleted, or in another store
        return None
    if ended.is_told(run):
        return None
    reached = round(run.metrics.get("iteration", 0))
    return (
        f"{run.status} in MLflow at iteration {reached}, but {ended.result.outcome} at iteration "
        f"{ended.result.iteration} in {ended.folder}"
    )


def caught_up(finished: LaunchResult, job: Job, store: Store, console: Console) -> LaunchResult:
    """Return `finished` once MLflow has all that the folder of the training knows.

    A training that was complete before may have its run in another store: it gets one in this.

    Errors: those of `catch_up`.
    """
    if not finished.reused:
        return finished
    renewed = False
    try:
        store.run(finished.run_id)
    except DataError as error:
        run, renewed = renewed_run(job, store), True
        console.say(f"{error}; {run.name} has a new run here")
        finished = replace(finished, run_id=run.id)
        if newest_checkpoint(finished.folder / SAVE_FOLDER) is None:
            _tell_the_end(run, finished)
            return finished
    ended = ended_training(finished.folder)
    lacking = ended and shortfall(store, ended)
    if ended and lacking:
        catch_up(store, ended)
        if not renewed:  # of a new run nobody expects anything
            console.say(f"{lacking}; MLflow has the rest now")
    return finished


def _tell_the_end(run: Run, finished: LaunchResult) -> None:
    """Write what is known of a training without a checkpoint: its generators, how it ended."""
    generator = finished.folder / SAVE_FOLDER / GENERATOR_NAME
    if generator.is_file():
        run.log_file(generator, "checkpoints")
    result = finished.result
    run.log_metrics({"iteration": result.iteration, "step": result.step}, result.iteration)
    run.set_tags({"outcome": result.outcome})
    run.finish("FINISHED" if result.outcome == "completed" else "KILLED", result.reason)


def catch_up(store: Store, ended: EndedTraining) -> None:
    """Write to the training's run what its folder knows and MLflow does not.

    Errors: `CycleGANError` if the store does not take it, or if the checkpoint can't be read or is
    from an earlier moment.
    """
    with exclusive(ended.folder / _LOCK, f"training folder {ended.folder}"):
        checkpoint = newest_checkpoint(ended.folder / SAVE_FOLDER)
        past = PastTraining(checkpoint) if checkpoint else None
        if past is None or past.iteration != ended.result.iteration:
            raise DataError(
                f"{ended.folder / SAVE_FOLDER} has no checkpoint of iteration "
                f"{ended.result.iteration}; the run {ended.run_id} stays as it is"
            )
        run = store.run(ended.run_id)
        callback = TrackingCallback(
            BackgroundWriter(run),
            images=False,
            volumes=False,
            finals=lambda result: _finals(run, past, ended.folder),
            clock=lambda: past.ended_at,
        )
        callback.catch_up(past, ended.result)
        if not ended.is_told(store.find_run(run.id)):
            raise CycleGANError(f"run {run.name} ({run.id}) did not take everything; try again")


def _finals(run: Run, past: PastTraining, folder: Path) -> Iterator[Record]:
    """Yield the records beside the metrics; files and pictures only if the run lacks them."""
    yield Params(compared(past.config))
    files = {*run.artifact_names(), *run.artifact_names("checkpoints")}
    if "config.yaml" not in files:
        yield Text(past.config.to_yaml(), "config.yaml")
    pictures = run.image_steps(CYCLE_PICTURES)
    for path in sorted((folder / "train").glob("iteration-*.png")):
        iteration = int(path.stem.partition("-")[2])
        if iteration not in pictures:
            with Image.open(path) as picture:
                yield Picture(np.asarray(picture), CYCLE_PICTURES, iteration)
    generator = folder / SAVE_FOLDER / GENERATOR_NAME
    if generator.is_file() and f"checkpoints/{GENERATOR_NAME}" not in files:
        yield Attachment(generator, "checkpoints")
    schedule = folder / SCHEDULE_NAME
    if schedule.is_file() and SCHEDULE_NAME not in files:
        yield Text(schedule.read_text(encoding="utf-8"), SCHEDULE_NAME)
