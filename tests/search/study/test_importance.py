"""Importance: the key that matters comes first, and too few trials give a message."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from cyclegan.errors import DataError
from search.study.importance import importance, importance_data, importance_text

ONE_MATTERS = {
    "lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "lambdas.C_A": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
    "lambdas.C_B": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
}


def test_the_key_that_decides_comes_first(make_study: Any) -> None:
    handle = make_study(120, ONE_MATTERS)  # the score depends on lr_g and chance
    found = importance(handle)
    assert next(iter(found.shares)) == "lr_g"
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert (found.trials, found.top, found.caution) == (60, 6, "")
    assert importance_text(found).splitlines()[1].split()[0] == "lr_g"
    assert importance_data(handle, found)["importance"] == found.shares


def test_of_few_trials_the_best_half_is_taken_and_a_caution_given(make_study: Any) -> None:
    found = importance(make_study(8, ONE_MATTERS))
    assert (found.trials, found.top) == (4, 2)
    assert "4 complete trials say little about 3 keys" in found.caution
    assert found.caution in importance_text(found)
    assert importance(make_study(20, ONE_MATTERS)).top == 5


def test_too_few_complete_trials_are_refused_with_the_way_out(make_study: Any) -> None:
    with pytest.raises(DataError, match=r"has 3 complete trials.*4 or more; run more: .*--trials"):
        importance(make_study(6))
    with pytest.raises(DataError, match="continue with: cyclegan study run made"):
        importance(make_study(0))


def test_equal_scores_are_refused(make_study: Any) -> None:
    handle = make_study(0)
    for value in (0.1, 0.2, 0.3, 0.4):
        handle.study.add_trial(
            optuna.trial.create_trial(
                value=1.0,
                params={"lr_g": value},
                distributions={"lr_g": optuna.distributions.FloatDistribution(0, 1)},
            )
        )
    with pytest.raises(DataError, match=r"all 4 complete trials have the score 1\.00"):
        importance(handle)
