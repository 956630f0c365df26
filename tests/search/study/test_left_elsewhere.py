"""A trial that a dead worker of another host left goes on, whatever that host's clock said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from search.study import lease, run_study, worker
from search.study.definition import StudyDefinition
from search.study.storage import StudyStorage
from search.study.study import optuna_study, studies_folder
from tracking import Store
from viz.console import Console


def test_a_study_watches_a_lease_of_another_host_before_it_takes_the_trial(
    define: Callable[..., StudyDefinition],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    definition = define(trials=1)
    study = begun(definition)
    dead = {"owner": "dead", "host": "far", "pid": 1, "at": time.time() + 3600}
    study.ask().set_user_attr("lease", dead)
    handle = run_study(definition, store=Store.open(), console=Console()).handle
    assert [trial.state for trial in handle.trials()] == ["complete"]
    assert "watching for up to" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def renewed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """Return a function that lets a worker claim a trial and renew its lease until it dies."""

    def claim(trial: optuna.trial.Trial, **values: Any) -> Callable[[], None]:
        dead = threading.Event()

        def renew() -> None:
            while not dead.wait(0.05):
                stamp = {"owner": "other", "host": "far", "pid": 1, "at": time.time()}
                trial.set_user_attr("lease", stamp | values)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()

        def die() -> None:
            dead.set()
            thread.join()

        return die

    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    return claim


def begun(definition: StudyDefinition) -> optuna.Study:
    study = optuna_study(definition, StudyStorage(studies_folder() / "s"))
    study.set_user_attr("definition", json.dumps(definition.model_dump(mode="json")))
    return study


def test_a_worker_without_work_stays_until_the_others_are_done_or_dead(
    define: Callable[..., StudyDefinition],
    renewed: Callable[..., Callable[[], None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It has seen the other one alive, and that one dies only then."""
    definition = define(trials=2)
    die = renewed(begun(definition).ask())
    timer = threading.Timer(8.0, die)
    timer.start()
    started = time.monotonic()
    handle = run_study(definition, store=Store.open(), console=Console()).handle
    timer.join()
    assert time.monotonic() - started > 8.0
    assert [trial.state for trial in handle.trials()] == ["complete", "complete"]
    assert [trial.interruptions for trial in handle.trials()] == [1, 0]
    said = " ".join(capsys.readouterr().err.split())
    assert "another worker trains it on far; staying until it ends" in said


def test_nobody_stays_for_a_job_that_slurm_starts_again(
    define: Callable[..., StudyDefinition],
    renewed: Callable[..., Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease.slurm, "is_gone", lambda job, starts: False)
    definition = define(trials=2)
    die = renewed(begun(definition).ask(), job="12", start=0, requeues=True)
    try:
        handle = run_study(definition, store=Store.open(), console=Console()).handle
        assert [trial.state for trial in handle.trials()] == ["running", "complete"]
    finally:
        die()
