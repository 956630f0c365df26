"""Pause and thaw: at every report the next steps go to the trial that is most likely to repay them.

A paused trial is not lost. It has its checkpoint, and when the others turn out worse than it was
expected to end, it continues under its own number as if nothing had happened. So a trial can be
paused early, on little evidence, where a pruner would have to be sure.

The decisions here are pure functions of the prospects of a study's trials.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from search.study.prospects import Prospect, Prospects

Array = NDArray[np.float64]

_LOOKED_AT = 64
"""Number of candidates by which it is decided whether there is to be a new trial at all."""
_CANDIDATES = 256
"""Number of points of the space from which a new trial's values are chosen."""
_NEAR = 64
"""Number of further candidates around the most promising ones."""
_REACH = 0.1
"""Standard deviation of those around them, in the unit cube."""
_SAME = 0.02
"""Distance in every coordinate below which two places count as the same."""
_EXPLORES = 5
"""One new trial in this many takes a point of the Sobol sequence, whatever the prospects say."""
_BETTER = 1.3
"""Factor by which another trial's gain per step must be higher to interrupt the running one."""


class Places(Protocol):
    """The unit cube in which values are chosen (see `search.study.cube`)."""

    dimensions: int

    def features(self, places: Array) -> Array:
        """Return the features (N, F) of places (N, D)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trial that gets the next steps: a paused one by its number, or a new one."""

    number: int | None
    """None for a new trial."""
    prospect: Prospect


def next_choice(
    prospects: Prospects,
    new: Prospect | None,
    *,
    least_chance: float,
    without: int | None = None,
    left: int | None = None,
) -> Choice | None:
    """Return the trial that is to get the next steps, or None if none deserves any.

    Args:
        new: the prospect of a new trial, None if the study has begun all of its trials.
        least_chance: probability to beat the best trial below which a paused one stays paused.
        without: number of a trial that is not considered.
        left: steps that all trials together may still have, None without a limit. When a new trial
            could not be trained to its end any more, those that can be come first, the one with the
            highest expected gain before the others.
    """
    paused = {t.number for t in prospects.trials if t.state == "paused"} - {without}
    choices = [
        Choice(number=number, prospect=prospect)
        for number, prospect in sorted(prospects.of_trials().items())
        if number in paused and prospect.chance >= least_chance
    ]
    if left is not None and left < prospects.steps:
        fitting = [c for c in choices if c.number is not None and prospects.rest(c.number) <= left]
        if fitting:
            return max(fitting, key=lambda choice: choice.prospect.gain)
    if new is not None:
        choices.append(Choice(number=None, prospect=new))
    return max(choices, key=lambda choice: choice.prospect.rate, default=None)


def pauses(
    prospects: Prospects,
    running: int,
    new: Prospect | None,
    *,
    least_chance: float,
    left: int | None = None,
) -> Choice | None:
    """Return the trial to which trial `running` has to give way, or None if it goes on.

    A trial with hardly any chance gives way to itself: it is paused even if no other needs steps.
    When steps run out (`left`, see `next_choice`), a trial that can still be finished gives way
    only to another such one.
    """
    mine = Choice(number=running, prospect=prospects.of_trials()[running])
    other = next_choice(prospects, new, least_chance=least_chance, without=running, left=left)
    if mine.prospect.chance < least_chance:
        return other or mine
    if left is not None and left < prospects.steps and prospects.rest(running) <= left:
        if other is None or other.number is None or prospects.rest(other.number) > left:
            return None
        return other if other.prospect.gain > _BETTER * mine.prospect.gain else None
    if other is not None and other.prospect.rate > _BETTER * mine.prospect.rate:
        return other
    return None


def proposal(prospects: Prospects, number: int, cube: Places, *, startup: int, seed: int) -> Array:
    """Return the place (D,) of the unit cube at which new trial `number` is worth most.

    The first `startup` trials, and one in five later, take points of a Sobol sequence; with an
    earlier study to learn from, only the one in five.
    """
    places = sobol(number, cube.dimensions, seed)
    explores = number % _EXPLORES == _EXPLORES - 1
    if number < startup and not prospects.earlier:
        explores = True
    if prospects.process is None or explores:
        return np.asarray(places[0])
    rates = _rates(prospects, cube, places)
    if rates.max() < 0.0:
        return np.asarray(places[0])
    best = places[np.argsort(-rates, kind="stable")[:4]]
    random = np.random.default_rng([seed, number])
    near = np.repeat(best, _NEAR // len(best), axis=0)
    near = np.clip(near + _REACH * random.standard_normal(near.shape), 0.0, 1.0)
    rates = np.concatenate([rates, _rates(prospects, cube, near)])
    return np.asarray(np.concatenate([places, near])[int(rates.argmax())])


def prospect_of_new(prospects: Prospects, cube: Places | None, *, seed: int) -> Prospect:
    """Return the prospect of the best new trial, from some of the next one's candidates.

    Without a `cube` all new trials are alike.
    """
    places = np.zeros((1, 0))
    if cube is not None:
        places = cube.features(sobol(len(prospects.trials), cube.dimensions, seed)[:_LOOKED_AT])
    return max(prospects.of_points(places), key=lambda prospect: prospect.rate)


def sobol(number: int, dimensions: int, seed: int) -> Array:
    """Return the candidates of new trial `number`: a scrambled Sobol sequence from its point on.

    The first ones of successive trials are successive points of one sequence.
    """
    sequence = qmc.Sobol(dimensions, scramble=True, seed=seed)
    if number:
        sequence.fast_forward(number)
    with warnings.catch_warnings():  # a part of the sequence is less balanced than a whole one
        warnings.simplefilter("ignore", UserWarning)
        return np.asarray(sequence.random(_CANDIDATES))


def _rates(prospects: Prospects, cube: Places, places: Array) -> Array:
    """Return the rate of each place; -1 where a trial has been: all trials have the same seed, so
    the same values would only give the same training again.
    """
    features = cube.features(places)
    rates = np.array([prospect.rate for prospect in prospects.of_points(features)])
    tried = np.array([trial.point for trial in prospects.trials]).reshape(-1, features.shape[1])
    apart = np.abs(features[:, None] - tried[None]).max(axis=2).min(axis=1, initial=1.0)
    return np.where(apart < _SAME, -1.0, rates)
