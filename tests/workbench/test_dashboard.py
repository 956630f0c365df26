"""optuna-dashboard: a real server that shows a study, changes nothing, and ends on request."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan.errors import CycleGANError, UsageError
from search.study.definition import parse_definition
from search.study.storage import StudyStorage
from search.study.study import StudyHandle, optuna_study, studies_folder
from workbench.dashboard import running_dashboard, study_to_show


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def on_disk(make_study: Any) -> Any:
    """A function that writes a study of that name to disk, as a run leaves it."""

    def make(name: str) -> StudyHandle:
        made = make_study(8, name=name)
        folder = studies_folder() / name
        storage = StudyStorage(folder)
        study = optuna_study(made.definition, storage)
        study.add_trials(made.study.trials)
        stored = folder / "study.yaml"
        stored.write_text(yaml.safe_dump(made.definition.model_dump(mode="json")))
        definition = parse_definition(yaml.safe_load(stored.read_text()), stored)
        return StudyHandle(definition, study, folder, storage)

    return make


def ask(port: int, path: str, method: str = "GET", host: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture
def served(on_disk: Any) -> Iterator[tuple[StudyHandle, int, str]]:
    handle, port = on_disk("one"), free_port()
    with running_dashboard(handle, port) as address:
        yield handle, port, address
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_page_and_trials_are_answered_while_the_study_goes_on(served: Any) -> None:
    handle, port, address = served
    assert address == f"http://127.0.0.1:{port}/dashboard/studies/0"
    status, page = ask(port, "/dashboard/studies/0")
    assert (status, b"Optuna Dashboard" in page) == (200, True)
    status, script = ask(port, "/static/bundle.js")
    assert (status, len(script) > 100_000) == (200, True)
    summaries = json.loads(ask(port, "/api/studies")[1])["study_summaries"]
    assert [s["study_name"] for s in summaries] == ["one"]
    # The storage takes it for another process.
    other = optuna_study(handle.definition, StudyStorage(handle.folder))
    assert len(json.loads(ask(port, "/api/studies/0?after=0")[1])["trials"]) == 8
    other.ask()
    deadline = time.monotonic() + 20
    while len(json.loads(ask(port, "/api/studies/0?after=0")[1])["trials"]) < 9:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_it_changes_nothing(served: Any) -> None:
    handle, port, _ = served
    before = (handle.folder / "journal.log").read_bytes()
    for method, path in (
        ("DELETE", "/api/studies/0"),
        ("POST", "/api/studies/0/rename"),
        ("PUT", "/api/studies/0/note"),
        ("POST", "/api/trials/0/tell"),
    ):
        status, answer = ask(port, path, method)
        assert (status, b"read-only" in answer) == (403, True)
    assert (handle.folder / "journal.log").read_bytes() == before


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:80", 200), ("[::1]:80", 200), ("127.0.0.1", 200), ("evil.example:80", 403)],
)
def test_only_names_of_this_machine_are_answered(served: Any, host: str, status: int) -> None:
    assert ask(served[1], "/api/studies", host=host)[0] == status


def test_a_taken_port_is_told(on_disk: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(CycleGANError, match=f"port {port} on 127.0.0.1 is taken.*--port"),
            running_dashboard(on_disk("one"), port),
        ):
            pass


def test_the_only_study_needs_no_name_and_several_are_named(project: Path, on_disk: Any) -> None:
    with pytest.raises(UsageError, match="no study has been run here yet"):
        study_to_show(None)
    on_disk("one")
    assert study_to_show(None).definition.name == "one"
    on_disk("two")
    with pytest.raises(UsageError, match="name one of one, two"):
        study_to_show(None)
    assert study_to_show("two").definition.name == "two"
    with pytest.raises(UsageError, match="did you mean 'two'"):
        study_to_show("twoo")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_in_peace_when_told(on_disk: Any, number: signal.Signals) -> None:
    on_disk("one")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", "ui", "--optuna", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background ignore the signal, and child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}/dashboard/studies/0" in process.stdout.readline()
        assert ask(port, "/api/studies")[0] == 200
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
    finally:
        process.kill()
