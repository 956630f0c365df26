"""Run a study: begin it or join it, let workers train its trials, and close it.

A study's local state lives in `studies/local/<name>/`: Optuna's journal, a copy of the definition,
locks. Its trials train in `results/<name>/trial-<number>/`. A second run of a running study, on
this host or on another with the same storage, joins it: trials are claimed one by one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
import yaml

from cyclegan.config import Config
from cyclegan.errors import ConfigError
from cyclegan.files import write_text
from cyclegan.precision import choose_device, choose_precision
from search.launch import reopened
from search.study.definition import StudyDefinition, parse_definition
from search.study.figures import figures_folder, log_figures
from search.study.initial_trials import first_values
from search.study.lease import LEASE_SECONDS, Owner
from search.study.processes import run_workers
from search.study.progress import LocalProgress
from search.study.provenance import check_data
from search.study.report import REPORT, ReportUpdater
from search.study.storage import StudyStorage, storage_for
from search.study.study import StudyHandle, optuna_study, studies_folder
from search.study.trial import WorkerContext
from search.study.trials import STATES
from search.study.worker import work
from tracking import project_root
from tracking.outbox.delivery import deliver_waiting
from tracking.outbox.records import End
from tracking.outbox.writer import RunWriter
from tracking.views import TRIALS, artifact_link, experiment_link, trials_view
from viz.console import Console

if TYPE_CHECKING:
    from tracking import Run, Store
    from tracking.run import Status

_FREE = ("trials", "promote", "stop", "checkpoints")
"""Keys that may differ when a study is continued: budgets, and what follows the study."""


class StudyResult(NamedTuple):
    """A study after its run."""

    handle: StudyHandle
    interrupted: bool
    """True after Ctrl-C or a signal; otherwise there was nothing left to do here."""


def run_study(
    definition: StudyDefinition,
    *,
    store: Store,
    console: Console,
    workers: int = 1,
    storage: str | None = None,
) -> StudyResult:
    """Run or continue a study until it has all its trials, or is interrupted.

    Args:
        workers: number of processes on this host; a single worker runs in this process.
        storage: address of a database instead of the journal (see `search.study.storage`).

    Errors: `ConfigError` if the study was started with another definition. Errors that a trial
    raises for its surroundings (missing data, a full disk) stop the study.
    """
    place = storage_for(studies_folder() / definition.name, storage)
    with place.explaining():
        begun = _begin(definition, place, store, console)
        return _run(begun, store=store, console=console, workers=workers)


def _run(begun: _Begun, *, store: Store, console: Console, workers: int) -> StudyResult:
    handle, definition = begun.handle, begun.handle.definition
    with (
        _study_run(begun, store, console) as end,
        LocalProgress(console, definition.name, definition.trials) as progress,
    ):
        for trial in handle.study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                curve = sorted(trial.intermediate_values.items())
                progress.remember(trial.number, STATES[trial.state], trial.value, curve)
        if workers == 1:
            with Owner(handle.folder) as owner:
                context = WorkerContext(
                    handle=handle,
                    store=store,
                    console=Console(quiet=True, stream=console.stream),
                    progress=progress,
                    owner=owner,
                    parent=begun.parent,
                    precision=begun.precision,
                )
                end.interrupted = work(context) == "interrupted"
        else:
            end.interrupted = run_workers(
                handle,
                progress,
                count=workers,
                tracking_uri=store.uri,
                parent=begun.parent,
                precision=begun.precision,
            )
    return StudyResult(handle, end.interrupted)


@dataclass(frozen=True)
class _Begun:
    """A study that is ready for workers."""

    handle: StudyHandle
    parent: str
    precision: str


def _begin(
    definition: StudyDefinition, place: StudyStorage, store: Store, console: Console
) -> _Begun:
    with place.claiming():  # if several processes begin it at once, only one creates it
        study = optuna_study(definition, place)
        _check_against_stored(definition, study, place)
        place.remember()
        handle = StudyHandle(definition, study, place.folder, place)
        write_text(place.folder / "study.yaml", _as_yaml(definition))
        first = definition.config_of(0, definition.first_values())
        precision = _precision(study, first)
        data = check_data(study.user_attrs.get("data", {}), first)
        parent = _parent_run(handle, store, console)
        study.set_user_attr("data", data)
        if not study.get_trials(deepcopy=False):  # only once: an earlier study's best may change
            for values in first_values(definition):
                study.enqueue_trial(values, skip_if_exists=True)
    return _Begun(handle, parent.id, precision)


def _precision(study: optuna.Study, first: Config) -> str:
    # Chosen once, because all trials of a study must have the same precision.
    stored = study.user_attrs.get("precision")
    if stored is None:
        stored = choose_precision(first, choose_device(first.device)).precision
        study.set_user_attr("precision", stored)
    return str(stored)


def _parent_run(handle: StudyHandle, store: Store, console: Console) -> Run:
    definition, study = handle.definition, handle.study
    stored = reopened(store, study.user_attrs.get("mlflow_run_id"), console, shared=True)
    if stored:
        return stored
    name = definition.name
    run = store.create_run(
        name,
        name,
        kind="study",
        params={"trials": definition.trials, "steps": definition.steps},
        tags={"study": name},
    )
    run.log_text(_as_yaml(definition), "study.yaml")
    searched = definition.space if isinstance(definition.space, dict) else ()
    place = run.experiment_id
    store.ship_view(place, trials_view(searched, step=definition.pruner.prune_after))
    links = {
        "table": experiment_link("", place, TRIALS),
        "pictures and curves side by side": experiment_link("", place, TRIALS, charts=True),
        "report": artifact_link(place, run.id, REPORT),
    }
    shown = ", ".join(f"[{what}]({where})" for what, where in links.items())
    store.experiment(name, note=f"Trials of the study `{name}`: {shown}.")
    study.set_user_attr("mlflow_run_id", run.id)
    return run


@dataclass
class _End:
    """The way the work ended."""

    interrupted: bool = False


@contextlib.contextmanager
def _study_run(begun: _Begun, store: Store, console: Console) -> Iterator[_End]:
    """Close the study's MLflow run in the state in which the work ended.

    The run stays open while other workers still work.
    """
    end, before = _End(), _finished(begun.handle)
    run = store.run(begun.parent)
    writer = RunWriter(store, run.id)

    def finish(status: Status, reason: str) -> None:
        writer.put(End(status, reason))

    try:
        with ReportUpdater(begun.handle, store, begun.parent) as keeper:
            yield end
            elsewhere = _elsewhere(begun.handle)
            ended = "interrupted" if end.interrupted else "finished"
            keeper.end = "running" if elsewhere else ended
    except BaseException as error:
        finish("FAILED" if isinstance(error, Exception) else "KILLED", str(error))
        raise
    if _finished(begun.handle) > before or not figures_folder(begun.handle).is_dir():
        log_figures(begun.handle, run)
    if elsewhere:  # the last one to leave closes it
        console.say(
            f"trial {', '.join(elsewhere)}: another worker has claimed it; if that worker has "
            f"died, cyclegan study run {begun.handle.definition.name} continues the trial after "
            f"{LEASE_SECONDS / 60:.0f} minutes"
        )
        return
    if end.interrupted:
        finish("KILLED", "interrupted")
    else:
        finish("FINISHED", "")
    deliver_waiting(store)  # what trials could not write while the store was away


def _elsewhere(handle: StudyHandle) -> list[str]:
    """Return the trials that other processes train now."""
    return [str(trial.number) for trial in handle.trials() if trial.state == "running"]


def _finished(handle: StudyHandle) -> int:
    return sum(trial.state.is_finished() for trial in handle.study.get_trials(deepcopy=False))


def _check_against_stored(
    definition: StudyDefinition, study: optuna.Study, place: StudyStorage
) -> None:
    """Refuse to mix two definitions in one study; only the keys `_FREE` may change between runs."""
    new = definition.model_dump(mode="json")
    stored = study.user_attrs.get("definition")
    if stored is not None:
        before = parse_definition(json.loads(stored), place.folder / "study.yaml")
        old: dict[str, Any] = before.model_dump(mode="json")
        for key, value in new.items():
            if key not in _FREE and old[key] != value:
                results = project_root() / "results" / definition.name
                raise ConfigError(
                    f"study {definition.name} was started with another '{key}'; give the changed "
                    f"study another name, or remove {place.folder} and {results}"
                )
    study.set_user_attr("definition", json.dumps(new))


def _as_yaml(definition: StudyDefinition) -> str:
    return yaml.safe_dump(definition.model_dump(mode="json"), sort_keys=False)
