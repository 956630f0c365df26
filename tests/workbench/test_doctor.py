"""The doctor finds, reports and repairs what a killed process left behind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.study.storage import JOURNAL
from tracking import Store
from tracking.outbox.outbox import Outbox
from tracking.outbox.records import Tags
from tracking.process import PROCESS, is_alive, this_process
from workbench.doctor import examine


def test_a_process_is_known_by_more_than_its_number() -> None:
    assert is_alive(this_process()) is True
    host, boot, pid, start = this_process().split("/")
    assert is_alive(f"{host}/{boot}/{pid}/{int(start) - 1}") is False  # a reused number
    assert is_alive(f"elsewhere/{boot}/{pid}/{start}") is None
    assert is_alive(f"{host}/before the restart/{pid}/{start}") is None
    assert is_alive("nonsense") is None


def dead_process() -> str:
    code = "from tracking.process import this_process; print(this_process())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_run_of_a_dead_process_is_closed_and_others_are_left(project: Path) -> None:
    store = Store.open()
    runs = {
        name: store.create_run("train", name, kind="train", params={}, tags={})
        for name in ("dead", "alive", "elsewhere", "ended")
    }
    runs["dead"].set_tags({PROCESS: dead_process()})
    runs["elsewhere"].set_tags({PROCESS: "node7/x/1/1"})
    runs["ended"].finish("FINISHED")
    found = {finding.subject.split()[1]: finding for finding in examine(store)}
    assert set(found) == {"dead", "elsewhere"}
    assert "node7" in found["elsewhere"].problem
    assert found["elsewhere"].cure is None
    assert found["dead"].cure is not None
    found["dead"].cure()
    statuses = {run.name: run.status for run in store.search("train")}
    running = dict.fromkeys(("alive", "elsewhere"), "RUNNING")
    assert statuses == running | {"dead": "KILLED", "ended": "FINISHED"}
    assert [finding.subject.split()[1] for finding in examine(store)] == ["elsewhere"]


@pytest.mark.parametrize("start", ["train", "study", "enhance"])
def test_any_start_does_what_needs_no_question(
    start: str, project: Path, small: dict[str, Any], generator_file: str, command_line: Any
) -> None:
    store = Store.open()
    runs = [store.create_run("train", n, kind="train", params={}, tags={}) for n in ("dead", "r")]
    runs[0].set_tags({PROCESS: dead_process()})
    outbox = Outbox.of(runs[1])
    outbox.append(Tags({"note": "waited"}))
    outbox.close()
    training = small["config"] | {"steps": 4}
    (project / "train.yaml").write_text(yaml.safe_dump(training))
    (project / "studies" / "s.yaml").write_text(yaml.safe_dump(small | {"trials": 1, "steps": 12}))
    scan = str(Path(training["data_A"]).with_name("fast_validate.h5"))
    code, _, err = command_line(
        *{
            "train": ("train", "train.yaml"),
            "study": ("study", "run", "studies/s.yaml"),
            "enhance": ("enhance", scan, "--model", generator_file, "--output", "e.h5"),
        }[start]
    )
    assert code == 0, err
    dead = store.find_run(runs[0].id)
    assert dead.status == "KILLED"
    assert "its process died" in dead.tags["reason"]
    assert store.find_run(runs[1].id).tags["note"] == "waited"
    assert store.find_run(runs[1].id).status == "RUNNING"  # its process lives: this one


def test_what_waits_for_the_store_is_delivered(project: Path) -> None:
    store = Store.open()
    runs = [store.create_run("train", n, kind="train", params={}, tags={}) for n in ("r", "gone")]
    for run in runs:
        outbox = Outbox.of(run)
        outbox.append(Tags({"outcome": "completed"}))
        outbox.close()
    store.client.delete_run(runs[1].id)
    kept, gone = sorted(examine(store), key=lambda finding: finding.cure is None)
    assert "1 record waiting" in kept.problem
    assert gone.cure is None
    assert "was deleted" in gone.problem
    assert kept.cure is not None
    kept.cure()
    assert store.find_run(runs[0].id).tags["outcome"] == "completed"
    assert [finding.cure for finding in examine(store)] == [None]


def test_a_new_and_a_continued_run_bear_their_process(project: Path) -> None:
    store = Store.open()
    run = store.create_run("train", "r", kind="train", params={}, tags={})
    assert store.find_run(run.id).tags[PROCESS] == this_process()
    run.set_tags({PROCESS: f"{socket.gethostname()}/x/1/1"})
    store.open_run(run.id)
    assert store.find_run(run.id).tags[PROCESS] == this_process()


def test_half_written_files_go_only_where_nobody_works(project: Path) -> None:
    store = Store.open()
    folder = project / "results" / "r"
    (folder / "save").mkdir(parents=True)
    part = folder / "save" / ".checkpoint.pt.part"
    part.touch()
    assert not list(examine(store))  # its owner can't be determined
    (folder / "run.json").write_text("{}")
    (finding,) = examine(store)
    assert finding.cure is not None
    finding.cure()
    assert not part.exists()


@pytest.mark.slow
def test_after_a_crash_all_agrees_again_and_the_study_goes_on(
    study_project: Any, whole_study: dict[str, Any], wait: Callable[..., Any]
) -> None:
    project = study_project
    with project.start("study", "run", "studies/small.yaml") as process:
        wait((project.results / "trial-002" / "save" / "checkpoint.pt").exists)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    journal = project.folder / "studies" / "local" / "small" / JOURNAL
    with journal.open("ab") as handle:
        handle.write(b'{"half a li')

    told = project.run("doctor", "--dry-run")
    assert {row["done"] for row in told} == {"would be repaired"}
    assert project.run("doctor", "--dry-run") == told  # nothing was changed
    problems = [row["problem"] for row in project.run("doctor")]
    assert "its last line is half-written" in problems
    assert problems.count("RUNNING in MLflow, but its process is gone") == 1  # the study's
    assert sum(p.startswith("no worker trains it, RUNNING in MLflow") for p in problems) == 1
    assert project.run("doctor") == []

    resumed = project.run("study", "run", "small")
    ends = [[(t["state"], t["score"]) for t in r["trials"]] for r in (resumed, whole_study)]
    assert ends[0] == ends[1]
    project.check(resumed)
    assert project.run("doctor") == []


@pytest.mark.slow
def test_a_trial_that_mlflow_knows_otherwise_is_set_right(study_project: Any) -> None:
    from mlflow import MlflowClient

    result = study_project.run("study", "run", "studies/small.yaml", "--trials", "1")
    client = MlflowClient(f"sqlite:///{study_project.folder / 'mlruns' / 'mlflow.db'}")
    run_id = result["trials"][0]["run_id"]
    client.set_terminated(run_id, "FAILED")
    with sqlite3.connect(study_project.folder / "mlruns" / "mlflow.db") as connection:
        for table in ("metrics", "latest_metrics"):  # as on a disk that was full
            connection.execute(f"DELETE FROM {table} WHERE key = 'score/value'")  # noqa: S608
    (study_project.results / "trial-007").mkdir()
    done = study_project.call("doctor", "--json")
    assert done.returncode == 1  # a person must deal with a folder without a trial
    assert "complete in Optuna, FAILED in MLflow, without its score" in done.stdout
    assert "has no such trial" in done.stdout
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.metrics["score/value"] == result["trials"][0]["score"]
    assert (study_project.results / "trial-007").is_dir()
