"""Spaces defined by a user's own function: tried before a study, stored with their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from cyclegan.errors import ConfigError
from search.study.definition import StudyDefinition, load_definition, parse_definition
from search.study.space import suggest

FUNCTION = """
import numpy as np

def lambdas(trial):
    values = {"lambdas.C_A": trial.suggest_float("C", 0.1, 10.0, log=True)}
    if trial.suggest_categorical("identity", [True, False]):
        values["lambdas.I_A"] = np.float64(trial.suggest_float("I", 0.3, 10.0))
    return values
"""


def study(folder: Path, tiny: dict[str, Any], text: str = FUNCTION, **changes: Any) -> Path:
    (folder / "space.py").write_text(text)
    values = {
        "name": "s",
        "config": tiny,
        "space": "space.py:lambdas",
        "steps": 12,
        "ties": {"lambdas.C_B": "lambdas.C_A"},
        "pruner": {"name": "none"},
        "report_every": 4,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def values_of(definition: StudyDefinition, count: int = 5) -> list[dict[str, Any]]:
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    return [suggest(asked.ask(), definition.space, definition.ties) for _ in range(count)]


def test_a_function_gives_conditional_values_and_ties_follow(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    definition = load_definition(study(tmp_path, tiny))
    given = values_of(definition, 10)
    assert {"lambdas.I_A" in values for values in given} == {True, False}
    for number, values in enumerate(given):
        assert values["lambdas.C_B"] == values["lambdas.C_A"]
        assert all(type(value) is float for value in values.values())
        assert (values["lambdas.C_A"],) == definition.config_of(number, values).lambdas.C_B
    assert list(definition.space) == ["C", "identity", "I"]
    assert definition.config_of(0, definition.first_values()).run_name == "s-000"


def test_what_is_stored_runs_without_the_file_and_is_shown_without_running(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    path = study(tmp_path, tiny, "import sys\nsys.space_was_run = True\n" + FUNCTION)
    definition = load_definition(path)
    text = yaml.safe_dump(definition.model_dump(mode="json"))
    (tmp_path / "space.py").unlink()
    import sys

    del sys.space_was_run  # type: ignore[attr-defined]
    from search.study.space import _module

    _module.cache_clear()
    stored = parse_definition(yaml.safe_load(text), tmp_path / "elsewhere.yaml")
    assert stored == definition
    assert list(stored.space) == ["C", "identity", "I"]
    assert not hasattr(sys, "space_was_run")
    assert values_of(stored) == values_of(definition)


def test_a_changed_function_is_another_definition(tmp_path: Path, tiny: dict[str, Any]) -> None:
    before = load_definition(study(tmp_path, tiny))
    after = load_definition(study(tmp_path, tiny, FUNCTION.replace("0.3", "0.4")))
    assert before.model_dump(mode="json")["space"] != after.model_dump(mode="json")["space"]
    tampered = before.model_dump(mode="json")
    tampered["space"]["text"] = FUNCTION.replace("0.3", "0.4")
    with pytest.raises(ConfigError, match=r"stored text of space\.py was changed"):
        parse_definition(tampered, tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("", {}, ["space.py has no function 'lambdas'"]),
        ("def lambdas(trial:", {}, ["space.py can't be loaded", "SyntaxError"]),
        ("def lambdas(trial): return 1 / 0", {}, ["space.py:lambdas failed", "ZeroDivisionError"]),
        ("def lambdas(trial): return 3", {}, ["gave 3", "dictionary"]),
        ("def lambdas(trial): return {'lr_x': 1}", {"ties": {}}, ["lr_x", "did you mean"]),
        ("def lambdas(trial): return {'lr_g': 5}", {"ties": {}}, ["'lr_g': 5", "less than 1"]),
        ("def lambdas(trial): return {'lr_g': 0.1}", {}, ["ties", "lambdas.C_A"]),
        (FUNCTION, {"sampler": {"name": "grid"}}, ["grid", "every combination", "space.py"]),
        (FUNCTION, {"space": "other.py:lambdas"}, ["other.py", "can't be read"]),
        (FUNCTION, {"space": "../space.py:lambdas"}, ["../space.py", "beside"]),
        (FUNCTION, {"space": "space.py"}, ["space.py", "file.py:function"]),
        (FUNCTION, {"enqueue": [{"lambdas.C_A": 1.0}]}, ["enqueue", "lambdas.C_A"]),
    ],
)
def test_functions_that_cannot_work(
    tmp_path: Path, tiny: dict[str, Any], text: str, changes: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "space.py").write_text(FUNCTION)
    with pytest.raises(ConfigError) as caught:
        load_definition(study(tmp_path / "below", tiny, text, **changes))
    message = str(caught.value)
    assert "study.yaml" in message
    assert "\n" not in message
    for word in words:
        assert word in message
