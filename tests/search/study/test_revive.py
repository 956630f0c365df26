"""A revived trial goes on from its checkpoint, and further seeds give a mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cyclegan.errors import DataError, UsageError
from search.promotion import confirm
from search.study import StudyHandle, open_study, run_study
from search.study.definition import load_definition
from search.study.lease import Owner, hours, touch
from search.study.revive import revive
from tracking import Store
from viz.console import Console


@pytest.fixture
def pruned_study(project: Path, tiny: dict[str, Any]) -> StudyHandle:
    """Trial 0 learns; trial 1 hardly learns and is pruned at step 8 of 16."""
    content = {
        "name": "s",
        "config": tiny | {"filters": 4, "batch_size": 2, "checkpoint_every": 4},
        "space": {"lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        "enqueue": [{"lr_g": 6e-3}, {"lr_g": 4e-3}],
        "enqueue_defaults": False,
        "pruner": {"name": "successive_halving", "prune_after": 8},
        "trials": 2,
        "steps": 16,
        "report_every": 4,
    }
    path = project / "studies" / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    return again(path)


def again(path: Path) -> StudyHandle:
    store, console = Store.open(), Console(quiet=True)
    return run_study(load_definition(path), store=store, console=console).handle


@pytest.mark.slow
def test_a_revived_trial_goes_on_where_it_was_pruned(
    pruned_study: StudyHandle, project: Path
) -> None:
    before = pruned_study.study.trials[1]
    assert before.state.name == "PRUNED", before.value
    with pytest.raises(UsageError, match="trial 0 of study s is complete; only pruned"):
        revive(pruned_study, 0)
    with pytest.raises(UsageError, match="has trials 0 to 1"):
        revive(pruned_study, 2)
    assert revive(pruned_study, 1) == 2
    with pytest.raises(UsageError, match="already revived, as trial 2"):
        revive(pruned_study, 1)

    handle = again(project / "studies" / "s.yaml")
    assert len(handle.study.trials) == 3  # it does not count as one of the study's two trials
    after = handle.study.trials[2]
    assert after.state.name == "COMPLETE"
    assert after.params == before.params
    assert sorted(after.intermediate_values) == [4, 8, 12, 16]
    reported = {i: after.intermediate_values[i] for i in before.intermediate_values}
    assert reported == before.intermediate_values
    # The revived training executed the second half only.
    run = Store.open().find_run(after.user_attrs["mlflow_run_id"])
    assert run.tags["revives"] == "1"
    saved = handle.trial_folder(2) / "save" / "checkpoint.pt"
    assert torch.load(saved, weights_only=True)["iteration"] == 16
    pictures = sorted((handle.trial_folder(2) / "train").glob("*.png"))
    assert [int(p.stem.removeprefix("iteration-")) for p in pictures] == [12, 16]


@pytest.mark.slow
def test_what_has_no_checkpoint_can_not_be_revived(pruned_study: StudyHandle) -> None:
    for path in (pruned_study.trial_folder(1) / "save").glob("checkpoint*.pt"):
        path.unlink()
    with pytest.raises(DataError, match=r"has no checkpoint any more .*keep_trials"):
        revive(pruned_study, 1)


@pytest.mark.slow
def test_a_trial_of_several_seeds_is_worth_their_mean(project: Path, tiny: dict[str, Any]) -> None:
    content = {
        "name": "seeds",
        "config": tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3},
        "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        "pruner": {"name": "none"},
        "trials": 1,
        "steps": 12,
        "report_every": 12,
        "seeds": 3,
    }
    path = project / "studies" / "seeds.yaml"
    path.write_text(yaml.safe_dump(content))
    (trial,) = again(path).study.trials
    scores = [one["score"] for one in trial.user_attrs["seeds"]]
    assert len(set(scores)) == 3
    assert trial.value == pytest.approx(sum(scores) / 3)
    assert trial.user_attrs["iteration"] == 36
    # A confirmation takes them over.
    handle, quiet = open_study("seeds"), Console(quiet=True)
    confirmed = confirm(handle, top=1, seeds=3, store=Store.open(), console=quiet)
    assert [s.score for s in confirmed.trials[0].scores] == scores
    runs = Store.open().search("seeds", "tags.kind = 'seed'")
    assert sorted(run.tags["seed"] for run in runs) == ["1", "2"]
    assert {run.status for run in runs} == {"FINISHED"}
    assert (
        project / "results" / "seeds" / "trial-000" / "seed-2" / "save" / "generator.pt"
    ).exists()


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ({}, 0.0),
        ({"session:a": [0, 3600]}, 1.0),
        ({"session:a": [0, 3600], "session:b": [7200, 9000]}, 1.5),
        ({"session:a": [0, 3600], "session:b": [1800, 5400]}, 1.5),  # at the same time: counts once
        ({"session:a": [0, 7200], "session:b": [1800, 3600], "other": 1}, 2.0),
    ],
)
def test_hours_of_running(sessions: dict[str, Any], expected: float) -> None:
    assert hours(sessions) == pytest.approx(expected)


@pytest.mark.slow
def test_a_worker_that_is_seen_again_prolongs_its_session(
    pruned_study: StudyHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = pruned_study.study
    before = hours(study.user_attrs)
    assert before > 0
    owner = Owner(tmp_path)
    owner.begun = 1000.0
    touch(study, owner)
    monkeypatch.setattr(owner, "seconds", lambda: 3600.0)
    touch(study, owner)
    assert hours(study.user_attrs) == pytest.approx(before + 1)


def test_a_stop_rule_ends_a_study_and_a_later_run_with_another_rule_goes_on(
    pruned_study: StudyHandle, project: Path
) -> None:
    path = project / "studies" / "s.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"trials": 4, "stop": {"iterations": 20}}))
    assert len(again(path).study.trials) == 2
    path.write_text(yaml.safe_dump(content | {"trials": 3, "stop": {"iterations": 30}}))
    assert len(again(path).study.trials) == 3
    assert open_study("s").definition.stop.iterations == 30
