"""The unit cube of a space: values and places belong together."""

from __future__ import annotations

import numpy as np
import pytest

from search.study.cube import Cube
from search.study.space import Choices, FloatRange, IntRange, contains

SPACE = {
    "lr_g": FloatRange(low=1e-4, high=1e-2, log=True),
    "lambdas.C_A": FloatRange(low=0.0, high=10.0, step=2.5),
    "filters": IntRange(type="int", low=4, high=32, log=True),
    "layers_D": IntRange(type="int", low=1, high=7, step=2),
    "norm_D": Choices(type="categorical", choices=("none", "instance", 1, True)),
}


def test_every_place_has_values_of_the_space() -> None:
    cube, random = Cube(SPACE), np.random.default_rng(1)
    for place in [np.zeros(5), np.ones(5), *random.random((200, 5))]:
        values = cube.values(place)
        assert all(contains(SPACE[key], value) for key, value in values.items())
        assert cube.features_of(values) is not None


def test_values_keep_their_features() -> None:
    cube = Cube({key: SPACE[key] for key in ("lr_g", "norm_D")})
    places = np.random.default_rng(0).random((50, 2))
    features = cube.features(places)
    for place, expected in zip(places, features, strict=True):
        assert cube.features_of(cube.values(place)) == pytest.approx(tuple(expected))


def test_features_have_a_place() -> None:
    cube = Cube(SPACE)
    features = cube.features(np.random.default_rng(0).random((50, len(SPACE))))
    assert cube.features(cube.places(features)) == pytest.approx(features)


def test_any_two_choices_are_as_far_apart_as_the_ends_of_a_range() -> None:
    cube = Cube({"norm_D": SPACE["norm_D"]})
    features = [np.array(cube.features_of({"norm_D": choice})) for choice in ("none", 1, True)]
    distances = [np.linalg.norm(a - b) for a, b in ((features[0], features[1]), features[1:])]
    assert distances == pytest.approx([1.0, 1.0])


def test_values_outside_of_the_space_have_no_features() -> None:
    cube = Cube(SPACE)
    inside = cube.values(np.full(5, 0.5))
    for key, value in (("lr_g", 1.0), ("lr_g", None), ("norm_D", "batch"), ("filters", True)):
        assert cube.features_of(inside | {key: value}) is None
    assert cube.features_of({}) is None
