"""The first trials: given values, defaults, the best of earlier studies, each once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from cyclegan.errors import ConfigError
from search.study import StudyHandle
from search.study.definition import StudyDefinition
from search.study.initial_trials import earlier_ends, first_values, fitted
from search.study.outlook import EARLIER, outlook
from search.study.space import Choices, FloatRange, IntRange, suggest

Define = Callable[..., StudyDefinition]
Begin = Callable[..., StudyHandle]

DEFAULTS = {"lr_g": 1e-3, "lambdas.C_A": 0.5}
"""Values of the configuration `tiny` for the searched keys."""

FLOAT = FloatRange(low=1.0, high=2.0)
STEPS = FloatRange(low=0.1, high=0.9, step=0.2)
INT = IntRange(type="int", low=2, high=10, step=4)
CHOICES = Choices(type="categorical", choices=("a", 1, 2.5))
SWITCH = Choices(type="categorical", choices=(True, False))


def between(low: float, high: float) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high}


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (FLOAT, 1.0, 1.0),
        (FLOAT, 2.0, 2.0),
        (FLOAT, [1.5], 1.5),
        (FLOAT, 2, 2.0),
        (FLOAT, 2.0001, None),
        (FLOAT, [1.2, 1.3], None),
        (FLOAT, None, None),
        (FLOAT, True, None),
        (FLOAT, float("nan"), None),
        (FLOAT, "1.5", None),
        (STEPS, 0.7, 0.7),
        (STEPS, 0.6, None),
        (INT, 6, 6),
        (INT, 6.0, 6),
        (INT, 7, None),
        (INT, 14, None),
        (CHOICES, "a", "a"),
        (CHOICES, 1.0, 1),
        (CHOICES, True, None),
        (CHOICES, "b", None),
        (SWITCH, True, True),
        (SWITCH, 1, None),
    ],
)
def test_a_value_fits_or_does_not(dimension: Any, value: Any, expected: Any) -> None:
    found = fitted(dimension, value)
    assert found == expected
    assert type(found) is type(expected)


def test_given_values_come_first_then_defaults(define: Define) -> None:
    given = ({"lr_g": 5e-3}, {"lr_g": 2e-3, "lambdas.C_A": 3.0})
    assert first_values(define(enqueue=given)) == [*given, DEFAULTS]
    assert first_values(define(enqueue=given, enqueue_defaults=False)) == list(given)


def test_defaults_outside_of_the_space_are_left_out_and_told(
    define: Define, caplog: pytest.LogCaptureFixture
) -> None:
    space = {"lr_g": between(2e-3, 1e-2), "lambdas.C_A": between(0.1, 1.0)}
    with caplog.at_level(logging.INFO, logger="search"):
        assert first_values(define(space=space)) == []
    assert "their lr_g = 0.001 lies outside the space" in caplog.text


def test_a_key_the_file_does_not_have_has_the_software_default(define: Define) -> None:
    definition = define(space={"ema_decay": between(0.9, 0.9999)})
    assert first_values(definition) == [{"ema_decay": 0.999}]


def test_what_is_the_same_is_tried_once(define: Define, begin: Begin) -> None:
    begin([("complete", 1.0, {"lr_g": 1e-3, "lambdas.C_A": 0.5 + 1e-9}, {})], define("old"))
    near = DEFAULTS | {"lr_g": 1e-3 * (1 + 1e-8)}
    definition = define("new", enqueue=[near, near], warm_start=["old"])
    assert first_values(definition) == [near]


def test_the_best_of_earlier_studies_is_taken_over(define: Define, begin: Begin) -> None:
    bad, good = {"lr_g": 1e-4, "lambdas.C_A": 9.0}, {"lr_g": 3e-3, "lambdas.C_A": 2.0}
    pruned = {"lr_g": 9e-3, "lambdas.C_A": 1.0}
    trials = [("complete", 1.0, bad), ("complete", 2.0, good), ("pruned", 3.0, pruned)]
    begin([(*trial, {}) for trial in trials], define("old"))
    definition = define("new", warm_start=["old"], enqueue_defaults=False)
    assert first_values(definition) == [good]


def test_a_value_outside_of_the_space_leaves_the_whole_set_out(
    define: Define, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    begin([("complete", 1.0, {"lr_g": 3e-3, "lambdas.C_A": 2.0}, {})], define("old"))
    space = {"lr_g": between(4e-3, 1e-2), "lambdas.C_A": between(0.1, 5.0)}
    definition = define("new", space=space, warm_start=["old"], enqueue_defaults=False)
    assert first_values(definition) == []
    assert "trial 0 of study old is not tried first: its lr_g = 0.003 lies outside" in caplog.text


def test_keys_that_were_not_searched_come_from_that_trial_s_configuration(
    define: Define, begin: Begin, tiny: dict[str, Any]
) -> None:
    old = define("old", config=tiny | {"lr_d": 7e-4}, space={"lr_g": between(1e-4, 1e-2)})
    begin([("complete", 1.0, {"lr_g": 3e-3}, {})], old)
    space: dict[str, Any] = {
        "lr_d": between(1e-4, 1e-2),  # inside: the value of that best trial
        "lambdas.C_B": between(50.0, 90.0),  # outside: the value of the sampler
    }
    definition = define("new", space=space, warm_start=["old"], enqueue_defaults=False)
    assert first_values(definition) == [{"lr_d": 7e-4}]


def test_an_earlier_study_without_a_result_is_told_and_left_out(
    define: Define, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    begin([], define("old"))
    definition = define("new", warm_start=["old"], enqueue_defaults=False)
    assert first_values(definition) == []
    assert "no warm start: study old has no complete trial yet" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aold", r"study new: warm_start: study 'aold' .*did you mean 'old'\?"),
        ("new", "warm_start names this study itself"),
    ],
)
def test_a_study_that_is_not_there_names_the_nearest(
    define: Define, begin: Begin, name: str, message: str
) -> None:
    begin([], define("old"))
    with pytest.raises(ConfigError, match=message):
        first_values(define("new", warm_start=[name]))


def test_a_grid_tries_nothing_first(define: Define, caplog: pytest.LogCaptureFixture) -> None:
    definition = define(enqueue=[DEFAULTS])
    grid = definition.model_copy(update={"sampler": SimpleNamespace(name="grid")})
    assert first_values(grid) == []
    assert "ignoring enqueue and warm_start" in caplog.text


def test_a_space_made_by_a_function_takes_what_it_is_given(define: Define, begin: Begin) -> None:
    begin([("complete", 1.0, {"lr_g": 3e-3, "lambdas.C_A": 2.0}, {})], define("old"))
    changes = {"space": "space.py:lambdas", "enqueue": ({"depth": 3},)}
    function = define(warm_start=["old"]).model_copy(update=changes)
    assert first_values(function) == [{"depth": 3}, {"lr_g": 3e-3, "lambdas.C_A": 2.0}]


def test_optuna_takes_the_values_without_a_warning(
    define: Define, recwarn: pytest.WarningsRecorder
) -> None:
    definition = define(enqueue=[{"lr_g": 5e-3}])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for values in first_values(definition):
        study.enqueue_trial(values, skip_if_exists=True)
    first, second = (suggest(study.ask(), definition.space, {}) for _ in range(2))
    assert first["lr_g"] == 5e-3
    assert second == DEFAULTS
    assert not [w for w in recwarn if "Fixed parameter" in str(w.message)]


def test_a_gaussian_process_learns_from_earlier_studies(define: Define, begin: Begin) -> None:
    rates = np.geomspace(2e-4, 9e-3, 12).tolist()
    trials = [
        ("complete", -20.0 * abs(math.log10(rate / 3e-3)), {"lr_g": rate, "lambdas.C_A": 1.0}, {})
        for rate in rates
    ]
    begin(trials, define("earlier"))
    sampler = {"name": "noisy_gp", "startup_trials": 3}
    definition = define("s", warm_start=["earlier"], sampler=sampler)
    (found,) = earlier_ends(definition)
    assert len(found["values"]) == len(rates)
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(EARLIER, [found])
    study.sampler = definition.sampler.for_study(definition.space, partial(outlook, definition))
    first = suggest(study.ask(), definition.space, definition.ties)
    assert 1.5e-3 < first["lr_g"] < 6e-3
    # The others only try its best values first.
    assert earlier_ends(define("t", warm_start=["earlier"], sampler="tpe")) == []
