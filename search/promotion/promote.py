"""Turning one trial of a study into the real training."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclegan.checkpoints import newest_checkpoint
from cyclegan.config import Config, override, parse_config
from cyclegan.data import read_json
from cyclegan.errors import ConfigError, DataError, UsageError
from cyclegan.files import write_text
from cyclegan.hparams import HParams
from search.console import Console
from search.launch import SAVE_FOLDER, Finished, Job, run_training
from search.promotion import links
from search.promotion.registering import Registered, register
from search.promotion.schedule import (
    Replay,
    Schedule,
    from_plain,
    schedule_of,
    to_plain,
    without,
)
from search.study import OpenStudy, TrialSummary

if TYPE_CHECKING:
    from tracking import Store

Start = Literal["continue", "scratch"]
_PLAN_NAME = "promotion.json"


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """A promoted training and where it came from."""

    trial: int
    run_name: str
    start: Start
    replayed: int
    """Changes of hyperparameters in the trial's schedule that it follows."""
    finished: Finished
    registered: Registered | None
    """None while it is interrupted, or if no validation was usable."""

    @property
    def interrupted(self) -> bool:
        """Whether the same command has to be given again."""
        return self.finished.result.outcome == "interrupted"


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How a promotion began; kept in its folder, so that it goes on as it began."""

    start: Start
    schedule: Schedule


def promote(
    opened: OpenStudy,
    *,
    store: Store,
    console: Console,
    trial: int | None = None,
    steps: int | None = None,
    start: Start | None = None,
    hp_optimizer: bool | None = None,
) -> Promoted:
    """Train the best trial (or number `trial`) in earnest; what is not given the study's file says.

    Called again it continues an interrupted promotion, or does nothing if it is complete.

    Errors: `DataError` if no trial is complete or the data changed since; `UsageError` for a trial
    that does not exist; `ConfigError` for other data, or a promotion that began another way.
    """
    source = opened.best() if trial is None else finished_trial(opened, trial)
    config = promoted_config(opened, source.number, steps=steps, hp_optimizer=hp_optimizer)
    check_same_data(opened, config)
    folder = opened.results / config.run_name
    plan = _plan(opened, source, config, folder, start, store)
    first = None
    if plan.start == "continue":
        first = newest_checkpoint(opened.trial_folder(source.number) / SAVE_FOLDER)
    if plan.schedule:
        last = plan.schedule[-1].step
        console.say(f"{config.run_name}: follows the trial's lambdas and rates up to step {last}")
    job = Job(
        config=config,
        folder=folder,
        experiment=opened.definition.name,
        kind="promoted",
        tags={
            "study": opened.definition.name,
            "trial": str(source.number),
            "seed": str(config.seed),
            "start": plan.start,
            "promoted_from": source.run_id,
        },
        parent=opened.study.user_attrs.get("mlflow_run_id"),
        start=first,
    )
    callbacks = [Replay(plan.schedule)] if plan.schedule else []
    finished = run_training(job, store=store, console=console, callbacks=callbacks)
    links.link_promoted(opened, source, finished, store)
    registered = None
    if finished.result.outcome != "interrupted":
        registered = register(opened, source.number, finished, store)
    return Promoted(
        trial=source.number,
        run_name=config.run_name,
        start=plan.start,
        replayed=len(plan.schedule),
        finished=finished,
        registered=registered,
    )


def finished_trial(opened: OpenStudy, number: int) -> TrialSummary:
    """Trial `number`. Errors: `UsageError` if there is none, `DataError` if it is not over."""
    opened.config_of(number)
    trial = next(t for t in opened.trials() if t.number == number)
    if trial.state not in ("complete", "pruned", "failed"):
        name = opened.definition.name
        raise DataError(
            f"trial {number} of study {name} is {trial.state}; end it first: cyclegan study run "
            f"{name}"
        )
    return trial


def promoted_config(
    opened: OpenStudy, trial: int, *, steps: int | None, hp_optimizer: bool | None
) -> Config:
    """The trial's configuration with what the study's file and the call change.

    Errors: `ConfigError` if that changes the data, by which the trial was chosen.
    """
    settings, source = opened.definition.promote, opened.config_of(trial)
    changes: dict[str, Any] = dict(settings.set)
    changes["run_name"] = f"{opened.definition.name}-promoted-{trial:03d}"
    changes["steps"] = steps or settings.steps
    if hp_optimizer is not None:
        changes["hp_optimizer.enabled"] = hp_optimizer
    config = parse_config(override(source.to_dict(), changes), source=f"promotion of trial {trial}")
    for key in ("data_A", "data_B"):
        if getattr(config, key) != getattr(source, key):
            raise ConfigError(
                f"promote.set.{key} = {getattr(config, key)}: the trial was chosen on "
                f"{getattr(source, key)}; a promotion trains on the same data, leave the key out"
            )
    return config


def check_same_data(opened: OpenStudy, config: Config) -> None:
    """Errors: `DataError` if the data are not what they were when the study was run."""
    known = opened.study.user_attrs.get("data")
    if known:
        importlib.import_module("search.study.origin").check_data(known, config)


def _plan(
    opened: OpenStudy,
    source: TrialSummary,
    config: Config,
    folder: Path,
    start: Start | None,
    store: Store,
) -> _Plan:
    """How the promotion in `folder` began, or how it shall begin."""
    path = folder / _PLAN_NAME
    begun = newest_checkpoint(folder / SAVE_FOLDER) is not None
    if begun and not path.is_file():  # by a version of this software that kept no plan
        return _Plan(start=start or opened.definition.promote.start, schedule=())
    if begun:
        stored: Mapping[str, Any] = read_json(path)
        if start not in (None, stored["start"]):
            raise ConfigError(
                f"{folder}: the promotion there began with {_option(stored['start'])}, asked for "
                f"is {_option(start)}; leave the option out, or remove that folder"
            )
        return _Plan(start=stored["start"], schedule=from_plain(stored["schedule"]))
    plan = _new_plan(opened, source, config, start or opened.definition.promote.start, store)
    content = {"trial": source.number, "start": plan.start, "schedule": to_plain(plan.schedule)}
    write_text(path, json.dumps(content, indent=1))
    return plan


def _new_plan(
    opened: OpenStudy, source: TrialSummary, config: Config, start: Start, store: Store
) -> _Plan:
    folder = opened.trial_folder(source.number)
    if start == "continue":
        # Its checkpoint brings the values that it ended with.
        if newest_checkpoint(folder / SAVE_FOLDER) is None:
            raise DataError(f"{folder} holds no checkpoint; promote with --from-scratch")
        if config.steps <= source.step:
            raise UsageError(
                f"--steps {config.steps}: trial {source.number} has {source.step} already; ask for "
                "more, or promote with --from-scratch"
            )
        return _Plan(start=start, schedule=())
    schedule: Schedule = ()
    if opened.config_of(source.number).hp_optimizer.enabled:  # else nothing changed them
        schedule = schedule_of(folder, links.run_of(store, source.run_id))
    before = HParams.from_config(opened.config_of(source.number)).flat()
    now = HParams.from_config(config).flat()
    asked = {name for name, value in before.items() if now.get(name) != value}
    return _Plan(start=start, schedule=without(schedule, asked))


def _option(start: str | None) -> str:
    return "--continue" if start == "continue" else "--from-scratch"
