"""The optimizer in a study's trials and alone from the command line, and the records it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan import Trainer
from search.launch import Job, LaunchResult, run_training
from search.rollback import Fault
from search.rollback.guard import Guard
from search.study import run_study
from search.study.definition import load_definition
from tracking import Store
from viz.console import Console

QUIET = Console(quiet=True)
OPTIMIZER = {
    "enabled": True,
    "snapshot_every": 2,
    "check_every": 2,
    "warmup": 0,
    "fall_back": 4,
    "keep": 4,
    "max_rollbacks": 3,
}


@pytest.fixture
def store(project: Path) -> Store:
    return Store.open()


def finds(monkeypatch: pytest.MonkeyPatch, *iterations: int, always: bool = False) -> None:
    """Let the guard find faults at these iterations."""

    def judge(self: Guard, trainer: Trainer, *, young: bool) -> Fault | None:
        if always or trainer.iteration in iterations:
            return Fault(kind="exploding", reason="x", severity=2.0, networks=("C_A",))
        return None

    monkeypatch.setattr(Guard, "judge", judge)


def gentle(tiny: dict[str, Any]) -> dict[str, Any]:
    # After a few steps with a small rate the score finds a generator flat.
    return tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3, "checkpoint_every": 4}


def test_a_trial_reports_all_iterations_the_discarded_too(
    store: Store, tiny: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, 8, 12)
    path = project / "studies" / "s.yaml"
    content = {
        "name": "s",
        "config": gentle(tiny) | {"hp_optimizer": OPTIMIZER},
        "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        "pruner": {"name": "none", "prune_after": 100},
        "steps": 12,
        "report_every": 2,
        "trials": 1,
    }
    path.write_text(yaml.safe_dump(content))
    handle = run_study(load_definition(path), store=store, console=QUIET).handle
    (trial,) = handle.trials()
    # At iteration 8 back from step 8 to 4, at 12 again at step 8 and further back: to step 2.
    discarded = 4 + 6
    assert (trial.step, trial.iteration) == (12, 12 + discarded)
    reported = list(handle.study.trials[0].intermediate_values)
    assert reported == list(range(2, 12 + discarded + 1, 2))


def alone(store: Store, tiny: dict[str, Any], project: Path, **optimizer: Any) -> LaunchResult:
    from cyclegan import parse_config

    config = parse_config(gentle(tiny) | {"hp_optimizer": OPTIMIZER | optimizer})
    job = Job(config=config, folder=project / "t", experiment="train", kind="train", tags={})
    return run_training(job, store=store, console=QUIET)


def test_a_training_that_can_not_be_saved_is_killed_with_its_reason(
    store: Store, tiny: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, always=True)
    finished = alone(store, tiny, project)
    assert finished.result.outcome == "stopped"
    run = store.find_run(finished.run_id)
    assert run.status == "KILLED"
    assert "3 rollbacks did not help" in run.tags["reason"]


def test_a_training_leaves_the_schedule_it_ended_with_and_another_follows_it(
    store: Store, tiny: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, 8)
    first = alone(store, tiny, project)
    assert first.rollbacks == 1
    path = first.folder / "schedule.yaml"
    logged = store.run(first.run_id).artifact_path("schedule.yaml")
    assert logged.read_text() == path.read_text()
    steps = [change["step"] for change in yaml.safe_load(path.read_text())["changes"]]
    assert steps == [0, 4]

    finds(monkeypatch, always=True)  # a replay asks no detector
    (project / "again").mkdir()
    second = alone(store, tiny, project / "again", policy="replay", schedule=str(path))
    assert (second.result.outcome, second.rollbacks) == ("completed", 0)
    metrics = [store.find_run(f.run_id).metrics for f in (first, second)]
    assert metrics[0]["hparam/lr_g"] == metrics[1]["hparam/lr_g"] != gentle(tiny)["lr_g"]
