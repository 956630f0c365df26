"""The command `cyclegan doctor`: find and repair what a killed process left behind.

A killed process can't tidy up. It leaves a run that MLflow shows as RUNNING for ever, a trial that
Optuna calls RUNNING, half-written files, lock files, or half a line in Optuna's journal. Each check
below yields the problems that it finds. The doctor repairs those with a `cure`; for the others it
prints what a person can do. It never removes anything that could still be wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.checkpoints import newest_checkpoint
from cyclegan.errors import CycleGANError, DataError
from cyclegan.locks import is_free, waiting_for
from search.catch_up import catch_up, ended_trainings, shortfall
from search.launch import SAVE_FOLDER, recorded_run
from search.study.storage import JOURNAL, mend_journal
from search.study.study import StudyHandle, known_studies, open_study, studies_folder
from search.study.trials import Trial
from tracking import project_root
from tracking.artifacts import half_written
from tracking.moved import MovedStore
from tracking.outbox.delivery import deliver_from, waiting
from tracking.process import PROCESS, is_alive
from tracking.repair import DIED, close_dead_run, dead_runs
from viz.units import count
from workbench.output import Output

if TYPE_CHECKING:
    from tracking import Store
    from tracking.run import Status

_STATUS: dict[str, Status] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "paused": "KILLED",
    "interrupted": "KILLED",
}
"""Status of a trial's MLflow run, by the trial's state in Optuna."""
_OPEN = ("interrupted", "paused")
"""States of trials that may go on."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A disagreement between studies, MLflow and the disk."""

    subject: str
    problem: str
    remedy: str
    """The repair, or advice for a person."""
    cure: Callable[[], object] | None = None
    run_id: str = ""
    """Id of the MLflow run concerned; empty if there is none."""


def examine_and_repair(store: Store, *, dry_run: bool = False, adopt: bool = False) -> Output:
    """Examine everything, repair what can be, and return what was found.

    `adopt` also changes the addresses of files that were moved, in a database on a server. The exit
    code is 1 if a problem is left for a person to solve.
    """
    found = list(examine(store, adopt=adopt))
    rows, left = [], False
    for finding in found:
        done = "would be repaired" if dry_run and finding.cure else _repaired(finding)
        left = left or done not in ("repaired", "would be repaired")
        rows.append(
            {
                "subject": finding.subject,
                "problem": finding.problem,
                "remedy": finding.remedy,
                "done": done,
            }
        )
    text = "\n".join(f"{r['subject']}: {r['problem']}\n  {r['done']}: {r['remedy']}" for r in rows)
    return Output(
        data=rows,
        text=text or f"all is well: studies, MLflow ({store.location}) and the disk agree",
        exit_code=int(left),
    )


def _repaired(finding: Problem) -> str:
    """Repair a problem and return what came of it."""
    if finding.cure is None:
        return "left to you"
    try:
        finding.cure()
    except CycleGANError as error:
        return f"not repaired, {error}"
    return "repaired"


def examine(store: Store, *, adopt: bool = False) -> Iterator[Problem]:
    """Yield all problems, journals first because the studies are read from them."""
    for name in known_studies():
        yield from _journal(studies_folder() / name)
    reported: set[str] = set()
    for name in known_studies():
        try:
            handle = open_study(name)
        except CycleGANError as error:
            yield Problem(
                subject=f"study {name}",
                problem=str(error),
                remedy="fix this first; doctor leaves the study as it is",
            )
            continue
        for finding in _study(handle, store):
            reported.add(finding.run_id)
            yield finding
    yield from _moved(store, adopt=adopt)
    yield from _undelivered(store)
    for finding in _behind(store):
        reported.add(finding.run_id)
        yield finding
    yield from _dead_runs(store, reported)
    yield from _litter(project_root() / "results")
    yield from _half_written(store)


def _journal(folder: Path) -> Iterator[Problem]:
    path = folder / JOURNAL
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):

        def cure() -> None:
            with waiting_for(Path(f"{path}.flock")):
                mend_journal(path)

        yield Problem(
            subject=str(path),
            problem="its last line is half-written",
            remedy="the half line is cut off; its entry had no effect yet",
            cure=cure,
        )


def _study(handle: StudyHandle, store: Store) -> Iterator[Problem]:
    for path in sorted((handle.folder / "workers").glob("*.lock")):
        if is_free(path):
            yield Problem(
                subject=str(path),
                problem="the worker is gone",
                remedy="its lock file is removed",
                cure=path.unlink,
            )
    trials = handle.trials()
    yield from _left_elsewhere(handle, trials, store)
    for trial in trials:
        yield from _trial(handle, trial, store)
    numbers = {trial.number for trial in trials}
    for folder in sorted(handle.results.glob("trial-*")):
        digits = folder.name.removeprefix("trial-")
        if digits.isdigit() and int(digits) not in numbers:
            yield Problem(
                subject=str(folder),
                problem=f"study {handle.definition.name} has no such trial",
                remedy="remove the folder if its checkpoints are not wanted",
            )


def _left_elsewhere(
    handle: StudyHandle, trials: Sequence[Trial], store: Store
) -> Iterator[Problem]:
    """Yield the study if this store has no run of it, as after a copy without `mlruns/`."""
    name = handle.definition.name
    if any(trial.run_id for trial in trials) and store.tagged("study", name) is None:
        yield Problem(
            subject=f"study {name}",
            problem=f"none of its runs is in {store.location}",
            remedy="bring its mlruns/ here, or name its store with --tracking-uri; study run, "
            "promote and enhance work without its runs",
        )


def _trial(handle: StudyHandle, trial: Trial, store: Store) -> Iterator[Problem]:
    subject = f"trial {trial.number} of study {handle.definition.name}"
    folder = handle.trial_folder(trial.number)
    if trial.state in _OPEN:
        try:
            newest_checkpoint(folder / SAVE_FOLDER)
        except CycleGANError as error:
            remedy = f"restore it, or remove {folder}: the trial then starts over"
            yield Problem(subject=subject, problem=str(error), remedy=remedy)
    run_id = trial.run_id or recorded_run(folder)
    if trial.state not in _STATUS or not run_id:
        return
    try:
        run = store.find_run(run_id)
    except CycleGANError as error:
        if isinstance(error, DataError) and trial.state not in _OPEN:
            return  # deleted on purpose, as `cyclegan runs gc` does
        yield Problem(subject=subject, problem=str(error), remedy="its record in Optuna is intact")
        return
    wanted = _STATUS[trial.state]
    over = trial.state not in _OPEN
    if run.status == "RUNNING" and not over and is_alive(run.tags.get(PROCESS, "")):
        return  # between two leases right now
    wrong = run.status == "RUNNING" or (over and run.status != wanted)
    score = trial.score if trial.state == "complete" else None
    unranked = score is not None and "score/value" not in run.metrics
    if wrong or unranked or (over and run.tags.get("state", trial.state) != trial.state):

        def cure() -> None:
            found = store.run(run.id)
            if score is not None and unranked:
                found.log_metrics({"score/value": score}, trial.iteration)
            found.finish(wanted, trial.reason or DIED)
            if over:
                found.set_tags({"state": trial.state})

        what = f"{trial.state} in Optuna" if over else "no worker trains it"
        known = f"{run.status} in MLflow" + (", without its score" if unranked else "")
        yield Problem(
            subject=subject,
            problem=f"{what}, {known} (run {run.id})",
            remedy=f"the run is set to {wanted} until the trial continues"
            if not over
            else f"the run is set to {wanted}, its tag state to {trial.state}",
            cure=cure,
            run_id=run.id,
        )


def _moved(store: Store, *, adopt: bool) -> Iterator[Problem]:
    """Yield the old places of a moved store whose files it could not adopt when it was opened."""
    if store.location.is_server or not store.exists:
        return
    moved = MovedStore(store.location)
    left = moved.obstacles(asked=adopt)
    for line in moved.obstacles():
        problem, _, remedy = line.removeprefix(f"{store.location}: ").partition("; ")
        if line in left:
            yield Problem(subject=str(store.location), problem=problem, remedy=remedy)
            continue
        yield Problem(
            subject=str(store.location),
            problem=problem,
            remedy="the database names the new folder",
            cure=partial(moved.adopt, asked=True),
        )


def _undelivered(store: Store) -> Iterator[Problem]:
    """Yield the outboxes that hold records for MLflow, written while the store was away."""
    for outbox in waiting(store):
        if not len(outbox):
            continue
        run_id, folder = outbox.about["run_id"], outbox.folder
        try:
            store.run(run_id)
        except DataError as error:  # the run was deleted; perhaps nobody wants its entries
            yield Problem(
                subject=str(folder),
                problem=f"{count(len(outbox), 'record')} waiting, but {error}",
                remedy="restore the run, or remove the folder",
            )
            continue
        yield Problem(
            subject=f"run {outbox.about['name']} ({run_id})",
            problem=f"{count(len(outbox), 'record')} waiting in {folder}",
            remedy="they are delivered to MLflow",
            cure=partial(deliver_from, store, folder),
        )


def _behind(store: Store) -> Iterator[Problem]:
    """Yield the ended trainings of which MLflow knows less than their checkpoints."""
    for ended in ended_trainings(project_root() / "results"):
        lacking = shortfall(store, ended)
        if lacking is not None:
            yield Problem(
                subject=f"run {ended.run_id}",
                problem=lacking,
                remedy="the rest is read from the checkpoint and written to MLflow",
                cure=partial(catch_up, store, ended),
                run_id=ended.run_id,
            )


def _dead_runs(store: Store, reported: Collection[str]) -> Iterator[Problem]:
    """Yield the runs that MLflow shows as RUNNING although their process is gone."""
    for run, alive in dead_runs(store):
        if run.id in reported:
            continue
        process = run.tags.get(PROCESS)
        subject = f"{run.tags.get('kind', 'run')} {run.name} ({run.id})"
        if alive is None:
            where = process.partition("/")[0] if process else "an unknown host"
            yield Problem(
                subject=subject,
                problem=f"RUNNING in MLflow, started on {where}, which can't be checked from here",
                remedy="run cyclegan doctor there",
            )
        else:
            yield Problem(
                subject=subject,
                problem="RUNNING in MLflow, but its process is gone",
                remedy="the run is set to KILLED until it continues",
                cure=partial(close_dead_run, store, run),
            )


def _litter(results: Path) -> Iterator[Problem]:
    """Yield the half-written files of processes that are gone."""
    for path in sorted(results.rglob(".*.part")):
        lock = next((p / ".lock" for p in path.parents if (p / "run.json").is_file()), None)
        if lock is not None and is_free(lock):
            yield Problem(
                subject=str(path),
                problem="half-written by a process that is gone",
                remedy="it is removed; the file it was meant to replace is intact",
                cure=path.unlink,
            )


def _half_written(store: Store) -> Iterator[Problem]:
    """Yield the half-written artifacts that nobody has written to for an hour."""
    if store.location.database is None:
        return
    for path in half_written(store.location.database.parent / "artifacts", quiet_seconds=3600):
        yield Problem(
            subject=str(path),
            problem="half-written by a process that is gone",
            remedy="it is removed; the artifact is written again where its command goes on",
            cure=partial(path.unlink, missing_ok=True),
        )
