from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests

from cyclegan.errors import CycleGANError, DataError
from tracking import Store, serve
from tracking.downsampling import Sample
from tracking.ui import running_server
from tracking.views import trials_view

_SERVE = """
import sys
from tracking import Store, serve
serve(Store.open(sys.argv[1]), port=int(sys.argv[2]), say=lambda line: print(line, flush=True))
print("ended in peace", flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children(pid: int) -> Iterator[int]:
    """Return all descendants of a process (Linux)."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from children(int(child))


def test_a_taken_port_is_told_before_anything_starts(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(CycleGANError, match=f"port {port} on 127.0.0.1 is taken.*--port"):
            serve(store, port=port, say=lambda line: None)
        assert time.monotonic() - begin < 2
    for port in (-1, 70_000):
        with pytest.raises(CycleGANError, match=f"port {port} .*--port"):
            serve(store, port=port, say=lambda line: None)


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(store: Store, database: Path) -> None:
    database.write_bytes(b"nothing that could be served")
    with (
        pytest.raises(CycleGANError, match=r"the MLflow server did not start: .+") as caught,
        running_server(store, free_port()),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_server_answers_and_leaves_nothing_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    experiment = store.experiment("study")
    store.ship_view(experiment, trials_view(["lr_g"]))
    # The server must obey its arguments: MLflow's defaults would make ./mlflow.db.
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, store.uri, str(port)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        address = f"http://127.0.0.1:{port}"
        assert address in lines[1]
        assert f"#/experiments/{experiment}/runs?workflowType=machine_learning" in lines[2]
        assert "viewStateShareKey=trials" in lines[2]
        assert "Ctrl-C" in lines[3]
        family = list(children(process.pid))
        assert family
        _use_over_http(address, tmp_path, monkeypatch)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
        assert (process.returncode, rest) == (0, "ended in peace\n")
    finally:
        process.kill()
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (tmp_path / "mlflow.db").exists()
    assert store.find_run("remote").metrics["a"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a ?%20#'\"& b;é", "what?", "50%", "a#b"])
def test_a_folder_of_any_name_is_served_with_its_runs_and_files(
    database: Path, tmp_path: Path, name: str
) -> None:
    mlruns = tmp_path / name / "mlruns"
    mlruns.mkdir(parents=True)
    shutil.copy(database, mlruns)
    store = Store.open(f"sqlite:///{quote(str(mlruns / 'mlflow.db'))}")
    run = store.create_run("study", "x", kind="train", params={"a": 1}, tags={})
    run.log_text("words", "notes/words.txt")

    def asked(path: str, body: dict[str, Any] | None = None) -> bytes:
        call = requests.get if body is None else requests.post
        answer = call(server.address + path, json=body, timeout=60)
        assert answer.status_code == 200
        return answer.content

    with running_server(store, free_port()) as server:
        api = "/api/2.0/mlflow"
        experiments = json.loads(asked(f"{api}/experiments/search", {"max_results": 9}))
        ids = {e["name"]: e["experiment_id"] for e in experiments["experiments"]}
        found = json.loads(asked(f"{api}/runs/search", {"experiment_ids": [ids["study"]]}))
        assert [one["info"]["run_id"] for one in found["runs"]] == [run.id]
        listed = json.loads(asked(f"{api}/artifacts/list?run_id={run.id}&path=notes"))
        assert [file["path"] for file in listed["files"]] == ["notes/words.txt"]
        assert asked(f"/get-artifact?run_uuid={run.id}&path=notes/words.txt") == b"words"
        server._log.seek(0)
        log = server._log.read().decode()
    assert not any(word in log for word in ("Traceback", "ERROR", "Error"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "mlruns"})
    assert list(mlruns.glob(f"artifacts/{run.id}/artifacts/notes/words.txt"))


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_server_behind(store: Store, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, store.uri, str(port)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        while "user interface:" not in process.stdout.readline():
            assert process.poll() is None
        family = list(children(process.pid))
        assert len(family) > 1
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in family if _runs(pid)]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def _runs(pid: int) -> bool:
    """Return True if a process (Linux) exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _use_over_http(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use all of the store through the server, as from another host."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    remote = Store.open()
    run = remote.create_run("elsewhere", "remote", kind="train", params={"a": 1}, tags={})
    run.log_rows([Sample(3, {"step": 2.0, "a": 0.5}, 1000)])
    run.log_image(np.zeros((4, 4, 3), np.uint8), "cycle", 3)
    run.log_text("words", "notes/words.txt")
    again = remote.open_run(run.id)
    assert (again.last_iteration(), again.image_steps("cycle")) == (3, {3})
    assert again.artifact_path("notes/words.txt").read_text() == "words"
    with pytest.raises(DataError, match="no artifact"):
        again.artifact_path("notes/word.txt")
    # Its files are beside the store, not where the server was started.
    assert list((tmp_path / "mlruns" / "artifacts").glob(f"**/{run.id}/artifacts/notes/words.txt"))
    assert f"{address}/#/experiments/{run.experiment_id}/runs/{run.id}?" in str(
        remote.run_url(run.id)
    )
    said: list[str] = []
    serve(remote, say=said.append)  # for a store that is a server, only its address is printed
    assert address in said[0]
    with pytest.raises(DataError, match="no run has the id"):
        remote.find_run("0" * 32)
