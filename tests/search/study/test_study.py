"""A study on disk: its trials, best first, and its messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from cyclegan.errors import CycleGANError, DataError, UsageError
from search.promotion import confirm
from search.study import definition_of, known_studies, open_study, run_study
from search.study.definition import load_definition
from search.study.figures import figures_folder, pixels
from tracking import Store
from viz.console import Console
from workbench.study_tables import best_text, study_table


@pytest.fixture
def study_file(project: Path, tiny: dict[str, Any]) -> Path:
    path = project / "studies" / "s.yaml"
    content = {
        "name": "s",
        "config": tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3},
        "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        "enqueue": [{"lambdas.I_A": 5.0}],
        "pruner": {"name": "none", "prune_after": 8},
        "trials": 2,
        "steps": 12,
        "report_every": 4,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def run(path: Path) -> Any:
    store, console = Store.open(), Console(quiet=True)
    return run_study(load_definition(path), store=store, console=console).handle


def test_best_is_the_complete_trial_with_the_highest_score(study_file: Path) -> None:
    run(study_file)
    handle = open_study("s")
    trials = handle.trials()
    assert [t.state for t in trials] == ["complete", "complete"]
    assert trials[0].values == {"lambdas.I_A": 5.0}  # enqueued
    for record in handle.trials():
        assert len(record.curve) == 3
        assert record.score == max(value for at, value in record.curve if at >= 8)
    best = handle.best()
    assert best.score == max(t.score for t in trials)
    assert f"trial {best.number}, score" in best_text(handle)
    # A confirmation counts what the study trained.
    confirmed = confirm(handle, top=2, seeds=1, store=Store.open(), console=Console(quiet=True))
    assert {c.trial: c.mean for c in confirmed.trials} == {t.number: t.score for t in trials}
    lines = study_table(handle).splitlines()
    assert lines[0].startswith("s: 2 of 2 trials, best score")
    assert lines[3].split()[0] == str(best.number)
    assert handle.config_of(1).lambdas.I_A[0] == trials[1].values["lambdas.I_A"]
    with pytest.raises(UsageError, match="has trials 0 to 1"):
        handle.config_of(7)


def test_a_study_whose_trials_were_all_pruned_says_so(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(study_file.read_text())
    content["config"] |= {"lr_g": 1e-6}  # it stays flat: the gate prunes it
    content["pruner"] = {"name": "median", "prune_after": 4}
    content["report_every"] = 4
    study_file.write_text(yaml.safe_dump(content))
    handle = run(study_file)
    assert {t.state for t in handle.trials()} == {"pruned"}
    assert all(t.reason.startswith("gate at step") for t in handle.trials())
    head = study_table(handle).splitlines()[0]
    assert head.startswith("s: 2 of 2 trials, none of them complete; 2 pruned")
    with pytest.raises(DataError, match="all 2 trials were pruned or failed"):
        handle.best()


def test_unknown_studies_name_the_nearest(study_file: Path) -> None:
    with pytest.raises(UsageError, match="none has been started here yet"):
        open_study("s")
    run(study_file)
    assert known_studies() == ["s"]
    with pytest.raises(UsageError, match="'studies' was not started here"):
        open_study("studies")


class _KilledError(BaseException):
    """The end of a process that nothing can catch."""


def test_what_a_process_killed_at_the_end_of_a_trial_or_study_left_out_is_made_up_for(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*anything: Any) -> None:
        raise _KilledError

    for _ in range(2):  # once for each trial
        with monkeypatch.context() as killed:
            killed.setattr("search.study.trial.log_end", die)
            with pytest.raises(_KilledError):
                run(study_file)
    drawn: list[Any] = []

    def second_is_the_last(figure: Any) -> Any:
        drawn.append(figure)
        return pixels(figure) if len(drawn) < 2 else die()

    with monkeypatch.context() as killed:
        killed.setattr("search.study.figures.pixels", second_is_the_last)
        with pytest.raises(_KilledError):
            run(study_file)
    handle = run(study_file)
    assert len(list(figures_folder(handle).glob("*.png"))) > 1
    for trial in handle.trials():
        found = Store.open().find_run(trial.run_id)
        assert found.metrics["score/value"] == pytest.approx(trial.score)
        assert found.tags["state"] == trial.state == "complete"


def test_a_process_killed_before_it_noted_the_studys_run_leaves_one_that_the_next_finds(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(study: optuna.Study, key: str, value: Any) -> None:
        if key == "mlflow_run_id":
            raise _KilledError
        original(study, key, value)

    original = optuna.Study.set_user_attr
    with monkeypatch.context() as killed:
        killed.setattr(optuna.Study, "set_user_attr", note)
        with pytest.raises(_KilledError):
            run(study_file)
    handle = run(study_file)
    (study_run,) = Store.open().search("s", "tags.kind = 'study'")
    assert study_run.status == "FINISHED"
    assert handle.study.user_attrs["mlflow_run_id"] == study_run.id


def test_a_finished_study_ends_at_once_and_needs_no_store(study_file: Path) -> None:
    handle, definition = run(study_file), load_definition(study_file)
    store: Any = lambda: pytest.fail("the store was opened")  # noqa: E731
    again = run_study(definition, store=store, console=Console(quiet=True))
    assert not again.interrupted
    assert [t.score for t in again.handle.trials()] == [t.score for t in handle.trials()]
    more = definition.with_trials(3)
    result = run_study(more, store=Store.open(), console=Console(quiet=True))
    assert len(result.handle.trials()) == 3


def test_a_name_of_any_length_is_one_line(project: Path) -> None:
    with pytest.raises(UsageError, match="was not started here"):
        definition_of("a" * 300)


def test_a_folder_that_cannot_be_made_is_one_line(study_file: Path, project: Path) -> None:
    (project / "studies" / "local").write_text("a file")
    with pytest.raises(CycleGANError, match=r"studies/local.* can't be used: .*run the study"):
        run(study_file)
