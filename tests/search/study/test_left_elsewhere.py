"""A trial that a dead worker of another host left goes on, whatever that host's clock said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

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
    study = optuna_study(definition, StudyStorage(studies_folder() / "s"))
    study.set_user_attr("definition", json.dumps(definition.model_dump(mode="json")))
    dead = {"owner": "dead", "host": "far", "pid": 1, "at": time.time() + 3600}
    study.ask().set_user_attr("lease", dead)
    handle = run_study(definition, store=Store.open(), console=Console()).handle
    assert [trial.state for trial in handle.trials()] == ["complete"]
    assert "watching for up to" in " ".join(capsys.readouterr().err.split())
