"""Studies and trainings on a real SLURM cluster: time limits, preemption, dying nodes, cancelling.

A study that a cluster cuts into pieces ends as one that nothing disturbed.
"""

from __future__ import annotations

import json
import shlex
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import psycopg
import pytest
import yaml
from mlflow import MlflowClient

from tests.workbench.cluster.conftest import ROOT, ClusterProject

pytestmark = pytest.mark.slow

Define = Callable[..., dict[str, Any]]
Wait = Callable[..., Any]
SMALL = ("--gpus", "0", "--mem", "2000M")
TIMED = ("seconds", "started", "run_id", "origin", "seeds", "deaths", "interruptions")


def plain(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return trials without what differs between two runs of the same study."""
    return [{k: v for k, v in one.items() if k not in TIMED} for one in trials]


def reached(project: ClusterProject, name: str, iteration: int) -> bool:
    trials = project.show(name)["trials"]
    return any(t["state"] == "running" and t["iteration"] >= iteration for t in trials)


def is_over(project: ClusterProject, name: str) -> bool:
    found = project.show(name)
    ended = all(t["state"] == "complete" for t in found["trials"])
    return ended and len(found["trials"]) == found["trials_wanted"] and not project.cluster.states()


@pytest.fixture
def undisturbed(
    on_cluster: ClusterProject, long_study: Define
) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function that runs the study here, under another name, without interruption."""

    def run(**changes: Any) -> list[dict[str, Any]]:
        on_cluster.define(long_study("here", **changes))
        return plain(on_cluster.json("study", "run", "studies/here.yaml")["trials"])

    return run


def test_at_its_time_limit_a_job_is_requeued_and_goes_on(
    on_cluster: ClusterProject, long_study: Define, wait: Wait
) -> None:
    on_cluster.define(long_study("limit", trials=1, steps=1_000_000, report_every=1000))
    limit = ("--time", "2m", "--grace", "60")  # so it must leave after a minute
    line = ("study", "run", "studies/limit.yaml", "--slurm", *SMALL, *limit)
    (job,) = on_cluster.json(*line)["jobs"]
    wait(lambda: any(t["interruptions"] for t in on_cluster.show("limit")["trials"]), 300)
    (told,) = on_cluster.show("limit")["jobs"]
    assert told["name"] == job and told["requeues"] == 1
    wait(lambda: "continuing" in on_cluster.logs())
    assert "all of them went on" in on_cluster.call("study", "show", "limit").stdout
    on_cluster.json("study", "cancel", "limit")
    wait(lambda: not on_cluster.cluster.states(), 300)
    (trial,) = on_cluster.show("limit")["trials"]
    assert trial["state"] == "interrupted" and trial["deaths"] == 0


def test_a_preempted_job_goes_on_elsewhere(
    on_cluster: ClusterProject, long_study: Define, undisturbed: Any, wait: Wait
) -> None:
    on_cluster.define(long_study("low"))
    line = ("study", "run", "studies/low.yaml", "--slurm", "--partition", "low", *SMALL)
    (job,) = on_cluster.json(*line)["jobs"]
    wait(lambda: reached(on_cluster, "low", 300), 300)
    node = on_cluster.cluster.node_of(job)
    on_cluster.cluster.call(
        *("sbatch", "-p", "main", "-w", f"n{node}", "--exclusive", "-t", "1", "-o", "/dev/null"),
        *("--wrap", "sleep 20"),
    )
    wait(lambda: is_over(on_cluster, "low"), 600)
    found = on_cluster.show("low")
    assert found["jobs"][0]["requeues"] == 1
    assert sum(trial["interruptions"] for trial in found["trials"]) == 1
    assert plain(found["trials"]) == undisturbed()


def test_cancelled_jobs_leave_in_order_and_are_not_requeued(
    on_cluster: ClusterProject, long_study: Define, wait: Wait
) -> None:
    on_cluster.define(long_study("cancelled"))
    line = ("study", "run", "studies/cancelled.yaml", "--slurm", *SMALL)
    jobs = on_cluster.json(*line)["jobs"]
    wait(lambda: reached(on_cluster, "cancelled", 300), 300)
    assert on_cluster.json("study", "cancel", "cancelled")["cancelled"] == jobs
    wait(lambda: not on_cluster.cluster.states(), 300)
    found = on_cluster.show("cancelled")
    assert [job["state"] for job in found["jobs"]] == ["cancelled"]
    assert [trial["state"] for trial in found["trials"]] == ["interrupted"]
    text = on_cluster.call("study", "show", "cancelled").stdout
    assert "not yet continued: trial 0" in text
    on_cluster.json(*line)
    wait(lambda: is_over(on_cluster, "cancelled"), 600)
    first = on_cluster.show("cancelled")["trials"][0]
    assert first["interruptions"] == 1 and first["deaths"] == 0


def test_scancel_ends_a_job_in_order_and_for_good(
    on_cluster: ClusterProject, long_study: Define, wait: Wait
) -> None:
    on_cluster.define(long_study("ended"))
    line = ("study", "run", "studies/ended.yaml", "--slurm", *SMALL)
    (job,) = on_cluster.json(*line)["jobs"]
    wait(lambda: reached(on_cluster, "ended", 300), 300)
    on_cluster.cluster.call("scancel", job)
    wait(lambda: not on_cluster.cluster.states(), 300)
    found = on_cluster.show("ended")
    assert [job["state"] for job in found["jobs"]] == ["interrupted"]
    assert found["trials"][-1]["state"] == "interrupted"
    assert "interrupted: at step" in on_cluster.logs()


def test_where_nodes_may_not_requeue_another_job_follows(
    on_cluster: ClusterProject, long_study: Define, wait: Wait
) -> None:
    programs = on_cluster.folder / "programs"
    programs.mkdir()
    (programs / "scontrol").write_text("#!/bin/sh\necho 'access denied' >&2\nexit 1\n")
    (programs / "scontrol").chmod(0o755)
    on_cluster.define(long_study("follows"))
    setup = ("--setup", f"export PATH={shlex.quote(str(programs))}:$PATH")
    line = ("study", "run", "studies/follows.yaml", "--slurm", *SMALL, *setup)
    (job,) = on_cluster.json(*line)["jobs"]
    wait(lambda: reached(on_cluster, "follows", 300), 300)
    on_cluster.cluster.call("scancel", "--signal=USR2", job)  # as SLURM does before a limit
    wait(lambda: is_over(on_cluster, "follows"), 600)
    first, second = on_cluster.show("follows")["jobs"]
    assert first["state"] == f"followed by job {second['name']}" and second["state"] == "done"


def test_a_training_goes_on_in_its_requeued_job(
    on_cluster: ClusterProject, tiny: dict[str, Any], wait: Wait
) -> None:
    values = tiny | {"run_name": "long", "steps": 3000, "checkpoint_every": 100}
    values |= {"validate_every": 300}
    (on_cluster.folder / "long.yaml").write_text(yaml.safe_dump(values))
    (job,) = on_cluster.json("train", "long.yaml", "--slurm", *SMALL)["jobs"]
    wait(lambda: list(on_cluster.folder.glob("results/long/save/*.pt")), 300)
    on_cluster.cluster.call("scancel", "--signal=USR2", job)
    wait(lambda: not on_cluster.cluster.states(), 600)
    again = on_cluster.json("train", "long.yaml", "--resume")
    assert again["reused"] and again["outcome"] == "completed"
    assert "continuing at step" in on_cluster.logs()
    undisturbed = on_cluster.json("train", "long.yaml", "--set", "run_name=here")
    assert again["best_score"] == undisturbed["best_score"]


@pytest.fixture
def databases(postgresql: str) -> tuple[str, str]:
    """Addresses of two new databases: for a study, and for MLflow."""
    server = postgresql.rpartition("/")[0]
    study, mlflow = (f"{name}_{uuid.uuid4().hex}" for name in ("study", "mlflow"))
    with psycopg.connect(postgresql, autocommit=True) as connection:
        for name in (study, mlflow):
            connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{study}", f"{server}/{mlflow}"


def test_a_worker_without_work_stays_and_goes_on_where_a_node_died(
    on_cluster: ClusterProject, long_study: Define, databases: tuple[str, str], wait: Wait
) -> None:
    """Jobs of the user's own, which SLURM does not requeue."""
    on_cluster.define(long_study("stays"))
    storage, tracking = databases
    line = [sys.executable, "-P", "-m", "workbench", "study", "run", "studies/stays.yaml"]
    line += ["--storage", storage, "--tracking-uri", tracking]
    log = on_cluster.folder / "4_log.out"
    for number in (4, 3):
        command = f"cd {on_cluster.folder} && PYTHONPATH={ROOT} srun {shlex.join(line)}"
        on_cluster.cluster.call(
            *("sbatch", "-w", f"n{number}", "--no-requeue", "--mem", "2000M", "-o"),
            *(str(on_cluster.folder / f"{number}_log.out"), "--wrap", command),
        )
        if number == 4:  # whose trial is to end first
            wait(lambda: _is_running(on_cluster), 300)
    wait(lambda: any(said in log.read_text() for said in _STAYS), 300)
    on_cluster.cluster.kill_node(3)
    try:
        wait(lambda: is_over(on_cluster, "stays"), 600)
    finally:
        on_cluster.cluster.start_node(3)
    found = on_cluster.show("stays")
    assert sorted(trial["interruptions"] for trial in found["trials"]) == [0, 1]
    client = MlflowClient(tracking)
    runs = client.search_runs([client.get_experiment_by_name("stays").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}


_STAYS = ("whether it still lives", "another worker trains it on n3; staying")
"""Lines of a worker that stays: before and after it has seen the other one renew its lease."""


def _is_running(project: ClusterProject) -> bool:
    done = project.call("study", "show", "stays", "--json")
    if done.returncode:  # not begun yet
        return False
    return any(trial["iteration"] >= 300 for trial in json.loads(done.stdout)["trials"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--partition", "nowhere"), "sinfo lists the partitions"),
        (("--gpus", "9"), "ask for less (--gpus, --cpus, --mem)"),
    ],
)
def test_what_the_cluster_refuses_is_one_line_with_the_way_out(
    on_cluster: ClusterProject, long_study: Define, options: tuple[str, ...], said: str
) -> None:
    on_cluster.define(long_study("refused"))
    done = on_cluster.call("study", "run", "studies/refused.yaml", "--slurm", *options)
    assert done.returncode == 1
    assert said in done.stderr and done.stderr.strip().count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not list((on_cluster.folder / "studies" / "local").rglob("submission.json"))


def test_two_jobs_share_the_trials_of_a_study(
    on_cluster: ClusterProject, long_study: Define, databases: tuple[str, str], wait: Wait
) -> None:
    on_cluster.define(long_study("shared", trials=4, steps=900))
    storage, tracking = databases
    line = ["study", "run", "studies/shared.yaml", "--storage", storage]
    line += ["--tracking-uri", tracking, "--slurm", "--jobs", "2", "--gpus", "1", "--mem", "2000M"]
    jobs = on_cluster.json(*line)["jobs"]
    assert len(jobs) == 2
    shown: list[dict[str, Any]] = wait(
        lambda: [job for job in on_cluster.show("shared")["jobs"] if job["trial"] is not None]
    )
    assert {job["host"][0] for job in shown} == {"n"} and all(job["gpus"] for job in shown)
    wait(lambda: is_over(on_cluster, "shared"), 600)
    found = on_cluster.show("shared")
    assert [job["state"] for job in found["jobs"]] == ["done", "done"]
    hosts = {Path(job["log"]).read_text().count("score ") > 0 for job in found["jobs"]}
    assert hosts == {True}


def test_srun_starts_the_processes_of_one_training(
    on_cluster: ClusterProject, tiny: dict[str, Any]
) -> None:
    values = tiny | {"run_name": "ranks", "batch_size": 2, "steps": 20}
    (on_cluster.folder / "ranks.yaml").write_text(yaml.safe_dump(values))
    line = [sys.executable, "-P", "-m", "workbench", "train", "ranks.yaml", "--json"]
    said = on_cluster.cluster.call(
        *("srun", "-n", "2", "-N", "1", "--mem", "3000M", "-D", str(on_cluster.folder)),
        *("env", f"PYTHONPATH={ROOT}", *line),
    )
    assert json.loads(said)["step"] == 20  # the first process alone answers


def test_tiles_of_a_volume_are_shared_out(
    on_cluster: ClusterProject, generator_file: str, make_blobs: Callable[..., Any], wait: Wait
) -> None:
    with h5py.File(on_cluster.folder / "a.h5", "w") as handle:
        handle["data"] = make_blobs(1, 0.8, (40, 16, 16))
    line = ["enhance", "a.h5", "--model", generator_file, "--tile", "8,16,16", "--output"]
    jobs = on_cluster.json(*line, "e.h5", "--slurm", "--jobs", "2", *SMALL)["jobs"]
    assert len(jobs) == 2
    wait(lambda: not on_cluster.cluster.states(), 300)
    assert (on_cluster.folder / "e.html").exists()  # of the last one to end
    on_cluster.json(*line, "alone.h5")
    images = []
    for name in ("e.h5", "alone.h5"):
        with h5py.File(on_cluster.folder / name) as handle:
            images.append(handle["data"][:])
    assert (images[0] == images[1]).all()
