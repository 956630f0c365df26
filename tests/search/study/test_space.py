"""Spaces and study definitions that can't work are refused before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from cyclegan import load_config
from cyclegan.errors import ConfigError
from search.study.definition import StudyDefinition, load_definition, parse_definition
from search.study.space import Choices, FloatRange, IntRange, contains, suggest

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
        ({"ties": {"lr_g": "filters"}}, ["lr_g is in the space", "tied to filters"]),
        ({"space": {"lr_g": {"type": "float", "low": 0.1, "high": 0.5, "step": 0.3}}}, ["0.3"]),
        ({"space": {"lr_g": {"type": "float", "low": 0.1, "high": 0.5, "points": 3}}}, ["points"]),
        (
            {"space": {"filters": {"type": "int", "low": 2, "high": 8, "log": True, "step": 2}}},
            ["filters", "log and step exclude"],
        ),
        (
            {
                "space": {
                    "batch_size": {"type": "float", "low": 1, "high": 2, "log": True, "step": 1}
                }
            },
            ["batch_size", "log and step exclude"],
        ),
        ({"enqueue": [{"lr_d": 1}]}, ["enqueue", "lr_d"]),
        ({"enqueue": [{"lr_g": 0.5}]}, ["enqueue", "lr_g = 0.5", "not among"]),
        ({"enqueue": [{"norm_D": "batch"}]}, ["enqueue", "norm_D = batch", "not among"]),
        ({"pruner": {"prune_after": 12}}, ["prune_after = 12", "steps = 12"]),
        # Judged at the first report from 9 on, which is the last one.
        ({"pruner": {"prune_after": 9}}, ["prune_after = 9", "report_every = 4"]),
        ({"pruner": {"name": "threshold", "prune_after": 4}}, ["threshold needs lower"]),
        ({"pruner": {"name": "median", "patience": 2}}, ["patience", "median ignores it"]),
        ({"objective": "loss"}, ["objective", "loss", "score"]),
        ({"sampler": {"name": "grid"}}, ["space.lr_g", "points: 3"]),
        (
            {
                "sampler": {"name": "cmaes"},
                "space": {"lr_g": {"type": "float", "low": 0.1, "high": 0.2}},
            },
            ["cmaes", "two"],
        ),
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


def test_ranges_in_optunas_terms_and_on_a_grid() -> None:
    log = FloatRange(low=1e-4, high=1e-2, log=True, points=3)
    assert log.grid() == [1e-4, 1e-3, 1e-2]
    assert FloatRange(low=0.1, high=0.7, step=0.2).grid() == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert FloatRange(low=0.1, high=0.7).grid() is None
    assert IntRange(type="int", low=2, high=8, step=3).grid() == [2, 5, 8]
    assert IntRange(type="int", low=1, high=64, log=True, points=3).grid() == [1, 8, 64]
    assert Choices(type="categorical", choices=("a", True)).grid() == ("a", True)
    for dimension in (log, FloatRange(low=0.1, high=0.7, step=0.2)):
        assert all(contains(dimension, value) for value in dimension.grid() or ())
    assert not contains(log, 0.5)
    assert not contains(log, "a")
    assert not contains(FloatRange(low=0.1, high=0.7, step=0.2), 0.2)


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


def test_shipped_studies_are_valid() -> None:
    folder = Path(__file__).parents[3] / "studies"
    files = [p for p in folder.glob("*.yaml") if "space" in p.read_text()]
    assert files
    for path in files:
        assert isinstance(load_definition(path), StudyDefinition)
    trainings = [p for p in folder.glob("*.yaml") if p not in files]
    assert trainings
    for path in trainings:
        assert load_config(path).data_A


@pytest.mark.parametrize(
    ("promote", "words"),
    [
        ({"set": {"filtres": 4}}, "promote.set: filtres is not a known key; did you mean"),
        ({"set": {"lr_g": 7}}, "promote.set: lr_g = 7"),
        ({"set": {"data_A": "other.json"}}, "promote.set.data_A = other.json"),
        ({"start": "continue", "steps": 12}, "promote.steps = 12: with start = continue"),
    ],
)
def test_a_promotion_that_cannot_work_is_refused_before_the_study(
    tiny: dict[str, Any], tmp_path: Path, promote: dict[str, Any], words: str
) -> None:
    content = {
        "name": "s",
        "config": tiny,
        "space": {"layers_D": {"type": "int", "low": 1, "high": 1}},
    }
    content |= {"steps": 12, "report_every": 4}
    content |= {"promote": promote, "pruner": {"name": "none"}}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        load_definition(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_seeds_that_a_sampler_cannot_take_are_refused(tiny: dict[str, Any]) -> None:
    for sampler in ({"seed": 2**64}, {"name": "cmaes", "seed": 2**32}):
        with pytest.raises(ConfigError, match="seed"):
            parse_definition(definition(tiny, sampler=sampler), HERE)
