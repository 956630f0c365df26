"""A training that diverges is an outcome of a study, not its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from search.study import run_study
from search.study.definition import StudyDefinition
from tracking import Store
from viz.console import Console


def test_a_study_goes_on_after_a_trial_that_diverges(
    define: Callable[..., StudyDefinition], project: Path
) -> None:
    definition = define(
        space={"lambdas.C_A": {"type": "categorical", "choices": [1e300, 1.0]}},
        enqueue=[{"lambdas.C_A": 1e300}, {"lambdas.C_A": 1.0}],
        enqueue_defaults=False,
        trials=2,
    )
    handle = run_study(definition, store=Store.open(), console=Console(quiet=True)).handle
    trials = handle.trials()
    assert [trial.state for trial in trials] == ["pruned", "complete"]
    assert "loss/G_total was inf" in trials[0].reason
    assert not (handle.trial_folder(0) / "save" / "generator.pt").exists()
