"""The main job on an MLflow server with PostgreSQL, as a group of users would run it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from tracking import Store

pytestmark = pytest.mark.slow

OWN = ("speed/", "system/", "time/", "memory/", "volume/gb")
"""Metrics that differ between any two runs."""
TAGS = (
    "kind",
    "study",
    "trial",
    "outcome",
    "reason",
    "state",
    "gate",
    "data_hash.A",
    "data_hash.B",
)


@pytest.fixture
def database(postgresql: str) -> str:
    """A separate database: MLflow and Optuna can't share one."""
    name = f"mlflow_{os.getpid()}_{time.monotonic_ns()}"
    with closing(psycopg.connect(postgresql, autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgresql.rpartition("/")[0] + f"/{name}"


class MlflowServer:
    """`mlflow server` with its own command line, on one port; a test can stop and restart it."""

    def __init__(self, database: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.folder, self.database = folder, database
        folder.mkdir()

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        options += ["--backend-store-uri", self.database]
        options += ["--artifacts-destination", str(self.folder / "files")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            cwd=self.folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            assert self._process.poll() is None
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            time.sleep(0.2)
        raise AssertionError("the server did not answer")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[MlflowServer]:
    running = MlflowServer(database, tmp_path / "server")
    running.start()
    try:
        yield running
    finally:
        running.stop()


def job(project: Any, scans: tuple[str, str], *where: str) -> None:
    """Run a study, promote its best trial, and enhance a volume with the champion."""

    def call(*arguments: str) -> dict[str, Any]:
        done = project.call(*arguments, *where, "--json", "--quiet")
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower()
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    call("study", "run", "studies/small.yaml")
    call("promote", "small")
    fast, slow = scans
    copied = ("--log-volume", "copy", "--reference", slow)
    call("enhance", fast, "--model", "small@champion", "--output", "e.h5", *copied)


def content(client: MlflowClient, run: MlflowRun) -> dict[str, Any]:
    """Return the content that must be the same in every store."""
    names = sorted(name for name in run.data.metrics if not name.startswith(OWN))
    curves = {
        name: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
        for name in names
    }
    files: list[str] = []
    folders = [""]
    while folders:
        for item in client.list_artifacts(run.info.run_id, folders.pop() or None):
            # Pictures have a time and a random number in their names; models the id of their run.
            name = item.path.partition("%")[0].partition("+timestamp")[0]
            (folders if item.is_dir else files).append(item.path if item.is_dir else name)
    place = ("registered", "volume.txt")
    return {
        "status": run.info.status,
        "params": {n: v for n, v in run.data.params.items() if n not in ("output", "model")},
        "tags": {name: run.data.tags.get(name) for name in TAGS},
        "curves": curves,
        "files": sorted(name for name in files if not name.startswith(place)),
        "inputs": sorted(entry.dataset.digest for entry in run.inputs.dataset_inputs),
    }


def contents(uri: str) -> dict[str, dict[str, Any]]:
    client = MlflowClient(uri, uri)
    (experiment,) = client.search_experiments(filter_string="name = 'small'")
    runs = client.search_runs([experiment.experiment_id])
    return {str(run.info.run_name): content(client, run) for run in runs}


def test_a_server_with_postgresql_holds_what_the_embedded_store_holds(
    server: MlflowServer,
    datasets: tuple[Path, Path],
    small: dict[str, Any],
    study_project: Any,
    fresh_database: Path,
    tmp_path: Path,
) -> None:
    fast, slow = (str(path.with_name(f"{path.stem}_validate.h5")) for path in datasets)
    job(study_project, (fast, slow), "--tracking-uri", server.address)
    remote = contents(server.address)
    assert not Store.open(f"sqlite:///{study_project.folder}/mlruns/mlflow.db").experiments()
    assert not list((study_project.folder / "mlruns" / "journal").glob("*/*"))

    here = type(study_project)(tmp_path / "here", small, fresh_database)
    job(here, (fast, slow))
    embedded = contents(f"sqlite:///{here.folder}/mlruns/mlflow.db")
    assert set(remote) == set(embedded)
    assert len(embedded) == 1 + 4 + 1 + 1  # study, trials, promoted training, enhancement
    assert len(embedded["small-000"]["curves"]) > 30
    for name, found in embedded.items():
        for part, value in found.items():
            assert remote[name][part] == value, (name, part)
    assert (server.folder / "files").is_dir()  # the copy went through the server, too


def test_a_study_outlives_a_server_that_is_stopped_and_started_again(
    server: MlflowServer, study_project: Any, whole_study: dict[str, Any], wait: Any
) -> None:
    process = study_project.start(
        *("study", "run", "studies/small.yaml", "--tracking-uri", server.address),
        env=study_project.options()["env"] | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
    )
    for trial in (1, 3):  # in the middle of a training, and between two
        wait(lambda trial=trial: len(study_project.trials()) > trial or process.poll() is not None)
        server.stop()
        time.sleep(6)
        server.start()
    assert process.wait(300) == 0
    found = contents(server.address)
    scores = {trial["number"]: trial["score"] for trial in whole_study["trials"]}
    assert len(found) == 5
    for number, score in scores.items():
        run = found[f"small-{number:03d}"]
        points = [step for step, _ in run["curves"]["loss/G_total"]]
        assert points == list(range(1, points[-1] + 1))
        assert run["curves"]["score/value"] == [(points[-1], pytest.approx(score))]
        assert run["status"] == ("FINISHED" if run["tags"]["state"] == "complete" else "KILLED")
    assert not list((study_project.folder / "mlruns" / "journal").glob("*/*.json"))
