"""A Gaussian process over a study's space, for values that are known more or less well.

The value of a complete trial is known but for the noise of its seed; that of a trial that was
paused at a third of its steps is a forecast with an error of its own. Optuna's `GPSampler` knows
one noise for all and learns from complete trials alone. Here every observation brings its own
variance, and what seeds add to all of them is found from the data.

Observations may come from several studies. Each study has its own surface, and a part of it, the
`share`, is common to all. The data decide how large it is: if earlier studies predict this one
badly, the share becomes small, and they count for little.

The kernel is Matern 5/2 with a length for each dimension, on the unit cube. Lengths, signal, noise
and share are the most probable ones under weak priors (Rasmussen and Williams, Gaussian Processes
for Machine Learning, 2006, chapter 5; sections 5.4.2 for leaving one out).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize

Array = NDArray[np.float64]

_MOST_FITTED = 120
"""Most observations from which lengths, signal, noise and share are found: the time grows with the
third power."""
_JITTER = 1e-6
_FEATURES = 512
"""Number of waves of which a drawn function consists."""
_LOW, _HIGH = -6.0, 4.0
"""Bounds of the logarithms of all hyperparameters."""


@dataclass(frozen=True)
class Observations:
    """Values of N points of the space.

    Args:
        points: (N, D), in the unit cube.
        values: (N,): in common units, less the prior's mean.
        variances: (N,): each value's own error, without the noise of seeds.
        studies: (N,): number of the study of each; 0 is this one.
    """

    points: Array
    values: Array
    variances: Array
    studies: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    def chosen(self, where: NDArray[np.int64]) -> Observations:
        """Return some of the observations."""
        return Observations(
            self.points[where], self.values[where], self.variances[where], self.studies[where]
        )


class Hyperparameters(NamedTuple):
    """The assumptions of a Gaussian process."""

    lengths: Array
    """(D,): distance along each dimension over which values differ."""
    signal: float
    """Variance between points that are far from each other."""
    noise: float
    """Variance between trainings of one point."""
    share: float
    """Part of the signal that all studies have in common."""


class Predictions(NamedTuple):
    """Gaussian distributions at N points, without the noise of seeds."""

    means: Array
    variances: Array


@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process after some observations; `fitted` makes one."""

    known: Observations
    assumed: Hyperparameters
    _factor: Array
    _weights: Array

    @classmethod
    def fitted(cls, known: Observations) -> GaussianProcess:
        """Return the process with the most probable hyperparameters."""
        return cls.of(known, most_probable(known))

    @classmethod
    def of(cls, known: Observations, assumed: Hyperparameters) -> GaussianProcess:
        """Return the process with given hyperparameters."""
        covariance = _covariance(known, known, assumed)
        covariance[np.diag_indices_from(covariance)] += known.variances + assumed.noise + _JITTER
        factor = np.asarray(np.linalg.cholesky(covariance), np.float64)
        return cls(known, assumed, factor, cho_solve((factor, True), known.values))

    def predict(self, points: Array) -> Predictions:
        """Return the distributions at `points` (M, D) in this study."""
        across = _covariance(_in_this_study(points), self.known, self.assumed)
        solved = solve_triangular(self._factor, across.T, lower=True, check_finite=False)
        variances = self.assumed.signal - (solved**2).sum(axis=0)
        return Predictions(across @ self._weights, np.maximum(variances, 1e-9))

    def drawn(self, random: np.random.Generator) -> Callable[[Array], Array]:
        """Return one function drawn from this process, which maps points (M, D) to values (M,).

        It is a draw from the prior by random Fourier features, moved so that it fits the
        observations (Wilson 2020, "Efficiently sampling functions from Gaussian process
        posteriors").
        """
        lengths, signal = self.assumed.lengths, self.assumed.signal
        shape = (_FEATURES, len(lengths))
        # The spectral density of Matern 5/2 is Student's t with five degrees of freedom.
        heavy = np.sqrt(random.chisquare(5.0, (_FEATURES, 1)) / 5.0)
        frequencies = random.standard_normal(shape) / heavy / lengths
        phases = random.uniform(0.0, 2.0 * np.pi, _FEATURES)
        heights = np.sqrt(2.0 * signal / _FEATURES) * random.standard_normal(_FEATURES)

        def before(points: Array) -> Array:
            waves: Array = np.cos(points @ frequencies.T + phases) @ heights
            return waves

        error = np.sqrt(self.known.variances + self.assumed.noise + _JITTER)
        missing = self.known.values - before(self.known.points)
        missing = missing - error * random.standard_normal(len(error))
        weights = cho_solve((self._factor, True), missing)

        def value(points: Array) -> Array:
            across = _covariance(_in_this_study(points), self.known, self.assumed)
            return np.asarray(before(points) + across @ weights)

        return value

    def left_out(self) -> Predictions:
        """Return the distribution of each observed point's value, as known from all others.

        The variances include the noise of seeds, but not the error of the value that was left out.
        """
        roots, _ = dtrtri(self._factor, lower=1)  # a third of the time of solving for a unit matrix
        precision = (np.asarray(roots) ** 2).sum(axis=0)
        means = self.known.values - self._weights / precision
        variances = 1.0 / precision - self.known.variances - _JITTER
        return Predictions(means, np.maximum(variances, self.assumed.noise))

    def believing(self, points: Array) -> GaussianProcess:
        """Return the process as if each of `points` had been observed at its predicted mean.

        Trials that other workers train now: their values are unknown, and searching at the same
        place again is a waste (Ginsbourger 2010, "kriging believer").
        """
        if not len(points):
            return self
        means = self.predict(points).means
        here = _in_this_study(points)
        below = solve_triangular(
            self._factor, _covariance(self.known, here, self.assumed), lower=True
        ).T
        corner = _covariance(here, here, self.assumed) - below @ below.T
        corner[np.diag_indices_from(corner)] += self.assumed.noise + _JITTER
        beside = np.zeros((len(self.known), len(points)))
        factor = np.block([[self._factor, beside], [below, np.linalg.cholesky(corner)]])
        more = Observations(
            np.concatenate([self.known.points, points]),
            np.concatenate([self.known.values, means]),
            np.concatenate([self.known.variances, np.zeros(len(points))]),
            np.concatenate([self.known.studies, np.zeros(len(points), np.int64)]),
        )
        weights = cho_solve((factor, True), more.values)
        return replace(self, known=more, _factor=factor, _weights=weights)


def _in_this_study(points: Array) -> Observations:
    nothing = np.zeros(len(points))
    return Observations(points, nothing, nothing, np.zeros(len(points), np.int64))


def _covariance(one: Observations, other: Observations, assumed: Hyperparameters) -> Array:
    common = np.where(one.studies[:, None] == other.studies[None], 1.0, assumed.share)
    squares = _squares(one.points / assumed.lengths, other.points / assumed.lengths)
    return assumed.signal * common * _matern(squares)


def _squares(one: Array, other: Array) -> Array:
    products = one @ other.T
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2.0 * products
    return np.asarray(np.maximum(squares, 0.0))


def _matern(squares: Array) -> Array:
    distance = np.sqrt(5.0 * squares)
    matern: Array = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    return matern


# -- The most probable hyperparameters ---------------------------------------------------------


def _thinned(known: Observations) -> Observations:
    """Return few enough observations, first of all those of this study."""
    if len(known) <= _MOST_FITTED:
        return known
    own, others = np.flatnonzero(known.studies == 0), np.flatnonzero(known.studies != 0)
    room = max(_MOST_FITTED - len(own), _MOST_FITTED // 3)
    others = _evenly(others, room)
    return known.chosen(np.concatenate([_evenly(own, _MOST_FITTED - len(others)), others]))


def _evenly(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(numbers) <= count:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, count).astype(np.int64)]


def most_probable(known: Observations) -> Hyperparameters:
    """Return the most probable hyperparameters; many observations are evenly thinned out first."""
    known = _thinned(known)
    dimensions = known.points.shape[1]
    several = len(np.unique(known.studies)) > 1
    centre = np.array(
        [*np.full(dimensions, np.log(0.5 * np.sqrt(dimensions))), np.log(0.6), np.log(0.1), 0.0]
    )
    width = np.array([*np.full(dimensions, 1.0), 0.7, 1.0, 1.5])
    free = np.ones(len(centre), bool)
    free[-1] = several
    apart = (known.points[:, None, :] - known.points[None, :, :]) ** 2
    same = known.studies[:, None] == known.studies[None]

    def loss(chosen: Array) -> tuple[float, Array]:
        logs = centre.copy()
        logs[free] = chosen
        value, slope = _negative_log_probability(logs, known, apart, same)
        distance = (logs - centre) / width
        return value + 0.5 * float(distance @ distance), (slope + distance / width)[free]

    bounds = [(_LOW, _HIGH)] * int(free.sum())
    found = minimize(
        loss, centre[free], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30}
    )
    logs = centre.copy()
    logs[free] = found.x
    return _assumed(logs, several)


def _assumed(logs: Array, several: bool = True) -> Hyperparameters:
    share = 1.0 / (1.0 + np.exp(-logs[-1])) if several else 0.0
    lengths, (signal, noise) = np.exp(logs[:-3]), np.exp(logs[-3:-1])
    return Hyperparameters(lengths, float(signal), float(noise), float(share))


def _negative_log_probability(
    logs: Array, known: Observations, apart: Array, same: NDArray[np.bool_]
) -> tuple[float, Array]:
    """Return the negative log likelihood and its slope by the logarithms of the hyperparameters."""
    assumed = _assumed(logs)
    distance = np.sqrt(5.0 * np.maximum(apart @ assumed.lengths**-2.0, 0.0))
    decay = np.exp(-distance)
    common = np.where(same, 1.0, assumed.share)
    base = common * (1.0 + distance + distance**2 / 3.0) * decay
    covariance = assumed.signal * base
    covariance[np.diag_indices_from(covariance)] += known.variances + assumed.noise + _JITTER
    factor = cho_factor(covariance, lower=True)
    weights = cho_solve(factor, known.values)
    inverse = cho_solve(factor, np.eye(len(known)))
    change = 0.5 * (inverse - np.outer(weights, weights))
    steep = change * assumed.signal * common * (5.0 / 3.0) * (1.0 + distance) * decay
    slope = [
        *(
            float((steep * apart[..., d]).sum()) / length**2
            for d, length in enumerate(assumed.lengths)
        ),
        float((change * assumed.signal * base).sum()),
        assumed.noise * float(np.trace(change)),
        assumed.share
        * (1.0 - assumed.share)
        * float((change * assumed.signal * np.where(same, 0.0, base / assumed.share)).sum()),
    ]
    value = 0.5 * float(known.values @ weights) + float(np.log(np.diag(factor[0])).sum())
    return value, np.array(slope)
