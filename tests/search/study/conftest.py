"""Studies on disk whose trials need no training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from search.study import StudyHandle
from search.study.definition import StudyDefinition, parse_definition
from search.study.storage import StudyStorage
from search.study.study import optuna_study, studies_folder

LR = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
CYCLE = {"type": "float", "low": 0.1, "high": 10.0}

Define = Callable[..., StudyDefinition]
Begin = Callable[..., StudyHandle]


@pytest.fixture
def define(tiny: dict[str, Any], project: Path) -> Define:
    """Return a definition that searches `lr_g` and `lambdas.C_A`; other keys as given."""

    def make(name: str = "s", **changes: Any) -> StudyDefinition:
        content = {
            "name": name,
            "config": tiny,
            "space": {"lr_g": LR, "lambdas.C_A": CYCLE},
            "pruner": {"name": "none"},
            "steps": 12,
            "report_every": 4,
        }
        return parse_definition(content | changes, project / f"{name}.yaml")

    return make


@pytest.fixture
def begin(define: Define) -> Begin:
    """Begin the study of a definition with trials, each `(state, score, values, attributes)`."""

    def make(
        trials: list[tuple[str, float | None, dict[str, Any], dict[str, Any]]],
        definition: StudyDefinition | None = None,
    ) -> StudyHandle:
        definition = definition or define()
        folder = studies_folder() / definition.name
        storage = StudyStorage(folder)
        study = optuna_study(definition, storage)
        text = yaml.safe_dump(definition.model_dump(mode="json"))
        (folder / "study.yaml").write_text(text)
        for number, (state, score, values, attributes) in enumerate(trials):
            config = json.dumps(definition.config_of(number, values).to_dict())
            study.add_trial(_trial(state, score, values, {"config": config} | attributes))
        return StudyHandle(definition, study, folder, storage)

    return make


def _trial(
    state: str, score: float | None, values: dict[str, Any], attributes: dict[str, Any]
) -> optuna.trial.FrozenTrial:
    kind = TrialState[{"failed": "FAIL"}.get(state, state.upper())]
    distributions = {
        key: optuna.distributions.FloatDistribution(value / 10, value * 10)
        for key, value in values.items()
    }
    return optuna.trial.create_trial(
        state=kind,
        value=score if kind == TrialState.COMPLETE else None,
        intermediate_values={} if score is None else {4: score},
        params=values,
        distributions=distributions,
        user_attrs=attributes,
    )
