"""Spaces and study definitions: refused before anything is trained if they can't work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from cyclegan import load_config
from cyclegan.errors import ConfigError
from search.study.definition import StudyDefinition, load_definition, parse_definition
from search.study.pruning import explain
from search.study.space import suggest

HERE = Path("study.yaml")


def definition(tiny: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {
        "name": "small",
        "config": tiny,
        "space": {
            "lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "lambdas.C_A": {"type": "float", "low": 0.5, "high": 10.0},
            "filters": {"type": "int", "low": 2, "high": 4},
            "norm_D": {"type": "categorical", "choices": ["instance", "none"]},
        },
        "ties": {"lambdas.C_B": "lambdas.C_A"},
        "pruner": {"prune_after": 4},
        "steps": 12,
        "report_every": 4,
        "trials": 3,
    }
    if "space" in changes:
        base["ties"] = {}
    return base | changes


def test_suggested_values_make_a_config_and_ties_follow(tiny: dict[str, Any]) -> None:
    parsed = parse_definition(definition(tiny), HERE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(5):
        values = suggest(study.ask(), parsed.space, parsed.ties)
        config = parsed.config_of(number, values)
        assert config.lambdas.C_A == config.lambdas.C_B == (values["lambdas.C_A"],)
        assert 1e-4 <= config.lr_g <= 1e-2
        assert config.run_name == f"small-{number:03d}"
        assert (config.steps, config.validate_every) == (12, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"lr_x": {"type": "float", "low": 1, "high": 2}}}, ["lr_x", "lr_"]),
        ({"space": {"lr_g": {"type": "float", "low": 2, "high": 1}}}, ["low = 2", "high = 1"]),
        ({"space": {"lr_g": {"type": "float", "low": 0, "high": 1, "log": True}}}, ["low > 0"]),
        ({"space": {"lr_g": {"type": "float", "low": 0.1, "high": 3}}}, ["space.lr_g = 3"]),
        ({"space": {"lr_g": {"type": "flot", "low": 0.1, "high": 3}}}, ["lr_g", "flot"]),
        ({"space": {}}, ["space"]),
        ({"ties": {"lr_d": "lr_x"}}, ["ties.lr_d = lr_x", "not in the space"]),
        ({"enqueue": [{"lr_d": 1}]}, ["enqueue", "lr_d"]),
        ({"pruner": {"prune_after": 12}}, ["prune_after = 12", "steps = 12"]),
        ({"sampler": {"name": "tpee"}}, ["sampler.name", "tpee"]),
        ({"trails": 3}, ["trails", "did you mean 'trials'"]),
        ({"name": "a/b"}, ["name", "a/b"]),
    ],
)
def test_definitions_that_cannot_work(
    tiny: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_definition(definition(tiny, **changes), HERE)
    for word in words:
        assert word in str(caught.value)


def test_base_configuration_can_be_a_file_beside_the_study(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(definition(tiny, config="base.yaml")))
    assert load_definition(path).base["lr_g"] == tiny["lr_g"]


def test_a_definition_survives_its_yaml(tiny: dict[str, Any]) -> None:
    parsed = parse_definition(definition(tiny), HERE)
    text = yaml.safe_dump(parsed.model_dump(mode="json"))
    assert parse_definition(yaml.safe_load(text), HERE) == parsed


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_an_interrupted_study_asks_for_the_values_it_would_have_asked_for(
    tiny: dict[str, Any], name: str
) -> None:
    parsed = parse_definition(definition(tiny, sampler={"name": name, "startup_trials": 2}), HERE)

    def run(restart: bool) -> list[dict[str, Any]]:
        storage = optuna.storages.InMemoryStorage()
        for number in range(5):
            if number == 0 or restart:  # a new process knows only the storage
                study = optuna.create_study(
                    study_name="s", storage=storage, load_if_exists=True, direction="maximize"
                )
            study.sampler = parsed.sampler.build(number)
            trial = study.ask()
            values = suggest(trial, parsed.space, parsed.ties)
            study.tell(trial, values["lr_g"])
        return [t.params for t in study.trials]

    assert run(restart=True) == run(restart=False)


def test_shipped_studies_are_valid() -> None:
    folder = Path(__file__).parents[2] / "studies"
    files = [p for p in folder.glob("*.yaml") if "space" in p.read_text()]
    assert files
    for path in files:
        assert isinstance(load_definition(path), StudyDefinition)
    trainings = [p for p in folder.glob("*.yaml") if p not in files]
    assert trainings
    for path in trainings:
        assert load_config(path).data_A


def test_why_a_trial_was_pruned() -> None:
    text = explain(0.5, [2.0, 1.0, 0.1], 60)
    assert text == (
        "score 0.50 at step 60: rank 3 of 4 there (best 2.00, median 1.00, 1.50 below the best)"
    )
