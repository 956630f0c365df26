"""Proposals of new trials: the most promising of many candidates in the space.

The candidates are points of a Sobol sequence and neighbours of the best trials, and then, in two
rounds, neighbours of the most promising ones so far. In a space of ten keys the sequence alone is
so sparse that hardly any point lies near the best trials.

Like the decisions of `search.study.thaw`, proposals are pure functions of the prospects of a
study's trials.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search.study.prospects import Prospect, Prospects

Array = NDArray[np.float64]

_LOOKED_AT = 64
"""Number of points of the Sobol sequence by which, beside the neighbours of the best trials, it is
decided whether there is to be a new trial at all."""
_CANDIDATES = 256
"""Number of points of the Sobol sequence among the candidates."""
_BEST = 3
"""Number of best complete trials whose neighbours are candidates."""
_AROUND_BEST = 32
"""Number of neighbours of each of them, and ..."""
_REACH_OF_BEST = 0.15
"""... their standard deviation in the unit cube."""
_REACHES = (0.12, 0.06)
"""Standard deviation of the neighbours in each round."""
_PROMISING = 8
"""Number of candidates that get neighbours in a round, and ..."""
_AROUND_PROMISING = 16
"""... how many each of them gets."""
_SAME = 0.02
"""Distance in every coordinate below which two places count as the same."""


class Places(Protocol):
    """The unit cube in which values are chosen (see `search.study.cube`)."""

    dimensions: int

    def features(self, places: Array) -> Array:
        """Return the features (N, F) of places (N, D)."""

    def places(self, features: Array) -> Array:
        """Return places (N, D) with these features (N, F)."""


def proposal(prospects: Prospects, number: int, cube: Places, *, startup: int, seed: int) -> Array:
    """Return the place (D,) of the unit cube at which new trial `number` is worth most.

    The first `startup` trials take points of a Sobol sequence, unless there is an earlier study to
    learn from.
    """
    places = sobol(number, cube.dimensions, seed)
    if prospects.process is None or (number < startup and not prospects.earlier):
        return np.asarray(places[0])
    random = np.random.default_rng([seed, number])
    places = np.concatenate([places, _near_the_best(prospects, cube, random)])
    rates = _rates(prospects, cube, places)
    for reach in _REACHES:
        promising = places[np.argsort(-rates, kind="stable")[:_PROMISING]]
        near = _neighbours(promising, _AROUND_PROMISING, reach, random)
        places = np.concatenate([places, near])
        rates = np.concatenate([rates, _rates(prospects, cube, near)])
    return np.asarray(places[int(rates.argmax())])


def prospect_of_new(prospects: Prospects, cube: Places | None, *, seed: int) -> Prospect:
    """Return the prospect of the best new trial, from some of the next one's candidates.

    Without a `cube` all new trials are alike.
    """
    if cube is None:
        return prospects.of_points(np.zeros((1, 0)))[0]
    number = len(prospects.trials)
    random = np.random.default_rng([seed, number])
    some = sobol(number, cube.dimensions, seed)[:_LOOKED_AT]
    places = np.concatenate([some, _near_the_best(prospects, cube, random)])
    found = prospects.of_points(cube.features(places))
    return max(found, key=lambda prospect: prospect.rate)


def sobol(number: int, dimensions: int, seed: int) -> Array:
    """Return the candidates of new trial `number`: a scrambled Sobol sequence from its point on.

    The first ones of successive trials are successive points of one sequence.
    """
    from scipy.stats import qmc  # takes long, and a look at a study does without

    sequence = qmc.Sobol(dimensions, scramble=True, seed=seed)
    if number:
        sequence.fast_forward(number)
    with warnings.catch_warnings():  # a part of the sequence is less balanced than a whole one
        warnings.simplefilter("ignore", UserWarning)
        return np.asarray(sequence.random(_CANDIDATES))


def _near_the_best(prospects: Prospects, cube: Places, random: np.random.Generator) -> Array:
    complete = [t for t in prospects.trials if t.state == "complete" and t.score is not None]
    complete.sort(key=lambda trial: -(trial.score or 0.0))
    best = [trial.point for trial in complete[:_BEST]]
    if not best:
        return np.empty((0, cube.dimensions))
    return _neighbours(cube.places(np.array(best)), _AROUND_BEST, _REACH_OF_BEST, random)


def _neighbours(places: Array, each: int, reach: float, random: np.random.Generator) -> Array:
    near = np.repeat(places, each, axis=0)
    return np.clip(near + reach * random.standard_normal(near.shape), 0.0, 1.0)


def _rates(prospects: Prospects, cube: Places, places: Array) -> Array:
    """Return the rate of each place; -1 where a trial has been: all trials have the same seed, so
    the same values would only give the same training again.
    """
    features = cube.features(places)
    rates = np.array([prospect.rate for prospect in prospects.of_points(features)])
    tried = np.array([trial.point for trial in prospects.trials]).reshape(-1, features.shape[1])
    apart = np.abs(features[:, None] - tried[None]).max(axis=2).min(axis=1, initial=1.0)
    return np.where(apart < _SAME, -1.0, rates)
