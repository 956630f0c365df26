"""Whole studies with the spaces, samplers and pruners that other tests do not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan.errors import ConfigError
from search.study import StudyHandle, open_study, run_study
from search.study.definition import load_definition
from tracking import Store
from viz.console import Console
from workbench.study_tables import study_table

FUNCTION = """
def identity(trial):
    values = {"lambdas.I_A": trial.suggest_float("lambdas.I_A", 3.0, 9.0)}
    if trial.suggest_categorical("both", [True, False]):
        values["lambdas.I_B"] = values["lambdas.I_A"]
    return values
"""


def write(folder: Path, tiny: dict[str, Any], **changes: Any) -> Path:
    values = {
        "name": "s",
        "config": tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3},
        "pruner": {"name": "none"},
        "steps": 12,
        "report_every": 6,
    }
    path = folder / "studies" / "s.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def run(path: Path, trials: int | None = None) -> StudyHandle:
    definition = load_definition(path)
    definition = definition.with_trials(trials) if trials else definition
    return run_study(definition, store=Store.open(), console=Console(quiet=True)).handle


@pytest.mark.slow
def test_a_grid_is_run_whole_also_in_two_goes(project: Path, tiny: dict[str, Any]) -> None:
    space = {
        "lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0, "points": 2},
        "lr_d": {"type": "categorical", "choices": [1e-4, 3e-4]},
    }
    path = write(project, tiny, space=space, sampler={"name": "grid"})
    run(path, trials=3)
    handle = run(path)
    tried = {(t.values["lambdas.I_A"], t.values["lr_d"]) for t in handle.trials()}
    assert tried == {(3.0, 1e-4), (3.0, 3e-4), (9.0, 1e-4), (9.0, 3e-4)}
    assert len(handle.trials()) == 4
    with pytest.raises(ConfigError, match="the grid has only 4 combinations"):
        run(path, trials=5)


@pytest.mark.slow
def test_a_function_decides_and_is_not_needed_to_go_on_or_to_show(
    project: Path, tiny: dict[str, Any]
) -> None:
    (project / "studies" / "space.py").write_text(FUNCTION)
    pruner = {"name": "hyperband", "prune_after": 6}
    path = write(project, tiny, space="space.py:identity", pruner=pruner, trials=2)
    run(path, trials=1)
    (project / "studies" / "space.py").write_text(FUNCTION.replace("9.0", "8.0"))
    with pytest.raises(ConfigError, match="was started with another 'space'"):
        run(path)
    (project / "studies" / "space.py").unlink()
    handle = open_study("s")
    assert "both" in study_table(handle)
    definition = handle.definition.with_trials(2)
    handle = run_study(definition, store=Store.open(), console=Console(quiet=True)).handle
    assert len(handle.trials()) == 2
    for trial in handle.trials():
        lambdas = handle.config_of(trial.number).lambdas
        assert (trial.values["lambdas.I_A"],) == lambdas.I_A
        assert (lambdas.I_B == lambdas.I_A) == trial.values["both"]


def test_another_objective_is_what_trials_are_ranked_by(
    project: Path, tiny: dict[str, Any]
) -> None:
    space = {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}}
    objective = "score/lowpass_correlation"
    path = write(project, tiny, space=space, trials=1, objective=objective)
    (trial,) = run(path).trials()
    assert trial.state == "complete"
    assert trial.score is not None
    assert 0 < trial.score <= 1
