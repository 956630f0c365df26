"""Run a study: begin it or join it, let workers train its trials, and close it.

A study's local state lives in `studies/local/<name>/`: Optuna's journal, a copy of the definition,
locks. Its trials train in `results/<name>/trial-<number>/`. A second run of a running study, on
this host or on another with the same storage, joins it: trials are claimed one by one.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
import yaml

from cyclegan.addresses import without_secrets
from cyclegan.checkpoints import newest_checkpoint
from cyclegan.config import Config
from cyclegan.errors import ConfigError, CycleGANError, DataError
from cyclegan.files import write_text
from cyclegan.footprint import check_memory
from cyclegan.precision import choose_device, choose_precision
from search.launch import LAUNCH, SAVE_FOLDER, check_training, reopened
from search.study.automatic import as_begun, why
from search.study.definition import StudyDefinition, parse_definition
from search.study.figures import figures_folder, log_figures
from search.study.initial_trials import earlier_ends, first_values, recorded_ends
from search.study.lease import LEASE_SECONDS, Owner
from search.study.outlook import EARLIER
from search.study.places import refuse_ranks
from search.study.processes import apart, run_workers
from search.study.progress import LocalProgress, ProgressConsole
from search.study.provenance import check_data
from search.study.report import REPORT, ReportUpdater
from search.study.space import FunctionSpace
from search.study.storage import StudyStorage, storage_for
from search.study.study import (
    DEFINITION,
    TRACKING,
    StudyHandle,
    check_store,
    optuna_study,
    studies_folder,
)
from search.study.trial import WorkerContext, log_end
from search.study.trials import FINISHED, REVIVES, STATES, first_value
from search.study.worker import WorkEnd, update_study_run, work
from tracking import project_root
from tracking.outbox.delivery import deliver_waiting, waiting
from tracking.outbox.records import End
from tracking.outbox.writer import RunWriter
from tracking.views import TRIALS, artifact_link, experiment_link, trials_view
from viz.console import Console

if TYPE_CHECKING:
    from tracking import Run, Store
    from tracking.run import Status

_FREE = ("trials", "promote", "stop", "checkpoints")
"""Keys that may differ when a study is continued: budgets, and what follows the study."""


_CLOSED = "closed"
"""Attribute of a study: its number of trials when a run ended and MLflow had all of it."""


_SURELY_LOGGED = 300
"""Number of trials before the last that the study's run knows whose ends may be missing, too: their
workers were killed, or the clocks of hosts differ."""


class StudyResult(NamedTuple):
    """A study after its run."""

    handle: StudyHandle
    interrupted: bool
    """True after Ctrl-C or a signal; otherwise there was nothing left to do here."""


def run_study(
    definition: StudyDefinition,
    *,
    store: Store | Callable[[], Store],
    console: Console,
    workers: int = 1,
    storage: str | None = None,
) -> StudyResult:
    """Run or continue a study until it has all its trials, or is interrupted.

    Args:
        store: the MLflow store, or a function that opens it once the study can begin.
        workers: number of processes on this host; a single worker on a CPU runs in this process.
        storage: address of a database instead of the journal (see `search.study.storage`).

    Errors: `ConfigError` if the study was started with another definition, `UsageError` under
    torchrun. Errors that a trial raises for its surroundings (missing data, a full disk) stop the
    study.
    """
    refuse_ranks()
    place = storage_for(studies_folder() / definition.name, storage)
    with place.explaining():
        begun = _begun(definition, place, store, console)
        if isinstance(begun, StudyHandle):
            return StudyResult(begun, interrupted=False)
        return _run(begun, store=begun.store, console=console, workers=workers)


def begin_study(
    definition: StudyDefinition,
    *,
    store: Store | Callable[[], Store],
    console: Console,
    storage: str | None = None,
) -> StudyHandle:
    """Begin a study and train nothing: other hosts do. A study that has begun stays as it is.

    This host's devices and memory don't matter: the first worker chooses the precision.

    Args and errors: those of `run_study`.
    """
    place = storage_for(studies_folder() / definition.name, storage)
    with place.explaining():
        begun = _begun(definition, place, store, console, here=False)
        return begun if isinstance(begun, StudyHandle) else begun.handle


def _begun(
    definition: StudyDefinition,
    place: StudyStorage,
    store: Store | Callable[[], Store],
    console: Console,
    *,
    here: bool = True,
) -> _Begun | StudyHandle:
    """Begin or join a study; if it is over already, only return its handle."""
    new = not (place.folder / DEFINITION).is_file()
    known = None if new else optuna_study(definition, place)
    if known is not None:
        definition = _as_begun(definition, known, place)
    if known is not None and _is_over(definition, known):
        return StudyHandle(definition, known, place.folder, place)
    initial = _checked_beginning(definition, here=here) if new else None
    if callable(store):
        store = store()
    if known is not None:
        check_store(known, store)
    store.create()  # if that fails, the study has not begun
    return _begin(definition, place, store, console, initial, here=here)


def _run(begun: _Begun, *, store: Store, console: Console, workers: int) -> StudyResult:
    handle, definition = begun.handle, begun.handle.definition
    with (
        _study_run(begun, store, console) as end,
        LocalProgress(console, definition.name, definition.trials) as progress,
    ):
        _catch_up(handle, store, begun.parent)
        for trial in handle.study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                curve = sorted(trial.intermediate_values.items())
                value = first_value(trial)
                progress.remember(trial.number, STATES[trial.state], value, curve)
        ended: WorkEnd = "afresh"
        if workers == 1 and not _on_gpu(definition):
            with Owner(handle.folder) as owner:
                context = WorkerContext(
                    handle=handle,
                    store=store,
                    console=ProgressConsole(progress),
                    progress=progress,
                    owner=owner,
                    parent=begun.parent,
                    precision=begun.precision,
                )
                ended = work(context)
                end.interrupted = ended == "interrupted"
        # A GPU gets its own process even for one worker, since only another process can replace
        # one that has lost its GPU.
        if ended == "afresh":
            end.interrupted = run_workers(
                handle,
                progress,
                count=workers,
                tracking_uri=store.uri,
                parent=begun.parent,
                precision=begun.precision,
            )
    return StudyResult(handle, end.interrupted)


def _catch_up(handle: StudyHandle, store: Store, run_id: str) -> None:
    """Log what a process did not that was killed between a trial's end and the study's run."""
    finished = _finished(handle)
    if not finished or _elsewhere(handle):
        return
    try:
        known = store.run(run_id).history("trials/complete")
    except CycleGANError:  # the store is away: then the outbox has it
        return
    if finished not in known:
        _catch_up_trials(handle, store, since=max(known, default=0))
        update_study_run(handle, store, run_id)


def _catch_up_trials(handle: StudyHandle, store: Store, since: int) -> None:
    """Log the ends of trials that a killed process told Optuna, but no longer MLflow.

    `since`: number of trials that had ended when the study's run was last written.
    """
    over = [trial for trial in handle.trials() if trial.state in FINISHED and trial.ended]
    over.sort(key=lambda trial: trial.ended or datetime.min)
    for trial in over[max(since - _SURELY_LOGGED, 0) :]:
        if trial.state == "failed" or not trial.run_id or not trial.seeds:
            continue
        with contextlib.suppress(DataError):  # a run that somebody deleted
            run = store.find_run(trial.run_id)
            if "state" not in run.tags or run.tags["state"] == "paused":
                end = (trial.state, trial.score, trial.seeds, trial.objectives)
                log_end(store, run.id, *end, known=run.metrics)


@dataclass(frozen=True)
class _Begun:
    """A study that is ready for workers."""

    handle: StudyHandle
    store: Store
    parent: str
    precision: str


def _is_over(definition: StudyDefinition, study: optuna.Study) -> bool:
    """Return True if the study has all its trials, and a run closed it after the last one."""
    trials = study.get_trials(deepcopy=False)
    begun = [trial for trial in trials if REVIVES not in trial.user_attrs]
    same = study.user_attrs.get("definition") == json.dumps(definition.model_dump(mode="json"))
    ended = all(trial.state.is_finished() for trial in trials) and len(begun) >= definition.trials
    return same and ended and study.user_attrs.get(_CLOSED) == len(trials)


def _checked_beginning(definition: StudyDefinition, *, here: bool) -> list[dict[str, Any]]:
    """Return the initial values of a study, or refuse it, before anything of it is stored."""
    initial = first_values(definition)
    first = definition.config_of(0, definition.first_values())
    if not here:
        check_training(first, here=False)
    elif _on_gpu(definition):  # a GPU may be for one process at a time, and is for the workers
        apart(_check_here, first, list(_largest(definition)))
    else:
        _check_here(first, _largest(definition))
    return initial


def _on_gpu(definition: StudyDefinition) -> bool:
    return choose_device(str(definition.base.get("device", "auto"))).type == "cuda"


def _check_here(first: Config, largest: Iterable[Config]) -> None:
    """Refuse a study whose first training can't begin here, or that needs too much memory."""
    check_training(first)
    for config in largest:
        check_memory(config, choose_device(config.device))


def _largest(definition: StudyDefinition) -> Iterator[Config]:
    """Yield the configurations at the upper ends of a space, one key at a time."""
    if isinstance(definition.space, FunctionSpace):
        return
    first = definition.first_values()
    for key, dimension in definition.space.items():
        values = definition.tied(first | {key: dimension.examples()[-1]})
        try:
            config = definition.config_of(0, values)
        except ConfigError:  # these values don't go together, so no trial will have them
            continue
        yield config


def _begin(
    definition: StudyDefinition,
    place: StudyStorage,
    store: Store,
    console: Console,
    initial: list[dict[str, Any]] | None,
    *,
    here: bool,
) -> _Begun:
    check_data({}, definition.config_of(0, definition.first_values()))  # hashes, slow only once
    with place.claiming():  # if several processes begin it at once, only one creates it
        definition = _as_begun(definition, optuna_study(definition, place), place)
        study = _compatible(definition, optuna_study(definition, place), place)
        handle = StudyHandle(definition, study, place.folder, place)
        first = definition.config_of(0, definition.first_values())
        data = check_data(study.user_attrs.get("data", {}), first)
        precision = _precision(study, first) if here else ""
        parent = _parent_run(handle, store, console)
        # Only now, when all is checked: what is stored here, a changed definition must match.
        study.set_user_attr("definition", json.dumps(definition.model_dump(mode="json")))
        study.set_user_attr("data", data)
        study.set_user_attr(TRACKING, without_secrets(store.uri) if store.chosen else "")
        place.remember()
        write_text(place.folder / DEFINITION, _as_yaml(definition))
        if not study.get_trials(deepcopy=False):  # only once: an earlier study's best may change
            if why(definition):
                console.say(f"study {definition.name}: {why(definition)}")
            recorded = recorded_ends(definition)
            if recorded:
                count = sum(len(one["values"]) for one in recorded)
                console.say(
                    f"study {definition.name}: begins with what {count} recorded trainings on "
                    f"{len(recorded)} other data sets say about these keys, as far as its own "
                    "trials agree (sampler.recorded_trials)"
                )
            study.set_user_attr(EARLIER, [*earlier_ends(definition), *recorded])
            for values in first_values(definition) if initial is None else initial:
                study.enqueue_trial(values, skip_if_exists=True)
    return _Begun(handle, store, parent.id, precision)


def _precision(study: optuna.Study, first: Config) -> str:
    # Chosen once, because all trials of a study must have the same precision.
    stored = study.user_attrs.get("precision")
    if stored is None:
        stored = choose_precision(first, choose_device(first.device)).precision
        study.set_user_attr("precision", stored)
    return str(stored)


def _parent_run(handle: StudyHandle, store: Store, console: Console) -> Run:
    study, name = handle.study, handle.definition.name
    stored = reopened(store, study.user_attrs.get("mlflow_run_id"), console, shared=True)
    if stored:
        return stored
    run = _made_before(study, store) or _new_run(handle, store)
    run.log_text(_as_yaml(handle.definition), "study.yaml")
    searched = handle.definition.space if isinstance(handle.definition.space, dict) else ()
    place = run.experiment_id
    store.ship_view(place, trials_view(searched, step=handle.definition.pruner.prune_after))
    links = {
        "table": experiment_link("", place, TRIALS),
        "pictures and curves side by side": experiment_link("", place, TRIALS, charts=True),
        "report": artifact_link(place, run.id, REPORT),
    }
    shown = ", ".join(f"[{what}]({where})" for what, where in links.items())
    store.experiment(name, note=f"Trials of the study `{name}`: {shown}.")
    study.set_user_attr("mlflow_run_id", run.id)
    return run


def _made_before(study: optuna.Study, store: Store) -> Run | None:
    """Return the run that a process made which died before it could note the run's id."""
    launch_id = study.user_attrs.get(LAUNCH)
    made = store.tagged(LAUNCH, launch_id) if launch_id else None
    return store.open_run(made, shared=True) if made else None


def _new_run(handle: StudyHandle, store: Store) -> Run:
    definition = handle.definition
    # The study knows the id of the launch before the run exists, as in `search.launch`.
    launch_id = handle.study.user_attrs.get(LAUNCH) or uuid.uuid4().hex
    handle.study.set_user_attr(LAUNCH, launch_id)
    return store.create_run(
        definition.name,
        definition.name,
        kind="study",
        params={"trials": definition.trials, "steps": definition.steps},
        tags={"study": definition.name, LAUNCH: launch_id},
    )


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
    finished = _finished(begun.handle)
    # A process killed while it drew leaves some figures, and a study that is not closed.
    undrawn = begun.handle.study.user_attrs.get(_CLOSED) != finished
    if finished > before or undrawn or not figures_folder(begun.handle).is_dir():
        log_figures(begun.handle, run)
    if elsewhere:  # the last one to leave closes it
        console.warn(
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
    if not any(map(len, waiting(store))):
        begun.handle.study.set_user_attr(_CLOSED, _finished(begun.handle))


def _elsewhere(handle: StudyHandle) -> list[str]:
    """Return the trials that other processes train now."""
    return [str(trial.number) for trial in handle.trials() if trial.state == "running"]


def _finished(handle: StudyHandle) -> int:
    return sum(trial.state.is_finished() for trial in handle.study.get_trials(deepcopy=False))


def _compatible(
    definition: StudyDefinition, study: optuna.Study, place: StudyStorage
) -> optuna.Study:
    """Return the study if its definition is the same but for the keys `_FREE`.

    A study in which nothing was trained yet is made anew, with the changed definition.

    Errors: `ConfigError` if two definitions would be mixed in one study.
    """
    before = _stored(study, place)
    if before is None:
        return study
    old: dict[str, Any] = before.model_dump(mode="json")
    new = definition.model_dump(mode="json")
    changed = [key for key in new if key not in _FREE and old[key] != new[key]]
    if not changed:
        return study
    if _untrained(StudyHandle(before, study, place.folder, place)):
        optuna.delete_study(study_name=definition.name, storage=place.open())
        return optuna_study(definition, place)
    results = project_root() / "results" / definition.name
    raise ConfigError(
        f"study {definition.name} was started with another '{changed[0]}'; give the changed "
        f"study another name, or remove {place.folder} and {results}"
    )


def _stored(study: optuna.Study, place: StudyStorage) -> StudyDefinition | None:
    """Return the definition with which the study began; None if it has not begun."""
    stored = study.user_attrs.get("definition")
    if stored is None:
        return None
    return parse_definition(json.loads(stored), place.folder / DEFINITION)


def _as_begun(
    definition: StudyDefinition, study: optuna.Study, place: StudyStorage
) -> StudyDefinition:
    before = _stored(study, place)
    return definition if before is None else as_begun(definition, before)


def _untrained(handle: StudyHandle) -> bool:
    """Return True if no trial of the study has anything to lose, and nobody trains one."""
    return all(
        trial.state in ("waiting", "interrupted")
        and not trial.curve
        and newest_checkpoint(handle.trial_folder(trial.number) / SAVE_FOLDER) is None
        for trial in handle.trials()
    )


def _as_yaml(definition: StudyDefinition) -> str:
    return yaml.safe_dump(definition.model_dump(mode="json"), sort_keys=False)
