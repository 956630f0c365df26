"""Several worker processes on one study: every trial is trained once, even if workers die."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

RUN = ("study", "run", "studies/small.yaml", "--workers", "2")


def check_finished(project: Any, result: dict[str, Any]) -> None:
    assert [t["number"] for t in result["trials"]] == [0, 1, 2, 3]
    assert {t["state"] for t in result["trials"]} <= {"complete", "pruned"}
    project.check(result)


def test_two_workers_share_the_trials(study_project: Any) -> None:
    check_finished(study_project, study_project.run(*RUN))
    owners = {t.user_attrs["lease"]["owner"] for t in study_project.trials()}
    assert len(owners) == 2


def test_a_killed_worker_is_replaced_and_its_trial_goes_on(
    study_project: Any, wait: Callable[..., Any]
) -> None:
    checkpoint = study_project.results / "trial-000" / "save" / "checkpoint.pt"
    with study_project.start(*RUN) as parent:
        wait(checkpoint.exists)
        os.kill(study_project.owners()[0], signal.SIGKILL)
        assert parent.wait(timeout=180) == 0
    result = study_project.run("study", "show", "small")
    check_finished(study_project, result)
    assert study_project.trials()[0].user_attrs["deaths"]["count"] == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_leave_with_their_parent_and_the_study_goes_on(
    study_project: Any, wait: Callable[..., Any], number: signal.Signals
) -> None:
    with study_project.start(*RUN) as parent:
        wait((study_project.results / "trial-000" / "save" / "checkpoint.pt").exists)
        workers = set(study_project.owners().values())
        parent.send_signal(number)
        code = parent.wait(timeout=60)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert workers
    wait(lambda: not any(_lives(pid) for pid in workers))
    states = {t["state"] for t in study_project.run("study", "show", "small")["trials"]}
    assert "running" not in states
    check_finished(study_project, study_project.run(*RUN))


def test_one_error_of_the_surroundings_stops_all_workers_in_one_line(
    study_project: Any, datasets: tuple[Path, Path], small: dict[str, Any], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(datasets[0].read_text())  # its volumes are not beside it
    study_project.define(small | {"config": small["config"] | {"data_A": str(broken)}})
    done = study_project.call(*RUN, "--quiet")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "fast_train.h5" in line


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_workers_share_a_database(
    study_project: Any, request: pytest.FixtureRequest, kind: str
) -> None:
    address = "sqlite:///studies/local/small.db"
    if kind == "postgresql":
        address = request.getfixturevalue("postgresql")
    else:
        (study_project.folder / "studies" / "local").mkdir()
    result = study_project.run(*RUN, "--storage", address)
    check_finished(study_project, result)
    assert study_project.run("study", "show", "small")["trials"] == result["trials"]  # remembered
    in_file = f"sqlite:///{study_project.folder / 'studies' / 'local' / 'small.db'}"
    trials = study_project.trials(in_file if kind == "sqlite" else address)
    assert len({t.user_attrs["lease"]["owner"] for t in trials}) == 2


def test_a_database_that_goes_away_stops_a_study_in_one_line_and_it_goes_on_later(
    study_project: Any, postgresql_server: Any, wait: Callable[..., Any], small: dict[str, Any]
) -> None:
    study_project.define(small | {"name": "outage"})
    results = study_project.folder / "results" / "outage"
    line = ["study", "run", "studies/small.yaml", "--storage", postgresql_server.address]
    with study_project.start(*line, stderr=subprocess.PIPE) as process:
        wait((results / "trial-001" / "save" / "checkpoint.pt").exists)
        postgresql_server.stop()
        try:
            _, said = process.communicate(timeout=60)
        finally:
            postgresql_server.start()
    assert process.returncode == 1
    (error,) = [text for text in said.splitlines() if text.startswith("error")]
    assert "can't be used" in error
    assert "run the study again" in error
    assert "Traceback" not in said
    result = study_project.run("study", "run", "outage")
    assert [t["number"] for t in result["trials"]] == [0, 1, 2, 3]
    assert {t["state"] for t in result["trials"]} <= {"complete", "pruned"}
