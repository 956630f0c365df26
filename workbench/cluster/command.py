"""Run a command with `--slurm`: check here what can be checked, submit, say what follows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.addresses import without_secrets
from cyclegan.errors import UsageError
from search.study.definition import StudyDefinition
from search.study.runner import begin_study
from search.study.storage import StudyStorage, storage_for
from search.study.study import studies_folder
from tracking import project_root
from tracking.database import locate
from viz.console import Console
from workbench.cluster.jobs import FOLDER
from workbench.cluster.options import PARAMETERS, SlurmOptions
from workbench.cluster.submission import check_cluster, script, submit
from workbench.output import Output

if TYPE_CHECKING:
    from tracking import Store


def submit_study(
    definition: StudyDefinition,
    options: SlurmOptions,
    *,
    open_store: Callable[[], Store],
    console: Console,
    workers: int,
    storage: str | None,
    tracking_uri: str | None,
) -> Output:
    """Begin a study here, and submit jobs that train its trials.

    Args:
        workers: processes of each job; 1 means one for each of its GPUs.

    Errors: `UsageError` if several hosts can't share the study's storage or the MLflow store.
    """
    check_cluster(options)
    name, count = definition.name, max(workers, options.gpus, 1)
    place = storage_for(studies_folder() / name, storage)
    if options.jobs > 1:
        _check_shared(place, tracking_uri)
    _check_secrets(place, tracking_uri)
    arguments = ["study", "run", name, "--workers", str(count)]
    arguments += ["--tracking-uri", tracking_uri] if tracking_uri else []
    folder = place.folder / FOLDER
    if options.dry_run:
        return _printed(arguments, options, folder=folder, name=name)
    begin_study(definition, store=open_store, console=console, storage=storage)
    ids = submit(arguments, options, folder=folder, name=name)
    text = (
        f"study {name}: submitted {_jobs(ids)}; see them and the trials with cyclegan study show "
        f"{name}, end them with cyclegan study cancel {name}"
    )
    return Output(data={"study": name, "jobs": ids}, text=text)


def submit_command(name: str, options: SlurmOptions, *, further: Sequence[str] = ()) -> Output:
    """Submit the command line that was given here as jobs, which go on when they are requeued.

    Args:
        name: name of the jobs.
        further: arguments to add.
    """
    check_cluster(options)
    arguments = [*without_slurm(sys.argv[1:]), *further]
    folder = project_root() / "results" / FOLDER / name
    if options.dry_run:
        return _printed(arguments, options, folder=folder, name=name)
    ids = submit(arguments, options, folder=folder, name=name)
    where = next(folder.glob(f"*/jobs/{ids[0]}*"), folder).parent
    array = ids[0].partition("_")[0]
    text = f"submitted {_jobs(ids)}; messages are in {_shown(where)}; end with scancel {array}"
    return Output(data={"jobs": ids, "folder": str(where)}, text=text)


def shared_out(gpus: int) -> list[str]:
    """Return the words that let a training use all GPUs of its job."""
    return ["--gpus", str(gpus)] if gpus > 1 else []


def without_slurm(words: Sequence[str]) -> list[str]:
    """Return a command line without the options of SLURM and their values."""
    flags = {"--slurm", "--dry-run"}
    valued = {f"--{name.replace('_', '-')}" for name in PARAMETERS} - flags
    kept, rest = [], iter(words)
    for word in rest:
        option = word.partition("=")[0]
        if option in valued and "=" not in word:
            next(rest, None)
        elif option not in valued and word not in flags:
            kept.append(word)
    return kept


def _printed(arguments: Sequence[str], options: SlurmOptions, *, folder: Path, name: str) -> Output:
    text = script(arguments, options, folder=folder, name=name)
    return Output(data={"script": text}, text=text)


def _jobs(ids: Sequence[str]) -> str:
    return f"job {ids[0]}" if len(ids) == 1 else f"{len(ids)} jobs ({ids[0]} to {ids[-1]})"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _check_shared(place: StudyStorage, tracking_uri: str | None) -> None:
    """Refuse files that several hosts would write at the same time.

    File systems that hosts share (NFS, Lustre) don't keep SQLite's locks and Optuna's journal safe.
    """
    if place.url is None or place.url.get_backend_name() == "sqlite":
        raise UsageError(
            f"--jobs above 1: several hosts can't share {place.shown} safely; give the study a "
            "database with --storage postgresql://host/name, or submit one job"
        )
    store = locate(tracking_uri)
    if store.uri.startswith("sqlite"):
        raise UsageError(
            f"--jobs above 1: several hosts can't share the MLflow store {store.uri} safely; "
            "serve it on one of them with cyclegan ui --host ADDRESS, and name it with "
            "--tracking-uri http://ADDRESS:5000; or give the address of a database"
        )


def _check_secrets(place: StudyStorage, tracking_uri: str | None) -> None:
    if place.url is not None and place.url.password:
        raise UsageError(
            "--storage: with --slurm the study's files would have to hold the password; leave "
            "it to ~/.pgpass or to PGPASSWORD, which jobs inherit"
        )
    if tracking_uri and without_secrets(tracking_uri) != tracking_uri:
        raise UsageError(
            "--tracking-uri: with --slurm its password would be written into the jobs' files; set "
            "MLFLOW_TRACKING_URI instead, which jobs inherit"
        )
