"""Promote one trial of a study: train its configuration in earnest, along its schedule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclegan.checkpoints import newest_checkpoint, newest_state
from cyclegan.config import Config
from cyclegan.data import read_json
from cyclegan.errors import ConfigError, CycleGANError, DataError, UsageError
from cyclegan.events import HParamChange
from cyclegan.files import write_text
from cyclegan.hparams import HParams
from search.catch_up import caught_up
from search.launch import RECORD_NAME, SAVE_FOLDER, Job, LaunchResult, recorded_score, run_training
from search.promotion import lineage
from search.promotion.lineage import RegistrationResult, register
from search.rollback.schedule import (
    SCHEDULE_NAME,
    Replay,
    Schedule,
    from_plain,
    read_schedule,
    surviving_path,
    to_plain,
    without,
)
from search.study import StudyHandle, Trial
from search.study.definition import promoted
from search.study.provenance import check_data
from viz.console import Console

if TYPE_CHECKING:
    from tracking import Run, Store


Start = Literal["continue", "scratch"]
_PLAN_NAME = "promotion.json"
"""File in a promotion's folder that records how it began, so that it continues in the same way."""


@dataclass(frozen=True, kw_only=True)
class PromotionResult:
    """A promoted training and its origin."""

    trial: int
    run_name: str
    start: Start
    replayed: int
    """Number of changes in the trial's schedule that the training follows."""
    finished: LaunchResult
    registered: RegistrationResult | None
    """None while the training is interrupted, or if no validation was usable."""
    trial_score: float | None = None
    """Score of the trial's own best generator; None if unknown."""

    @property
    def interrupted(self) -> bool:
        """True if the same command must be given again."""
        return self.finished.result.outcome == "interrupted"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A promotion that can begin, or continue."""

    source: Trial
    config: Config
    folder: Path
    start: Start
    schedule: Schedule
    first: Path | None
    """The trial's checkpoint, if the promotion continues from there."""


def promote(
    handle: StudyHandle,
    *,
    store: Store,
    console: Console,
    trial: int | None = None,
    steps: int | None = None,
    start: Start | None = None,
    hp_optimizer: bool | None = None,
    processes: int = 1,
) -> PromotionResult:
    """Train the best trial (or number `trial`) in earnest; the study's file gives the defaults.

    A second call continues an interrupted promotion, or does nothing if it is complete. Several
    `processes`, each with its own GPU, share each batch (see `cyclegan.ranks`).

    Errors: those of `plan_promotion`.
    """
    plan = plan_promotion(
        handle, store=store, trial=trial, steps=steps, start=start, hp_optimizer=hp_optimizer
    )
    _remember(plan)
    if plan.schedule:
        last = plan.schedule[-1].step
        console.say(f"{plan.config.run_name}: follows the trial's changes up to step {last}")
    callbacks = [Replay(plan.schedule)] if plan.schedule else []
    job = replace(_job(handle, plan), processes=processes)
    say_left_elsewhere(handle, plan.source, store, console)
    finished = run_training(job, store=store, console=console, callbacks=callbacks)
    finished = caught_up(finished, job, store, console)
    lineage.link_promoted(handle, plan.source, finished, store)
    registered = None
    if finished.result.outcome != "interrupted":
        registered = register(handle, plan.source.number, finished, store)
    return PromotionResult(
        trial=plan.source.number,
        run_name=plan.config.run_name,
        start=plan.start,
        replayed=len(plan.schedule),
        finished=finished,
        registered=registered,
        trial_score=recorded_score(handle.trial_folder(plan.source.number)),
    )


def plan_promotion(
    handle: StudyHandle,
    *,
    store: Store,
    trial: int | None = None,
    steps: int | None = None,
    start: Start | None = None,
    hp_optimizer: bool | None = None,
) -> Plan:
    """Plan what `promote` will do, and refuse all that can't work; nothing is written.

    Errors: `DataError` if no trial is complete or the data have changed; `UsageError` for a trial
    that does not exist; `ConfigError` for other data, or a promotion that began another way.
    """
    source = handle.to_promote() if trial is None else finished_trial(handle, trial)
    config = promoted_config(handle, source.number, steps=steps, hp_optimizer=hp_optimizer)
    check_same_data(handle, config)
    folder = handle.results / config.run_name
    default = handle.definition.promote.start
    before = _begun(folder, start, default)
    begin = before[0] if before else start or default
    first = None
    if begin == "continue":
        first = newest_checkpoint(handle.trial_folder(source.number) / SAVE_FOLDER)
        if before is None:
            _check_continuation(handle, source, config, first)
    if before is not None:
        schedule = before[1]
    elif begin == "continue":
        schedule = ()  # the checkpoint brings the values that the trial ended with
    else:
        schedule = _schedule(handle, source, config, store)
    return Plan(
        source=source, config=config, folder=folder, start=begin, schedule=schedule, first=first
    )


def say_left_elsewhere(handle: StudyHandle, source: Trial, store: Store, console: Console) -> None:
    """Say that the trial's run is in another store, as in a project copied without `mlruns/`."""
    if source.run_id and lineage.run_of(store, source.run_id) is None:
        console.say(
            f"study {handle.definition.name}: the run of trial {source.number} is not in "
            f"{store.location}; its configuration and checkpoints are here, and suffice"
        )


def finished_trial(handle: StudyHandle, number: int) -> Trial:
    """Return trial `number`.

    Errors: `UsageError` if it does not exist, `DataError` if it has not ended.
    """
    handle.config_of(number)
    trial = next(t for t in handle.trials() if t.number == number)
    if trial.state not in ("complete", "pruned", "failed"):
        name = handle.definition.name
        raise DataError(
            f"trial {number} of study {name} is {trial.state}; end it first: cyclegan study run "
            f"{name}"
        )
    return trial


def promoted_config(
    handle: StudyHandle, trial: int, *, steps: int | None, hp_optimizer: bool | None
) -> Config:
    """Return the trial's configuration with the changes of the study's file and of the call.

    Errors: `ConfigError` if they change the data on which the trial was chosen.
    """
    name = f"{handle.definition.name}-promoted-{trial:03d}"
    try:
        return promoted(
            handle.definition,
            handle.config_of(trial),
            run_name=name,
            steps=steps,
            hp_optimizer=hp_optimizer,
        )
    except ConfigError as error:
        raise ConfigError(f"promotion of trial {trial}: {error}") from error


def check_same_data(handle: StudyHandle, config: Config) -> None:
    """Check that the data are the same as when the study was run. Errors: `DataError`."""
    known = handle.study.user_attrs.get("data")
    if known:
        check_data(known, config)


def _job(handle: StudyHandle, plan: Plan) -> Job:
    tags = {
        "study": handle.definition.name,
        "trial": str(plan.source.number),
        "seed": str(plan.config.seed),
        "start": plan.start,
        "promoted_from": plan.source.run_id,
    }
    return Job(
        config=plan.config,
        folder=plan.folder,
        experiment=handle.definition.name,
        kind="promoted",
        tags=tags,
        parent=handle.study.user_attrs.get("mlflow_run_id"),
        start=plan.first,
    )


def _begun(folder: Path, asked: Start | None, default: Start) -> tuple[Start, Schedule] | None:
    """Return how the promotion in `folder` began; None if it has nothing to continue from.

    Errors: `ConfigError` if it is asked to begin another way.
    """
    path, record = folder / _PLAN_NAME, folder / RECORD_NAME
    ended = record.is_file() and "result" in read_json(record)
    if not ended and newest_checkpoint(folder / SAVE_FOLDER) is None:
        return None
    if not path.is_file():  # promoted by an earlier version, which wrote no such file
        return asked or default, ()
    stored: Mapping[str, Any] = read_json(path)
    if asked not in (None, stored["start"]):
        raise ConfigError(
            f"{folder}: the promotion there began with {_option(stored['start'])}, but you asked "
            f"for {_option(asked)}; leave the option out, or remove that folder"
        )
    return stored["start"], from_plain(stored["schedule"])


def _remember(plan: Plan) -> None:
    content = {
        "trial": plan.source.number,
        "start": plan.start,
        "schedule": to_plain(plan.schedule),
    }
    path, text = plan.folder / _PLAN_NAME, json.dumps(content, indent=1)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _check_continuation(
    handle: StudyHandle, source: Trial, config: Config, first: Path | None
) -> None:
    if first is None:
        folder = handle.trial_folder(source.number)
        raise DataError(
            f"{folder} holds no checkpoint; promote with --from-scratch, or name another trial by "
            "--trial"
        )
    if config.steps <= source.step:
        raise UsageError(
            f"--steps {config.steps}: trial {source.number} already has {source.step}; ask for "
            "more, or promote with --from-scratch"
        )


def _schedule(handle: StudyHandle, source: Trial, config: Config, store: Store) -> Schedule:
    """Return the changes of the trial's optimizer, without the keys that this promotion changes."""
    its = handle.config_of(source.number)
    if not its.hp_optimizer.enabled:  # nothing changed them
        return ()
    folder = handle.trial_folder(source.number)
    schedule = schedule_of(folder, lineage.run_of(store, source.run_id))
    before, now = HParams.from_config(its).flat(), HParams.from_config(config).flat()
    return without(schedule, {name for name, value in before.items() if now.get(name) != value})


def _option(start: str | None) -> str:
    return "--continue" if start == "continue" else "--from-scratch"


# -- The schedule of lambdas and learning rates that a trial found -----------------------------
#
# `search.rollback.schedule` explains schedules.


def schedule_of(folder: Path, run: Run | None) -> Schedule:
    """Return the schedule of the training in `folder`, from its checkpoint.

    If the checkpoints have been removed, it comes from the file that a training leaves when it
    ends, or, for trials of earlier versions, from the rollbacks recorded in MLflow.

    Errors: `DataError` if the training changed its values and no record of that is left.
    """
    found = newest_state(folder / SAVE_FOLDER)
    if found is not None:
        return surviving_path(HParamChange(**entry) for entry in found[1]["hparam_log"])
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
