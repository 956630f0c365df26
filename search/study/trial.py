"""Train one trial: its configuration, its seeds, and its reports to Optuna and MLflow."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config, override, parse_config
from cyclegan.errors import CycleGANError, DivergedError
from cyclegan.score import GATED
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport
from search.launch import Job, LaunchResult, recorded_run, run_training
from search.study.definition import StudyDefinition
from search.study.gpu_faults import fault_of, may_try_again, why_out_of_memory
from search.study.lease import Owner, renewing
from search.study.objective import OBJECTIVE_NAME, TIME, ObjectiveRecord, recorded_values, short
from search.study.outlook import verdict_of
from search.study.progress import StudyProgress
from search.study.provenance import origin
from search.study.pruners import Pruner
from search.study.pruning import VALUES, VERDICT, PruningCallback, note_gate, reports_of
from search.study.revive import checkpoint_of, revived
from search.study.space import suggest
from search.study.storage import STORAGE_ERRORS
from search.study.study import StudyHandle
from search.study.trials import PAUSED, REVIVES, SECONDS
from tracking.outbox.records import Metrics, Tags
from tracking.outbox.writer import RunWriter
from tracking.params import flatten
from viz.console import Console

if TYPE_CHECKING:
    from tracking import Store

Ending = Literal["complete", "pruned", "failed", "paused", "interrupted", "lost", "afresh"]
"""`interrupted`: this process is to stop, whatever the state of the trial; `lost`: another
worker has taken over this trial; `afresh`: its GPU failed, so a fresh process is to continue it."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The environment that all trials of one worker share."""

    handle: StudyHandle
    store: Store
    console: Console
    progress: StudyProgress
    owner: Owner
    parent: str
    """MLflow id of the study's run."""
    precision: str


class _Watch(Callback):
    """Shows the progress of a training, records its run, and stops it when the lease is lost."""

    def __init__(self, progress: StudyProgress, trial: optuna.trial.Trial, folder: Path) -> None:
        self.progress, self.number, self.seed = progress, trial.number, 0
        self.trial, self.folder = trial, folder
        self.is_lost = False
        self._start = time.monotonic() - float(trial.user_attrs.get(SECONDS, 0.0))

    def note_time(self) -> None:
        """Store how long workers have trained the trial."""
        self.trial.set_user_attr(SECONDS, round(time.monotonic() - self._start, 3))

    def on_train_start(self, trainer: Trainer) -> None:
        """Record the run right away, so that views of a running study can link to it."""
        if not self.seed:
            self.trial.set_user_attr("mlflow_run_id", recorded_run(self.folder))

    def lost(self) -> None:
        """Note that another worker has the trial; called by the thread that renews the lease."""
        self.is_lost = True

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.progress.step(self.number, trainer.step, trainer.config.steps, seed=self.seed)
        if self.is_lost:
            reason = "another worker continues this trial"
            trainer.request_stop(reason, outcome="interrupted")

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        self.progress.score(self.number, report.iteration, report.score)
        self.note_time()


def train_trial(trial: optuna.trial.Trial, context: WorkerContext) -> Ending:
    """Train a claimed trial until it ends, is pruned, paused or interrupted, and report that.

    Errors: `CycleGANError`, `STORAGE_ERRORS` and `OSError` if the fault is not in the trial but
    around it (missing data, a full disk); the trial can then be continued. Errors of the GPU are
    for `search.study.gpu_faults`. Any other error fails the trial.
    """
    number, study = trial.number, context.handle.study
    watch = _Watch(context.progress, trial, context.handle.trial_folder(number))
    with renewing(context.owner, study, trial._trial_id, watch.lost):
        try:
            return _train(trial, context, watch)
        except DivergedError as error:
            # A diverged training is an outcome of its values, like a failed gate.
            watch.note_time()
            trial.set_user_attr("reason", str(error)[:1000])
            trial.set_user_attr("mlflow_run_id", recorded_run(context.handle.trial_folder(number)))
            note_gate(trial, usable=False)
            study.tell(number, state=TrialState.PRUNED)
            context.progress.ended(number, "pruned", str(error))
            return "pruned"
        except Exception as error:
            fault = fault_of(error)
            if fault is None and isinstance(error, (CycleGANError, OSError, *STORAGE_ERRORS)):
                raise
            # A failed trial must not end the study.
            watch.note_time()
            if fault is not None and may_try_again(trial, fault):
                text = f"{fault.message}; a fresh process continues it"
                context.progress.ended(number, "interrupted", text)
                return "afresh"
            reason = f"{type(error).__name__}: {error}"
            if fault is not None:
                reason = why_out_of_memory(fault, _config(trial))
            trial.set_user_attr("reason", reason[:1000])
            trial.set_user_attr("mlflow_run_id", recorded_run(context.handle.trial_folder(number)))
            study.tell(number, state=TrialState.FAIL)
            context.progress.ended(number, "failed", reason if fault else str(error))
            return "failed"
        finally:
            # A finished trial can't be changed any more; an unfinished one is free for any worker.
            closed = optuna.exceptions.UpdateFinishedTrialError
            with contextlib.suppress(closed, *STORAGE_ERRORS):
                if context.owner.holds(study._storage, trial._trial_id):
                    context.owner.release(study._storage, trial._trial_id)


def _config(trial: optuna.trial.Trial) -> Config | None:
    """Return the configuration of a trial, once its values are drawn."""
    stored = trial.user_attrs.get("config")
    return parse_config(json.loads(stored)) if stored else None


def _train(trial: optuna.trial.Trial, context: WorkerContext, watch: _Watch) -> Ending:
    definition = context.handle.definition
    values = suggest(trial, definition.space, definition.ties)
    config = definition.config_of(trial.number, values | {"precision": context.precision})
    trial.set_user_attr("config", json.dumps(config.to_dict()))
    trial.set_user_attr("origin", origin(config))
    context.progress.began(trial.number, config.steps, trial.params)
    before = revived(trial, context.handle)
    pruner = definition.pruner if before is None else Pruner(name="none")
    pruning = PruningCallback(
        trial,
        pruner,
        objectives=definition.objective,
        judge_by=definition.judge_by,
        gates=before is None,
        pauser=lambda frozen, step: verdict_of(definition, context.handle.study, frozen, step),
    )
    start = checkpoint_of(before, context.handle) if before else None
    done = [_run(trial, context, config, 0, [pruning, watch], start)]
    first = _counted(definition, _reported_values(trial))
    hopeless = done[0].result.outcome == "pruned" or first is None
    reached = [first]
    for seed in range(1, 1 if hopeless else definition.seeds):
        if done[-1].stop_asked or done[-1].result.outcome == "interrupted":
            break
        watch.seed = seed
        record = seed_folder(context.handle.trial_folder(trial.number), seed) / OBJECTIVE_NAME
        callbacks = [ObjectiveRecord(record, definition.objective), watch]
        done.append(_run(trial, context, seeded(config, seed), seed, callbacks))
        reached.append(_counted(definition, recorded_values(record)))
    whole = hopeless or len(done) == definition.seeds
    if not watch.is_lost:
        watch.note_time()
    if whole and done[-1].result.outcome != "interrupted":
        ending = _tell(trial, context, config.seed, done, reached)
        return "interrupted" if done[-1].stop_asked else ending
    if not watch.is_lost:
        trial.set_user_attr("mlflow_run_id", done[0].run_id)
        trial.set_user_attr("step", done[0].result.step)
    if pruning.paused and not watch.is_lost:
        _pause(trial, context, done[0])
        return "interrupted" if done[-1].stop_asked else "paused"
    context.progress.ended(trial.number, "interrupted", f"at step {done[-1].result.step}")
    return "lost" if watch.is_lost else "interrupted"


def _pause(trial: optuna.trial.Trial, context: WorkerContext, done: LaunchResult) -> None:
    """Store that the trial waits for steps, and why."""
    verdict = trial.user_attrs.get(VERDICT, {})
    trial.set_user_attr("reason", done.result.reason)
    trial.set_user_attr("iteration", done.result.iteration)
    RunWriter(context.store, done.run_id).put(Tags({"state": "paused"}))
    trial.set_user_attr(PAUSED, verdict)  # last: from now on any worker may decide about it
    context.progress.ended(trial.number, "paused", done.result.reason)


def seed_folder(folder: Path, seed: int) -> Path:
    """Return the folder of a trial's training with another seed, below the trial's folder."""
    return folder / f"seed-{seed}"


def seeded(config: Config, seed: int) -> Config:
    """Return the configuration of the same training with another seed and another name."""
    changes = {"seed": config.seed + seed, "run_name": f"{config.run_name}-seed-{seed}"}
    return parse_config(override(config.to_dict(), changes), source=config.run_name)


def _run(
    trial: optuna.trial.Trial,
    context: WorkerContext,
    config: Config,
    seed: int,
    callbacks: list[Callback],
    start: Path | None = None,
) -> LaunchResult:
    folder = context.handle.trial_folder(trial.number)
    tags = {"study": context.handle.definition.name, "trial": str(trial.number)}
    if REVIVES in trial.user_attrs:
        tags |= {REVIVES: str(trial.user_attrs[REVIVES])}
    given = flatten(config.to_dict())
    params = {name: given[name] for name in trial.params if name in given}
    job = Job(
        config=config,
        folder=seed_folder(folder, seed) if seed else folder,
        experiment=context.handle.definition.name,
        kind="trial" if not seed else "seed",
        tags=tags | ({"seed": str(config.seed)} if seed else {}),
        parent=context.parent,
        start=start,
        params=params,
    )
    return run_training(job, store=context.store, console=context.console, callbacks=callbacks)


def _tell(
    trial: optuna.trial.Trial,
    context: WorkerContext,
    seed: int,
    done: list[LaunchResult],
    reached: list[tuple[float, ...] | None],
) -> Ending:
    first, study = done[0], context.handle.study
    result, counted = first.result, [values for values in reached if values is not None]
    pruned = result.outcome == "pruned" or not counted
    means = np.mean(counted, axis=0).tolist() if counted else []
    score = means[0] if means else None
    attributes: dict[str, Any] = {
        "mlflow_run_id": first.run_id,
        "step": result.step,
        "iteration": sum(one.result.iteration for one in done),
        "reason": result.reason,
        "seeds": [
            {
                "seed": seed + number,
                "run_id": one.run_id,
                "score": values[0] if values else None,
                "iteration": one.result.iteration,
            }
            for number, (one, values) in enumerate(zip(done, reached, strict=True))
        ],
    }
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    gated = trial.user_attrs.get(VERDICT, {}).get("pruner") == "gate"
    note_gate(trial, usable=score is not None and score > GATED and not gated)
    seconds = trial.user_attrs.get(SECONDS, 0.0)
    objectives = _by_name(context.handle.definition, means, seconds)
    if pruned:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, list(objectives.values()))
    ending: Ending = "pruned" if pruned else "complete"
    log_end(context.store, first.run_id, ending, score, attributes["seeds"], objectives)
    text = result.reason if pruned else f"score {score:.2f}"
    context.progress.ended(trial.number, ending, text, score)
    return ending


def _reported_values(trial: optuna.trial.Trial) -> dict[int, tuple[float, ...]]:
    """Return the values of a trial's reports, by iteration; a single objective has one each."""
    several: Mapping[str, Sequence[float]] = trial.user_attrs.get(VALUES, {})
    reports = reports_of(trial).items()
    return {at: tuple(several.get(str(at), (value,))) for at, value in reports}


def _counted(
    definition: StudyDefinition, reports: Mapping[int, tuple[float, ...]]
) -> tuple[float, ...] | None:
    """Return the values of the report that counts for a trial; None without any."""
    at = definition.counted_report({at: values[0] for at, values in reports.items()})
    return None if at is None else reports[at]


def _by_name(
    definition: StudyDefinition, measured: Sequence[float], seconds: float
) -> dict[str, float]:
    """Return a trial's values by objective, in the definition's order; empty without a report."""
    rest = iter(measured)
    if not measured:
        return {}
    return {name: seconds if name == TIME else next(rest) for name in definition.objective}


def log_end(
    store: Store,
    run_id: str,
    state: str,
    score: float | None,
    seeds: Sequence[Mapping[str, Any]],
    objectives: Mapping[str, float] = MappingProxyType({}),
    known: Collection[str] = (),
) -> None:
    """Write to a trial's MLflow run how the trial ended, for the table of trials.

    Args:
        seeds: the trial's trainings, the first one first, as in its user attribute of that name.
        objectives: its values by objective; those after the first become metrics, too.
        known: names of metrics that the run has already.
    """
    metrics = {f"objective/{short(name)}": value for name, value in [*objectives.items()][1:]}
    if score is not None:
        metrics["score/value"] = score
    if len(seeds) > 1 and score is not None:
        values = [seed["score"] for seed in seeds if seed["score"] is not None]
        metrics |= {"score/mean_of_seeds": score, "score/spread_of_seeds": float(np.std(values))}
    missing = {name: value for name, value in metrics.items() if name not in known}
    # The tag comes last: a run that has it has everything.
    RunWriter(store, run_id).put(Metrics(missing, seeds[0]["iteration"]), Tags({"state": state}))
