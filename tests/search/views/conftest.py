"""Studies made up trial by trial, to be looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.study.definition import StudyDefinition, parse_definition
from search.study.opened import OpenStudy
from search.study.space import suggest
from search.study.storage import StudyStorage

SPACE: dict[str, Any] = {
    "lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "lambdas.C_A": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
    "batch_size": {"type": "int", "low": 1, "high": 4},
    "norm_D": {"type": "categorical", "choices": ["none", "instance", "batch"]},
}
BEGIN = datetime(2026, 1, 2, 3, 4)
STEPS, EVERY = 400, 50

MakeStudy = Callable[..., OpenStudy]


@pytest.fixture
def make_study(project: Path, tiny: Mapping[str, Any]) -> MakeStudy:
    """A function that makes a study of `trials` trials, in memory."""

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def make(trials: int, space: Mapping[str, Any] = SPACE, **changes: Any) -> OpenStudy:
        content = {
            "name": "made",
            "config": dict(tiny),
            "space": dict(space),
            "pruner": {"name": "successive_halving", "prune_after": 100},
            "trials": max(trials, 1),
            "steps": STEPS,
            "report_every": EVERY,
            **changes,
        }
        definition = parse_definition(content, project / "studies" / "made.yaml")
        study = optuna.create_study(study_name="made", direction="maximize")
        random = np.random.default_rng(0)
        for number in range(trials):
            study.add_trial(_trial(number, definition, random))
        folder = project / "studies" / "local" / "made"
        return OpenStudy(definition, study, folder, StudyStorage(folder))

    return make


def _trial(number: int, definition: StudyDefinition, random: np.random.Generator) -> FrozenTrial:
    """Every fourth is gated, every other of the rest pruned at a rung."""
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask()
    values = suggest(asked, definition.space, {})
    config = definition.config_of(number, values)
    goal = 2.0 - abs(np.log10(asked.params.get("lr_g", 1e-3)) + 3.0) + 0.2 * random.normal()
    gated, pruned = number % 4 == 3, number % 2 == 1
    end = 100 if pruned else STEPS
    curve = {i: float(goal - 800.0 / i) for i in range(EVERY, end + 1, EVERY)}
    if gated:
        curve[100] = -100.0
    reason = "gate at step 100: flat" if gated else "rank 3 of 3 there" if pruned else ""
    trial = optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=curve[end],
        params=asked.params,
        distributions=asked.distributions,
        intermediate_values=curve,
        user_attrs={
            "config": json.dumps(config.to_dict()),
            "step": end,
            "iteration": end + 10,
            "reason": reason,
            "mlflow_run_id": f"run{number}",
        },
    )
    trial.datetime_start = BEGIN + timedelta(minutes=2 * number)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=end / 4)
    return trial
