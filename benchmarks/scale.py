"""Thousands of trials and hundreds of workers on one study, in a database.

    python tests/fixtures/postgres.py &                      # prints the address of a new server
    OMP_NUM_THREADS=1 python benchmarks/scale.py --server postgresql://tester@127.0.0.1:PORT/postgres

Two new databases on that server, one for Optuna and one for MLflow, are removed at the end. First a
study of 10,000 trials, 300 of them running, is put into them, and these are timed:
the first read of all trials, with Optuna's own storage beside ours; a later read; what a worker
does under the study's lock (`claim`), after a trial (`table`, `release`), the study's report, and
`cyclegan study show` as a command. Then real workers, each a process with the real loop of
`search.study.worker`, share another study for some minutes: they claim, renew leases, report, are
pruned, and log to MLflow; only the training between two reports is a sleep.
None of them needs torch for it, so that one machine carries many. Every trial must have been
trained once, by one worker.

`--json` prints all figures in one line. What the trial's length makes of them on paper: a worker's
own share of the time, and how much of an hour the lock is held if 300 workers train 10,000 trials.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import optuna
import psycopg
import sqlalchemy
import yaml
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from cyclegan.events import TrainResult
from search.launch import Job, LaunchResult
from search.study import open_study, trial, worker
from search.study.definition import StudyDefinition, parse_definition
from search.study.lease import Owner
from search.study.progress import StudyProgress
from search.study.report import Evidence, gather, study_page
from search.study.retention import release_checkpoints
from search.study.runner import begin_study
from search.study.study import StudyHandle
from search.study.trial import WorkerContext
from search.study.worker import claim, update_study_run
from tracking import Store
from tracking.downsampling import Sample
from tracking.outbox.records import End, Params, Samples
from tracking.outbox.writer import BackgroundWriter
from tracking.params import flatten
from viz.console import Console

STEPS, REPORTS = 1_000, 10
LOGGED_EVERY = 10
"""Training steps between two points of the metrics, as `log_every` has it."""
METRICS = tuple(f"loss/{name}" for name in ("G_A", "G_B", "D_A", "D_B", "C_A", "C_B", "G_total"))
PAPER_TRIALS, PAPER_WORKERS, PAPER_SECONDS = 10_000, 300, 3_600.0


# -- A project and its studies -----------------------------------------------------------------


def new_project(folder: Path) -> None:
    """Make a project's folders and two small volumes."""
    for name in ("studies", "mlruns"):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    for domain in ("A", "B"):
        with h5py.File(folder / f"{domain}.h5", "w") as file:
            file["data"] = random.normal(100, 10, (24, 24, 24)).astype(np.float32)
        volume = {"path": f"{domain}.h5", "dset": "data"}
        dataset = {"train": [volume], "validate": [volume]}
        (folder / f"{domain}.json").write_text(json.dumps(dataset))


@contextlib.contextmanager
def on_server(address: str, names: Sequence[str]) -> Iterator[None]:
    """Make databases, and remove them at the end."""
    with psycopg.connect(address, autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield
        finally:
            for name in names:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def definition_of(name: str, trials: int) -> StudyDefinition:
    """Return a study of seven keys."""
    keys = ("lr_g", "lr_d", *(f"lambdas.{name}" for name in ("G_A", "C_A", "I_A", "P_A", "P_B")))
    values = {
        "name": name,
        "config": {"data_A": "A.json", "data_B": "B.json", "imsize_A": [8, 8, 8], "device": "cpu"}
        | {"precision": "fp32", "filters": 2, "filters_D": 4, "layers_D": 1},
        "space": {key: {"type": "float", "low": 1e-4, "high": 1e-2, "log": True} for key in keys},
        "trials": trials,
        "steps": STEPS,
        "report_every": STEPS // REPORTS,
        "pruner": {"name": "percentile", "prune_after": STEPS // 2},
    }
    return parse_definition(values, Path("study.yaml"))


def forked(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own: connections of this one would be shared by all."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    process = context.Process(target=lambda: results.put(call(*arguments)))
    process.start()
    found = results.get()
    process.join()
    return found


def begun(name: str, storage: str, tracking: str, trials: int) -> None:
    """Begin a study, its run in MLflow included."""
    definition = definition_of(name, trials)
    with Path("studies", f"{definition.name}.yaml").open("w") as file:
        yaml.safe_dump(definition.model_dump(mode="json"), file)
    console = Console(quiet=True)
    begin_study(definition, store=Store.open(tracking), console=console, storage=storage)


def filled(handle: StudyHandle, count: int, running: int) -> None:
    """Put trials into the study's tables, the last ones still running."""
    database = handle.storage.open()._backend  # type: ignore[attr-defined]
    study, random = handle.study._study_id, np.random.default_rng(0)
    now = sqlalchemy.func.now()
    config = json.dumps(json.dumps(handle.definition.config_of(0, {}).to_dict()))
    space: Any = handle.definition.space
    kinds = {
        key: optuna.distributions.distribution_to_json(dimension.distribution())
        for key, dimension in space.items()
    }
    with database.engine.begin() as connection:

        def add(model: Any, rows: Sequence[dict[str, Any]]) -> None:
            connection.execute(model.__table__.insert(), rows)

        table = models.TrialModel.__table__
        ids = []
        for number in range(count):
            over = number < count - running
            row = {"number": number, "study_id": study, "state": "COMPLETE" if over else "RUNNING"}
            row |= {"datetime_start": now, "datetime_complete": now if over else None}
            found = connection.execute(table.insert().values(row))
            ids.append(found.inserted_primary_key[0])
        for key, kind in kinds.items():
            values = (1e-4 * 100 ** random.random(count)).tolist()
            rows = zip(ids, values, strict=True)
            add(
                models.TrialParamModel,
                [
                    {"trial_id": i, "param_name": key, "param_value": v, "distribution_json": kind}
                    for i, v in rows
                ],
            )
        scores = random.normal(1.0, 0.5, count).tolist()
        over = list(zip(ids, scores, strict=True))[: count - running]
        finite = {"value_type": "FINITE", "objective": 0}
        add(models.TrialValueModel, [{"trial_id": i, "value": v} | finite for i, v in over])
        reported = {"intermediate_value_type": "FINITE"}
        every = STEPS // REPORTS
        for at in range(every, STEPS + 1, every):
            rows = zip(ids, scores, strict=True)
            add(
                models.TrialIntermediateValueModel,
                [
                    {"trial_id": i, "step": at, "intermediate_value": v - 1 + at / STEPS} | reported
                    for i, v in rows
                ],
            )
        lease = {"owner": "a", "command": "a", "host": "elsewhere", "pid": 1, "at": time.time()}
        seeds = [{"seed": 1, "run_id": "", "score": 1.0, "iteration": STEPS}]
        values = {"config": config, "mlflow_run_id": '""', "step": str(STEPS), "reason": '""'}
        values |= {"iteration": str(STEPS), "seconds": "100.0", "seeds": json.dumps(seeds)}
        values |= {"origin": json.dumps({"data": {"A.h5": "a" * 64}, "versions": {"a": "b" * 200}})}
        for key, value in values.items():
            add(
                models.TrialUserAttributeModel,
                [{"trial_id": i, "key": key, "value_json": value} for i in ids],
            )
        add(
            models.TrialUserAttributeModel,
            [
                {"trial_id": i, "key": "lease", "value_json": json.dumps(lease)}
                for i in ids[count - running :]
            ],
        )


# -- What one process does with many trials ----------------------------------------------------


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and the processor seconds of a call."""
    began, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - used


def of_one_process(
    name: str, storage: str, tracking: str, trials: int, running: int
) -> dict[str, float]:
    """Return the seconds of what a process does with the trials of a new study."""
    begun(name, storage, tracking, 2 * trials)
    handle = open_study(name)
    filled(handle, trials, running)
    found: dict[str, float] = {}

    def note(name: str, call: Callable[[], object]) -> None:
        found[name], found[f"{name}_processor"] = timed(call)

    study = handle.study._study_id
    optunas = RDBStorage(storage, engine_kwargs={"pool_size": 1})
    note("first_read_optuna", lambda: optunas._get_trials(study, None, set(), -1))
    fresh = open_study(name)
    note("first_read", lambda: fresh.study.get_trials(deepcopy=False))
    note("later_read", lambda: fresh.study.get_trials(deepcopy=False))
    everything = fresh.study.get_trials(deepcopy=False)
    unfinished = {t._trial_id for t in everything[-running:]}
    last = everything[-running - 1]._trial_id
    note("later_read_optuna", lambda: optunas._get_trials(study, None, unfinished, last))
    store = Store.open(tracking)
    parent = fresh.study.user_attrs["mlflow_run_id"]
    with Owner(fresh.folder) as owner:
        context = context_of(fresh, store, owner, parent)
        held: list[float] = []
        with _timed_lock(fresh, held):
            note("claim", lambda: claim(context))
        found["claim_under_lock"] = sum(held)
    note("table", lambda: update_study_run(fresh, store, parent))
    note("release", lambda: release_checkpoints(fresh))
    pages: list[str] = []
    note(
        "report",
        lambda: pages.append(study_page(gather(fresh, Evidence(store, parent), "running"))),
    )
    found["report_mb"] = len(pages[0].encode()) / 1e6
    command = [sys.executable, "-m", "workbench", "study", "show", name]
    for kind in ("show", "show_json"):
        line = command + (["--json"] if kind == "show_json" else [])
        began = time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        found[kind] = time.perf_counter() - began
        found[f"{kind}_mb"] = len(done.stdout) / 1e6
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "workbench", "--help"], capture_output=True, check=True)
    found["empty_command"] = time.perf_counter() - began
    return found


@contextlib.contextmanager
def _timed_lock(handle: StudyHandle, held: list[float]) -> Iterator[None]:
    """Note how long the study's lock is held."""
    real = type(handle.storage).claiming

    @contextlib.contextmanager
    def claiming(storage: Any) -> Iterator[None]:
        with real(storage):
            began = time.perf_counter()
            yield
            held.append(time.perf_counter() - began)

    type(handle.storage).claiming = claiming  # type: ignore[method-assign]
    try:
        yield
    finally:
        type(handle.storage).claiming = real  # type: ignore[method-assign]


# -- Many workers ------------------------------------------------------------------------------


class _Silent(StudyProgress):
    def _tell(self, kind: str, *content: Any) -> None:
        pass


def context_of(handle: StudyHandle, store: Store, owner: Owner, parent: str) -> WorkerContext:
    """Return what a worker needs."""
    return WorkerContext(
        handle=handle,
        store=store,
        console=Console(quiet=True),
        progress=_Silent(),
        owner=owner,
        parent=parent,
        precision="fp32",
    )


class _Trainer:
    """Stands in for the trainer: it has a number of steps, and can be asked to stop."""

    def __init__(self, job: Job) -> None:
        self.config, self.step, self.stopped = job.config, 0, ("", "completed")

    def request_stop(self, reason: str, *, outcome: str = "stopped") -> None:
        self.stopped = (reason, outcome)


def sleeping(seconds: float, slept: list[float]) -> Callable[..., LaunchResult]:
    """Return a stand-in for `run_training` that sleeps, reports and logs."""

    def run(job: Job, *, store: Store, console: Console, callbacks: Sequence[Any]) -> LaunchResult:
        job.folder.mkdir(parents=True, exist_ok=True)
        made = store.create_run(
            job.experiment, job.config.run_name, kind=job.kind, params=job.params,
            tags=dict(job.tags), parent=job.parent,
        )  # fmt: skip
        (job.folder / "run.json").write_text(json.dumps({"run_id": made.id}))
        writer = BackgroundWriter(made)
        writer.put(Params(flatten(job.config.to_dict())))
        fake: Any = _Trainer(job)
        for callback in callbacks:
            callback.on_train_start(fake)
        random = np.random.default_rng(job.config.seed)
        score, every = float(random.normal(1.0, 0.5)), STEPS // REPORTS
        began = time.time()
        while fake.step < STEPS and not fake.stopped[0]:
            for _ in range(every // LOGGED_EVERY):
                pause = seconds * LOGGED_EVERY / STEPS
                time.sleep(pause)
                slept.append(pause)
                fake.step += LOGGED_EVERY
                values = dict(zip(METRICS, random.random(len(METRICS)), strict=True))
                at = round(1000 * (time.time() - began))
                writer.put(Samples((Sample(fake.step, values, at),)))
            reached = score - 1.0 + fake.step / STEPS
            report: Any = SimpleNamespace(
                step=fake.step, iteration=fake.step, gate=None, score=reached,
                metrics={"score": reached}, images={},
            )  # fmt: skip
            for callback in callbacks:
                callback.on_validation_end(fake, report)
            for callback in callbacks:
                callback.on_step_end(fake, {})
        writer.put(End("FINISHED", ""))
        writer.close()
        reason, outcome = fake.stopped
        result = TrainResult(
            outcome=outcome, reason=reason, step=fake.step, iteration=fake.step, score=score,
        )  # fmt: skip
        return LaunchResult(result=result, run_id=made.id, folder=job.folder)

    return run


def work(name: str, tracking: str, seconds: float, results: Any) -> None:
    """Work on the study as a process of its own, and report times and trials."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    slept: list[float] = []
    trained: list[int] = []
    held: list[float] = []
    waited: list[float] = []
    error = ""
    began = time.perf_counter()
    real = worker.train_trial
    trial.run_training = sleeping(seconds, slept)

    def train(one: optuna.trial.Trial, context: WorkerContext) -> Any:
        trained.append(one.number)
        return real(one, context)

    def asked(context: WorkerContext, *rest: Any) -> Any:
        start, before = time.perf_counter(), sum(held)
        found = claim(context, *rest)
        waited.append(time.perf_counter() - start - (sum(held) - before))
        return found

    worker.train_trial, worker.claim = train, asked
    try:
        handle = open_study(name)
        parent = handle.study.user_attrs["mlflow_run_id"]
        with Owner(handle.folder) as owner, _timed_lock(handle, held):
            worker.work(context_of(handle, Store.open(tracking), owner, parent))
    except Exception as failure:  # noqa: BLE001  (it is counted)
        error = f"{type(failure).__name__}: {failure}"
    wall, used = time.perf_counter() - began, time.process_time()
    results.put(
        {"trained": trained, "slept": sum(slept), "wall": wall, "processor": used}
        | {"held": held, "waited": waited, "error": error}
    )


def of_workers(
    name: str, storage: str, tracking: str, wanted: int, count: int, seconds: float
) -> dict[str, Any]:
    """Let workers train the whole study, and return what it cost and whether all went right."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    line = (name, tracking, seconds, results)
    processes = [context.Process(target=work, args=line, daemon=True) for _ in range(count)]
    began = time.perf_counter()
    for process in processes:
        process.start()
        time.sleep(min(seconds / count, 0.2))  # so that not all trials end at the same moment
    found: list[dict[str, Any]] = []
    most = 0
    while len(found) < count:
        most = max(most, _connections(storage))
        with contextlib.suppress(Exception):
            found.append(results.get(timeout=2.0))
    wall = time.perf_counter() - began
    times = Counter(number for one in found for number in one["trained"])
    trials = open_study(name).trials()
    over = [t for t in trials if t.state in ("complete", "pruned")]
    held = sorted(x for one in found for x in one["held"])
    each = sum(one["wall"] - one["slept"] for one in found) / max(len(over), 1)
    return {
        "workers": count,
        "trials": len(trials),
        "seconds_of_a_trial": seconds,
        "wall": wall,
        "lost": sum(number not in times for number in range(wanted)),
        "not_over": len(trials) - len(over),
        "trained_twice": sum(n > 1 for n in times.values()),
        "errors": [one["error"] for one in found if one["error"]]
        + [f"trial {t.number}: {t.reason}" for t in trials if t.state == "failed"],
        "most_connections": most,
        "seconds_beside_training": each,
        "processor_seconds": sum(one["processor"] for one in found) / max(len(over), 1),
        "under_lock_mean": sum(held) / max(len(held), 1),
        "under_lock_most": held[-1] if held else 0.0,
        "waited_mean": float(np.mean([x for one in found for x in one["waited"]])),
    }


def _connections(storage: str) -> int:
    address = storage.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(address) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        ).fetchone()
    return int(row[0]) if row else 0


def on_paper(one: dict[str, float], many: dict[str, Any]) -> dict[str, float]:
    """Return what the figures mean for 300 workers that train 10,000 trials in an hour."""
    each = PAPER_SECONDS * PAPER_WORKERS / PAPER_TRIALS
    claims = PAPER_TRIALS + PAPER_WORKERS
    return {
        "seconds_of_a_trial": each,
        "lock_held_share": one["claim_under_lock"] * claims / PAPER_SECONDS,
        "worker_share": many["processor_seconds"] / each,
    }


def main() -> None:
    """Time one process with many trials, then many workers; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", required=True, help="address of a database on a server")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=300)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--shared-trials", type=int, default=400, help="trials the workers train")
    parser.add_argument("--seconds", type=float, default=30.0, help="training time of a trial")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    here = Path.cwd()
    unique = uuid.uuid4().hex[:8]
    os.environ["PYTHONPATH"] = str(here)
    databases = [f"{kind}_{unique}" for kind in ("study", "mlflow")]
    with tempfile.TemporaryDirectory() as folder, on_server(options.server, databases):
        os.chdir(folder)
        new_project(Path(folder))
        storage, tracking = (f"{options.server.rpartition('/')[0]}/{name}" for name in databases)
        sizes = (options.trials, options.running)
        one = forked(of_one_process, f"many-{unique}", storage, tracking, *sizes)
        shared = (f"shared-{unique}", storage, tracking, options.shared_trials)
        forked(begun, *shared)
        workers = of_workers(*shared, options.workers, options.seconds)
        os.chdir(here)
    figures = {"one_process": one, "workers": workers, "on_paper": on_paper(one, workers)}
    if options.json:
        print(json.dumps(figures))
        return
    for title, values in figures.items():
        print(title)
        for name, value in values.items():
            shown = f"{value:.3f}" if isinstance(value, float) else value
            print(f"  {name:26} {shown}")


if __name__ == "__main__":
    main()
