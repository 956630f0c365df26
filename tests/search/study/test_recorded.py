"""Recorded trainings as earlier studies: they lead where they agree, and stand back where not."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest

from search.study.cube import Cube
from search.study.initial_trials import recorded_ends
from search.study.outlook import EARLIER, outlook
from search.study.recorded import RecordedTrials, recorded_studies
from search.study.space import FloatRange, suggest
from tests.search.study.conftest import Define

KEYS = {
    "lr_g": (1e-4, 1e-2),
    "lr_d": (2e-5, 2e-3),
    "lambdas.G_A": (0.03, 10.0),
    "lambdas.C_A": (0.03, 10.0),
    "lambdas.I_A": (0.03, 10.0),
    "lambdas.P_A": (0.3, 30.0),
    "lambdas.P_B": (0.1, 10.0),
}


def between(low: float, high: float) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, "log": True}


def cube_of(*keys: str) -> Cube:
    return Cube({key: FloatRange(low=KEYS[key][0], high=KEYS[key][1], log=True) for key in keys})


def test_all_trainings_are_shipped_with_the_software() -> None:
    shipped = RecordedTrials.shipped()
    assert set(shipped) == {"phantom", "phantom_2x", "fibres"}
    for one in shipped.values():
        assert one.values.shape == (len(one.ends), len(one.keys))
        assert len(one.ends) >= 60
        assert np.isfinite(one.ends).all() and (one.values > 0).all()
        # In units of the data set: the typical training has 0.
        assert abs(np.median(one.ends)) < 0.3


def test_each_data_set_is_one_earlier_study() -> None:
    found = recorded_studies(cube_of(*KEYS), {}, "score")
    assert len(found) == 3
    for study in found:
        assert study.points.shape == (len(study.values), 7)
        assert (study.variances == 0.0).all()
    assert recorded_studies(cube_of(*KEYS), {}, "score/pseudo_pair_gain_db") == []


def test_keys_that_are_not_searched_make_recorded_ends_uncertain() -> None:
    one = RecordedTrials.shipped()["fibres"]
    few, more = (one.within(cube_of(*keys), {}) for keys in (["lr_d"], list(KEYS)[:6]))
    assert few is not None and more is not None
    assert few.variances[0] > more.variances[0] >= 0.0


def test_only_trials_inside_of_the_space_count() -> None:
    one = RecordedTrials.shipped()["phantom"]
    half = Cube({"lr_g": FloatRange(low=1e-3, high=1e-2, log=True)})
    found = one.within(half, {})
    assert found is not None and 20 < len(found.values) < len(one.values)
    assert found.points.min() >= 0.0 and found.points.max() <= 1.0
    assert one.within(Cube({"lr_g": FloatRange(low=0.1, high=1.0)}), {}) is None
    # A key in which the recorded trainings do not differ has the value of the configuration.
    wide = Cube({"lr_g": half.space["lr_g"], "filters": FloatRange(low=2.0, high=8.0)})
    placed = one.within(wide, {"filters": 4.0})
    assert placed is not None
    assert np.allclose(placed.points[:, 1], 1.0 / 3.0)
    assert one.within(wide, {"filters": None}) is None
    assert one.within(Cube({"filters": FloatRange(low=2.0, high=8.0)}), {"filters": 4.0}) is None
    # A key that was tied to another one has its value.
    tied = one.within(Cube({"lambdas.G_B": FloatRange(low=0.03, high=10.0, log=True)}), {})
    assert tied is not None and len(tied.values) == len(one.values)


def test_a_study_begins_where_recorded_trainings_were_good(define: Define) -> None:
    best = [
        float(one.values[one.ends.argmax(), one.keys.index("lr_g")])
        for one in RecordedTrials.shipped().values()
    ]
    definition = define(space={"lr_g": between(1e-5, 1e-1)}, sampler="noisy_gp")
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(EARLIER, recorded_ends(definition))
    study.sampler = definition.sampler.for_study(definition.space, partial(outlook, definition))
    first = suggest(study.ask(), definition.space, definition.ties)
    assert min(best) / 3 < first["lr_g"] < max(best) * 3
    assert recorded_ends(define(sampler="tpe")) == []
    without = {"name": "noisy_gp", "recorded_trials": False}
    assert recorded_ends(define(sampler=without)) == []
    assert len(recorded_ends(define(sampler="noisy_gp"))) == 3


@pytest.mark.parametrize("optimum", [2e-4, 2e-2])
def test_a_study_that_contradicts_them_goes_its_own_way(define: Define, optimum: float) -> None:
    definition = define(space={"lr_g": between(1e-5, 1e-1)}, sampler="noisy_gp", steps=1_000)
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(EARLIER, recorded_ends(definition))
    study.sampler = definition.sampler.for_study(definition.space, partial(outlook, definition))
    rates = []
    for _ in range(14):
        trial = study.ask()
        rate = float(suggest(trial, definition.space, definition.ties)["lr_g"])
        rates.append(rate)
        score = 5.0 - 6.0 * abs(np.log10(rate / optimum))
        trial.report(score, 1_000)
        study.tell(trial, score)
    assert min(abs(np.log10(rate / optimum)) for rate in rates) < 0.1
    near = [rate for rate in rates[-7:] if optimum / 3 < rate < optimum * 3]
    assert len(near) >= 2
