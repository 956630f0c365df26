"""Forecast how a trial ends from its first reports, by the curves of many recorded trainings.

Early ranks mislead: a young generator that smooths scores well for a while, and a high learning
rate begins badly and ends well. But they mislead in the same way on other data. So a `CurvePrior`
holds the typical curve, and how trainings deviate from it: the mean and the covariance of their
deviations at regular fractions of a training and in the end. They come from recorded trainings
(`benchmarks/search_pool.py`). A forecast is the Gaussian conditional distribution of the end, given
the reports so far: where early scores run against late ones, the covariance is negative, and a low
start raises the forecast.

The curve of a trial is its score as of each report: where the best report counts, as by default, it
never falls, and says more about the end than the last report alone.

Scores of different data differ in level and spread. A `Scale` brings them to common units: 0 is
what is typical for a trial of the study at that place, 1 the usual deviation upwards there. Far
below that, units are logarithmic, so that a trial that failed altogether counts as bad, but not as
ten bad ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.study.judging import JudgedBy

Array = NDArray[np.float64]

_KNEE = -1.0
"""Units below which the scale is logarithmic."""
_PRIOR_TRIALS = 6.0
"""Number of trials that the spread of the recorded trainings counts as."""
_PLAIN_CURVES = 10.0
"""Number of recorded curves that the plain covariance counts as; a few curves alone would seem to
determine each other exactly (Schaefer and Strimmer 2005, "A shrinkage approach")."""
_PRIOR_CURVES = 1.0
"""Number of complete trials that the typical rise of the recorded trainings counts as."""
_ROUNDS = 5
"""Rounds in which the spread and the level of a study are found, each from the other."""
_LEAST_SPREAD = 0.2
"""Smallest spread of a study, relative to that of the recorded trainings."""
_ARRAYS = ("fractions", "typical", "width", "mean", "covariance")
_SHIPPED = Path(__file__).with_name("curve_prior.json")


class Forecast(NamedTuple):
    """A Gaussian distribution of the score in the end, in units of a `Scale`."""

    mean: float
    variance: float


@dataclass(frozen=True)
class CurvePrior:
    """The typical curve of recorded trainings, and their deviations from it, in common units.

    Args:
        fractions: (T,), increasing, in (0, 1]: the places of the reports in a training.
        typical: (T + 1,): the median score at each fraction and, last, in the end, above that in
            the end; in spreads, by which data sets resemble each other more than by decibels.
        width: (T + 1,): the usual deviation at each fraction and, last, in the end, which is 1; in
            spreads.
        mean: (T + 1,): mean deviation from it, in the units of a `Scale`.
        covariance: (T + 1, T + 1): of the same, with the noise of single reports.
        spread: the usual distance of a trial's end from the median end, in score.
    """

    fractions: Array
    typical: Array
    width: Array
    mean: Array
    covariance: Array
    spread: float

    @classmethod
    def from_curves(cls, fractions: ArrayLike, pools: Sequence[Array]) -> CurvePrior:
        """Return the prior of recorded curves.

        Args:
            fractions: (T,), increasing, in (0, 1].
            pools: for each data set the scores (N, T + 1) of its trainings, in the last column that
                of the end. Rows with missing values are left out.
        """
        whole = [pool[np.isfinite(pool).all(axis=1)] for pool in pools]
        scales = [Scale(float(np.median(pool[:, -1])), _spread_of(pool[:, -1])) for pool in whole]
        pairs = list(zip(whole, scales, strict=True))
        medians = [(np.median(pool, axis=0) - scale.level) / scale.spread for pool, scale in pairs]
        widths = [[_spread_of(column) / scale.spread for column in pool.T] for pool, scale in pairs]
        typical, width = np.mean(medians, axis=0), np.exp(np.mean(np.log(widths), axis=0))
        units = [scale.units(pool, typical, width) for pool, scale in pairs]
        means = [deviations.mean(axis=0) for deviations in units]
        covariance = np.mean([np.cov(deviations, rowvar=False) for deviations in units], axis=0)
        if len(means) > 1:
            # How much typical curves differ between data sets is part of the uncertainty, too.
            covariance = covariance + np.cov(means, rowvar=False)
        plain = _plain_covariance(np.asarray(fractions, float), np.sqrt(np.diag(covariance)))
        share = _PLAIN_CURVES / (_PLAIN_CURVES + sum(map(len, whole)))
        covariance = share * plain + (1.0 - share) * covariance
        spread = float(np.exp(np.mean([np.log(scale.spread) for scale in scales])))
        mean = np.mean(means, axis=0)
        return cls(np.asarray(fractions, float), typical, width, mean, covariance, spread)

    @classmethod
    @cache
    def shipped(cls, judge_by: JudgedBy = "best") -> CurvePrior:
        """Return the prior of our recorded trainings."""
        return cls.from_dict(json.loads(_SHIPPED.read_text(encoding="utf-8"))[judge_by])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CurvePrior:
        """Return the prior that `to_dict` made plain."""
        arrays = {key: np.asarray(values[key], float) for key in _ARRAYS}
        return cls(**arrays, spread=float(values["spread"]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to four digits."""
        content = {key: getattr(self, key).round(4).tolist() for key in _ARRAYS}
        return content | {"spread": round(self.spread, 4)}

    def adapted(
        self, curves: Sequence[tuple[Mapping[float, float], float]], spread: float
    ) -> CurvePrior:
        """Return the prior for a study whose complete trials have these curves.

        How far scores rise from a fraction to the end differs between data sets, for all trials
        alike. So the typical curve moves towards that of the study's own complete trials.

        Args:
            curves: for each complete trial its scores by fraction of a training, and its end.
            spread: the study's own (see `Scale`).
        """
        if not curves:
            return self
        rises = []
        for reports, end in curves:
            places = sorted(reports)
            inside = (self.fractions >= places[0]) & (self.fractions <= places[-1])
            own = np.interp(self.fractions, places, [reports[at] for at in places]) - end
            rises.append(np.where(inside, own / spread - self.typical[:-1], 0.0))
        weight = len(rises) / (len(rises) + _PRIOR_CURVES)
        moved = self.typical + np.append(weight * np.median(rises, axis=0), 0.0)
        return replace(self, typical=moved)

    @property
    def end(self) -> Forecast:
        """The forecast without any report."""
        return Forecast(float(self.mean[-1]), float(self.covariance[-1, -1]))

    def forecast(self, reports: Mapping[float, float]) -> Forecast:
        """Return the distribution of the end after `reports`, in units by fraction of a training.

        Fractions between those of the recorded trainings are interpolated.
        """
        if not reports:
            return self.end
        places, values = (np.asarray(list(x), float) for x in (reports.keys(), reports.values()))
        rows = self._between(places)
        seen = rows @ self.covariance[:-1, :-1] @ rows.T
        # Between two reports lies noise that interpolation averages away.
        seen[np.diag_indices_from(seen)] = rows @ np.diag(self.covariance)[:-1] + 1e-6
        gain = np.linalg.solve(seen, rows @ self.covariance[:-1, -1])
        mean = self.mean[-1] + gain @ (values - rows @ self.mean[:-1])
        variance = self.covariance[-1, -1] - gain @ rows @ self.covariance[:-1, -1]
        return Forecast(float(mean), max(float(variance), 1e-4))

    def usual_at(self, places: ArrayLike) -> tuple[Array, Array]:
        """Return the typical score (N,) and the usual deviation (N,) at fractions (N,).

        Both are in spreads, the score above the median end.
        """
        rows = self._between(np.atleast_1d(np.asarray(places, float)))
        return rows @ self.typical[:-1], rows @ self.width[:-1]

    def _between(self, places: Array) -> Array:
        """Return the weights (len(places), T) of a linear interpolation between the fractions."""
        last = len(self.fractions) - 1
        above = np.clip(np.searchsorted(self.fractions, places), 1, last)
        low, high = self.fractions[above - 1], self.fractions[above]
        share = np.clip((places - low) / (high - low), 0.0, 1.0)
        rows = np.zeros((len(places), last + 1))
        each = np.arange(len(places))
        rows[each, above - 1], rows[each, above] = 1.0 - share, share
        return rows


@dataclass(frozen=True)
class Scale:
    """The units of a study's scores: `level` is 0, and `level + spread` is 1."""

    level: float
    spread: float

    @classmethod
    def of_study(cls, prior: CurvePrior, latest: Sequence[tuple[float, float]]) -> Scale:
        """Return the scale of a study, from the last report (fraction, score) of each trial.

        The level is the median of the levels that each trial suggests alone: its score, less what
        is typical at its fraction. The spread is that of the recorded trainings until the study's
        own trials outweigh it.
        """
        if not latest:
            return cls(0.0, prior.spread)
        places, scores = np.array(latest, float).T
        typical, width = prior.usual_at(places)
        weight = len(latest) / (len(latest) + _PRIOR_TRIALS)
        spread, least, most = prior.spread, _LEAST_SPREAD * prior.spread, 5.0 * prior.spread
        for _ in range(_ROUNDS):
            levels = scores - spread * typical
            level = float(np.median(levels))
            own = 1.4826 * float(np.median(np.abs(levels - level) / width))
            logs = np.log([prior.spread, np.clip(own, least, most)])
            spread = float(np.exp(logs @ [1.0 - weight, weight]))
        return cls(float(np.median(scores - spread * typical)), spread)

    def units(self, scores: ArrayLike, typical: ArrayLike = 0.0, width: ArrayLike = 1.0) -> Array:
        """Return the deviations of scores from what is typical there, in units.

        `typical` and `width`: the typical scores above the level, and the usual deviations from
        them, both in spreads; by default those in the end.
        """
        apart = (np.asarray(scores, float) - self.level) / self.spread - np.asarray(typical, float)
        plain = apart / np.asarray(width, float)
        below = _KNEE + np.log(_KNEE / np.minimum(plain, _KNEE))
        return np.asarray(np.where(plain < _KNEE, below, plain))

    def scores(self, units: ArrayLike, typical: ArrayLike = 0.0, width: ArrayLike = 1.0) -> Array:
        """Return the scores that have these units, the reverse of `units`."""
        units = np.asarray(units, float)
        below = _KNEE * np.exp(_KNEE - np.minimum(units, _KNEE))
        apart = np.asarray(width, float) * np.where(units < _KNEE, below, units)
        return np.asarray(self.level + self.spread * (np.asarray(typical, float) + apart))


def _plain_covariance(fractions: Array, deviations: Array) -> Array:
    """Return a covariance (T + 1, T + 1) with given deviations and no surprises.

    Scores at two places resemble each other the more, the smaller the ratio of their fractions.
    """
    places = np.log([*fractions, fractions[-1]])
    correlation = np.exp(-np.abs(places[:, None] - places[None]))
    return np.asarray(np.outer(deviations, deviations) * correlation)


def _spread_of(ends: Array) -> float:
    """Return the spread of the better half: the worse one holds trainings that failed."""
    low, high = np.quantile(ends, [0.5, 0.84])
    return max(float(high - low), 1e-3)
