"""A study whose trials are written down rather than trained, in a project with a real store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from search.study import OpenStudy, open_study
from search.study.definition import load_definition
from search.study.storage import StudyStorage
from search.study.study import optuna_study, studies_folder
from tracking import Store
from viz.console import Console

QUIET = Console(quiet=True)


@pytest.fixture
def store(project: Path) -> Store:
    return Store.open()


@pytest.fixture
def definition_file(project: Path, tiny: dict[str, Any]) -> Callable[..., Path]:
    """Writes the definition of the study `s`: tiny trainings of 8 steps."""

    def write(config: Mapping[str, Any] | None = None, **changes: Any) -> Path:
        # A generator a few steps old is flat for the score with a small rate.
        base = tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3, "checkpoint_every": 4}
        content = {
            "name": "s",
            "config": base | dict(config or {}),
            "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
            "pruner": {"name": "none", "prune_after": 4},
            "steps": 8,
            "report_every": 4,
            "promote": {"steps": 12},
        }
        path = project / "studies" / "s.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


@pytest.fixture
def written(store: Store, definition_file: Callable[..., Path]) -> Callable[..., OpenStudy]:
    """The study `s` with complete trials of given scores; `reports` are the scores at step 4."""

    def make(
        scores: Sequence[float],
        reports: Sequence[float] | None = None,
        attributes: Sequence[Mapping[str, Any]] | None = None,
        **changes: Any,
    ) -> OpenStudy:
        path = definition_file(**changes)
        definition = load_definition(path)
        folder = studies_folder() / "s"
        study = optuna_study(definition, StudyStorage(folder))
        (folder / "study.yaml").write_text(
            yaml.safe_dump(definition.model_dump(mode="json"), sort_keys=False)
        )
        parent = store.create_run("s", "s", kind="study", params={}, tags={"study": "s"})
        study.set_user_attr("mlflow_run_id", parent.id)
        for number, score in enumerate(scores):
            report = (reports or scores)[number]
            trial = _trial(study, definition, number, score, report, store)
            trial.user_attrs.update(attributes[number] if attributes else {})
            study.add_trial(trial)
        return open_study("s")

    return make


def _trial(
    study: optuna.Study,
    definition: Any,
    number: int,
    score: float,
    report: float,
    store: Store,
) -> optuna.trial.FrozenTrial:
    values = {"lambdas.I_A": 3.0 + number}
    config = definition.config_of(number, values)
    run = store.create_run(
        "s",
        config.run_name,
        kind="trial",
        params={},
        tags={"study": "s", "trial": str(number)},
        parent=study.user_attrs["mlflow_run_id"],
    )
    run.finish("FINISHED")
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        params=values,
        distributions={"lambdas.I_A": optuna.distributions.FloatDistribution(3.0, 9.0)},
        value=score,
        intermediate_values={4: report, 8: score},
        user_attrs={
            "config": json.dumps(config.to_dict()),
            "mlflow_run_id": run.id,
            "seeds": [
                {"seed": config.seed, "run_id": run.id, "score": score, "iteration": 8},
            ],
            "step": 8,
        },
    )
