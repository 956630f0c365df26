"""The guide to studies is true: its example is a valid study, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cyclegan.config import Section
from search.study.definition import Promotion, StudyDefinition, load_definition, parse_definition
from search.study.objective import Objective
from search.study.pruners import Pruner
from search.study.rules import Checkpoints, StopRules
from search.study.samplers import Sampler
from search.study.space import FunctionSpace

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (text,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(text)


def test_the_example_is_a_study_with_every_key() -> None:
    values = yaml.safe_load(block("yaml"))
    definition = parse_definition(values, Path("study.yaml"))
    assert set(values) == set(StudyDefinition.model_fields)
    assert set(values["stop"]) == set(StopRules.model_fields)
    assert set(values["checkpoints"]) == set(Checkpoints.model_fields)
    assert set(values["promote"]) == set(Promotion.model_fields)
    # The defaults in the example are the real defaults.
    minimal = {key: values[key] for key in ("name", "config", "space")}
    default = parse_definition(minimal, Path("study.yaml"))
    for key in ("enqueue_defaults", "objective", "sampler", "pruner", "trials", "steps", "seeds"):
        assert getattr(definition, key) == getattr(default, key), key


def test_the_page_names_every_key_and_every_choice() -> None:
    kinds: tuple[type[Section], ...] = (StudyDefinition, Sampler, Pruner, StopRules, Checkpoints)
    for kind in kinds:
        for name in kind.model_fields:
            assert re.search(rf"[`{{ ^]?{name}[`:]", PAGE), f"{kind.__name__}.{name}"
    for kind in (Sampler, Pruner):
        for choice in kind.model_fields["name"].annotation.__args__:  # type: ignore[union-attr]
            assert f"| `{choice}` |" in PAGE, choice
    for objective in Objective.__args__:  # type: ignore[attr-defined]
        assert f"`{objective}`" in PAGE


def test_the_function_in_the_guide_is_a_space(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(block("python"))
    values = yaml.safe_load(block("yaml")) | {"space": "space.py:lambdas", "enqueue": []}
    values["ties"] = {"lambdas.C_B": "lambdas.C_A"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    space = load_definition(tmp_path / "study.yaml").space
    assert isinstance(space, FunctionSpace)
    assert space.parameters == ("lambdas.C_A", "identity", "lambdas.I_A")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "studies").glob("*_1000*.yaml")), ids=lambda p: p.stem
)
def test_the_shipped_studies_are_what_the_guide_says(path: Path) -> None:
    definition = load_definition(path)
    assert definition.name == path.stem
    if path.stem.startswith("grid"):
        assert (definition.sampler.name, definition.pruner.name) == ("grid", "none")
        assert definition.steps == 1000
        assert definition.trials == definition.sampler.cells(definition.space) == 8
    else:
        assert definition.pruner.name == "successive_halving"
        assert definition.pruner.rungs(definition.steps) == [1000, 2000]
    scale = {"2x": 2, "4x": 4}.get(path.stem[-2:], 1)
    assert definition.config_of(0, definition.first_values()).super_resolution == scale
