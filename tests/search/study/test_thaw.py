"""Studies that pause trials and thaw them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from search.study import StudyHandle, open_study, run_study
from search.study.definition import load_definition
from search.study.pruners import Verdict
from search.study.revive import revive
from search.study.trials import KEPT, PAUSED
from tracking import Store
from tracking.process import PROCESS
from viz.console import Console
from workbench.study_tables import study_table

Write = Callable[..., Path]


@pytest.fixture
def write(project: Path, tiny: dict[str, Any]) -> Write:
    """Write the definition of a study in which learning rates differ widely."""

    def made(**changes: Any) -> Path:
        content = {
            "name": "s",
            "config": tiny | {"filters": 4, "checkpoint_every": 4},
            "space": {"lr_g": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}},
            "enqueue": [{"lr_g": 6e-3}, {"lr_g": 3e-5}],
            "enqueue_defaults": False,
            "sampler": {"name": "noisy_gp", "startup_trials": 3},
            "pruner": {"name": "thaw", "prune_after": 8},
            "trials": 5,
            "steps": 16,
            "report_every": 4,
        }
        path = project / "studies" / "s.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return made


def run(path: Path) -> StudyHandle:
    store, console = Store.open(), Console(quiet=True)
    return run_study(load_definition(path), store=store, console=console).handle


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every study pause trial 0 at its first judgement, whatever its prospects."""

    def verdict(definition: Any, trials: Any, frozen: Any, step: int) -> Verdict | None:
        if frozen.number or frozen.user_attrs.get(KEPT):
            return None
        return Verdict(pruner="thaw", step=step, value=0.0, chance=0.5)

    monkeypatch.setattr("search.study.trial.verdict_of", verdict)


def curves(handle: StudyHandle) -> list[tuple[str, dict[int, float], float | None]]:
    trials = handle.study.get_trials(deepcopy=False)
    return [(t.state.name, dict(t.intermediate_values), t.value) for t in trials]


BOTH = {"enqueue": [{"lr_g": 6e-3}, {"lr_g": 5e-3}], "trials": 2}
PATIENT = {"name": "thaw", "prune_after": 8, "least_chance": 0.0}


def test_a_thawed_trial_equals_one_that_was_never_paused(write: Write, pausing: None) -> None:
    handle = run(write(pruner=PATIENT, **BOTH))
    assert [t.state for t in handle.trials()] == ["complete"] * 2
    # Trial 1 was trained while trial 0 waited.
    first, second = handle.study.get_trials(deepcopy=False)
    assert first.datetime_complete > second.datetime_complete
    assert first.user_attrs[PAUSED] == {}
    runs = Store.open().search("s", "tags.kind = 'trial'")
    assert {r.status for r in runs} == {"FINISHED"}
    undisturbed = run(write(name="whole", pruner={"name": "none", "prune_after": 8}, **BOTH))
    assert curves(handle) == curves(undisturbed)


class _KilledError(BaseException):
    """The end of a process that nothing can catch."""


@pytest.mark.slow
def test_a_process_killed_while_it_pauses_a_trial_changes_nothing(
    write: Write, pausing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(write(name="whole", pruner=PATIENT, **BOTH))
    original = optuna.Trial.set_user_attr

    def note(trial: optuna.Trial, key: str, value: Any) -> None:
        if key == PAUSED and value:
            raise _KilledError
        original(trial, key, value)

    with monkeypatch.context() as killed:
        killed.setattr(optuna.Trial, "set_user_attr", note)
        with pytest.raises(_KilledError):
            run(write(pruner=PATIENT, **BOTH))
    assert curves(run(write(pruner=PATIENT, **BOTH))) == curves(undisturbed)


def test_a_person_thaws_a_paused_trial_under_its_own_number(
    write: Write, pausing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(**BOTH)
    with monkeypatch.context() as stopped:  # the study is stopped right after the pause
        stopped.setattr("search.study.worker.release_checkpoints", _stop)
        with pytest.raises(_KilledError):
            run(path)
    handle = open_study("s")
    assert handle.trials()[0].state == "paused"
    assert study_table(handle).count("paused") >= 1
    # Alone, the bad trial 0 would stay paused.
    assert revive(handle, 0) == 0
    frozen = handle.study.get_trials(deepcopy=False)[0]
    assert frozen.user_attrs[KEPT] and not frozen.user_attrs[PAUSED]
    handle = run(path)
    assert handle.trials()[0].state == "complete"


def _stop(handle: StudyHandle) -> None:
    raise _KilledError


def test_a_stop_rule_prunes_what_is_paused(write: Write, pausing: None) -> None:
    handle = run(write(**(BOTH | {"trials": 3, "stop": {"iterations": 20}})))
    states = [t.state for t in handle.trials()]
    assert states == ["pruned", "complete"]
    assert handle.trials()[0].reason.startswith("paused at 8")
    # Its checkpoint stays, so it can be revived.
    assert revive(handle, 0) == 2


@pytest.fixture
def thawing(small: dict[str, Any]) -> dict[str, Any]:
    """The definition of the small study of real processes, with pauses."""
    return small | {
        "sampler": {"name": "noisy_gp", "startup_trials": 2, "seed": 3},
        "pruner": {"name": "thaw", "prune_after": 8},
        "trials": 6,
    }


def outcomes(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (t["number"], t["state"], t["score"], t["values"], t["step"], t["reason"])
        for t in result["trials"]
    ]


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_pauses_the_same_trials(
    study_project: Any,
    thawing: dict[str, Any],
    wait: Callable[..., Any],
    tmp_path: Path,
    fresh_database: Path,
) -> None:
    project = study_project
    project.define(thawing)
    for file in ("trial-000/save/checkpoint.pt", "trial-002/config.yaml", "trial-004/config.yaml"):
        with project.start("study", "run", "studies/small.yaml") as process:
            wait(lambda path=project.results / file, p=process: path.exists() or p.poll() == 0)
            process.kill()
    killed = project.run("study", "run", "studies/small.yaml")
    project.check(killed)
    whole = type(project)(tmp_path / "whole", thawing, fresh_database)
    assert outcomes(killed) == outcomes(whole.run("study", "run", "studies/small.yaml"))
    paused = [t for t in killed["trials"] if t["verdict"].get("pruner") == "thaw"]
    assert paused
    store = Store.open(f"sqlite:///{project.folder}/mlruns/mlflow.db")
    for trial in paused:
        assert trial["state"] == "pruned"
        assert 8 <= trial["iteration"] < 24
        beat = f" % chance to beat trial {killed['best']['number']}"
        assert trial["reason"].startswith(f"paused at {trial['step']}: ")
        assert trial["reason"].endswith(beat)
        run_of = store.find_run(trial["run_id"])
        assert (run_of.status, run_of.tags["state"]) == ("KILLED", "pruned")


@pytest.mark.slow
def test_two_workers_and_a_database_pause_and_thaw(
    study_project: Any, thawing: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    study_project.define(thawing | {"name": "two"})  # other studies are in the same database
    address = request.getfixturevalue("postgresql")
    line = ("study", "run", "studies/small.yaml", "--workers", "2", "--storage", address)
    trials = study_project.run(*line)["trials"]
    assert [t["number"] for t in trials] == list(range(6))
    assert {t["state"] for t in trials} <= {"complete", "pruned"}
    store = Store.open(f"sqlite:///{study_project.folder}/mlruns/mlflow.db")
    runs = {run.id: run for run in store.search("two", "tags.kind = 'trial'")}
    assert runs.keys() == {t["run_id"] for t in trials}
    assert len({run.tags[PROCESS] for run in runs.values()}) == 2
    for trial in trials:
        run_of = runs[trial["run_id"]]
        assert run_of.status == ("FINISHED" if trial["state"] == "complete" else "KILLED")
        assert run_of.tags["state"] == trial["state"]
        assert run_of.metrics["iteration"] == trial["iteration"]
        assert run_of.metrics["score/value"] == pytest.approx(trial["score"])
