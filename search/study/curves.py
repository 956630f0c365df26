"""Forecast how a trial ends from its first reports, by the curves of many recorded trainings.

Early ranks mislead: a young generator that smooths scores well for a while, and a high learning
rate begins badly and ends well. But they mislead in the same way on other data. So a `CurvePrior`
holds the typical curve, and how trainings deviate from it: the mean and the covariance of their
deviations at regular fractions of a training and in the end. They come from recorded trainings
(`benchmarks/search_pool.py`). A forecast is the Gaussian conditional distribution of the end, given
the reports so far: where early scores run against late ones, the covariance is negative, and a low
start raises the forecast.

Where the best report counts, as by default, reports alone are not enough: a trial that has fallen
since keeps its best score, and one that was lucky once may have nothing else. So a curve consists
of the reports and of the trial's score as of each of them, and the last such score is given, too.

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
_ONE_DATA_SET = 0.3
"""Share of a rise by which other data sets differ if only one has been recorded."""
_LEAST_DOUBT = 0.05
"""Smallest doubt about a typical score, in spreads."""
_ROUNDS = 5
"""Rounds in which the spread and the level of a study are found, each from the other."""
_MOST_COMPLETE = 120
"""Most complete trials by which the typical curve moves; more are evenly thinned out."""
_MOST_MOVES = 12
"""Most rounds in which the typical curve is found, from the scale and the scale from it; 3 or 4 but
for a study that is quite unlike all others."""
_LEAST_SPREAD = 0.2
"""Smallest spread of a study, relative to that of the recorded trainings."""
_ARRAYS = ("fractions", "typical", "doubt", "width", "mean", "covariance")
_SHIPPED = Path(__file__).with_name("curve_prior.json")


class Forecast(NamedTuple):
    """A Gaussian distribution of the score in the end, in units of a `Scale`."""

    mean: float
    variance: float


class Curve(NamedTuple):
    """The reports of a training so far, by increasing fraction of it."""

    reports: Mapping[float, float]
    scores: Mapping[float, float]
    """The trial's score as of each report (see `search.study.judging`)."""


@dataclass(frozen=True)
class CurvePrior:
    """The typical curve of recorded trainings, and their deviations from it, in common units.

    Args:
        fractions: (T,), increasing, in (0, 1]: the places of the reports in a training.
        typical: (2 T + 1,): the median of the reports at each fraction, of the scores as of each,
            and of the end, all above the end's; in spreads, by which data sets resemble each other
            more than by decibels.
        doubt: (2 T + 1,): how much the same differs between data sets, in spreads; 0 for the end.
        width: (2 T + 1,): the usual deviation of single trainings from it, in spreads; 1 in the
            end.
        mean: (2 T + 1,): mean deviation of the same, in the units of a `Scale`.
        covariance: (2 T + 1, 2 T + 1): of the same, with the noise of single reports.
        spread: the usual distance of a trial's end from the median end, in score.
    """

    fractions: Array
    typical: Array
    doubt: Array
    width: Array
    mean: Array
    covariance: Array
    spread: float

    @classmethod
    def from_curves(cls, fractions: ArrayLike, pools: Sequence[Array]) -> CurvePrior:
        """Return the prior of recorded curves.

        Args:
            fractions: (T,), increasing, in (0, 1].
            pools: for each data set the curves (N, 2 T + 1) of its trainings: the reports, the
                scores as of each, and the end. Rows with missing values are left out.
        """
        whole = [pool[np.isfinite(pool).all(axis=1)] for pool in pools]
        scales = [Scale(float(np.median(pool[:, -1])), _spread_of(pool[:, -1])) for pool in whole]
        pairs = list(zip(whole, scales, strict=True))
        medians = [(np.median(pool, axis=0) - scale.level) / scale.spread for pool, scale in pairs]
        widths = [[_spread_of(column) / scale.spread for column in pool.T] for pool, scale in pairs]
        typical, width = np.mean(medians, axis=0), np.exp(np.mean(np.log(widths), axis=0))
        doubt = _doubt(np.array(medians))
        units = [scale.units(pool, typical, width) for pool, scale in pairs]
        means = [deviations.mean(axis=0) for deviations in units]
        covariance = np.mean([np.cov(deviations, rowvar=False) for deviations in units], axis=0)
        if len(means) > 1:
            # How much typical curves differ between data sets is part of the uncertainty, too.
            covariance = covariance + np.cov(means, rowvar=False)
        places = np.tile(np.asarray(fractions, float), 2)
        plain = _plain_covariance(places, np.sqrt(np.diag(covariance)))
        share = _PLAIN_CURVES / (_PLAIN_CURVES + sum(map(len, whole)))
        covariance = share * plain + (1.0 - share) * covariance
        spread = float(np.exp(np.mean([np.log(scale.spread) for scale in scales])))
        mean = np.mean(means, axis=0)
        return cls(np.asarray(fractions, float), typical, doubt, width, mean, covariance, spread)

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
        self, complete: Sequence[Curve], latest: Sequence[tuple[float, float]]
    ) -> CurvePrior:
        """Return the prior for a study that has some complete trials.

        How far scores rise from a fraction to the end differs between data sets, for all trials
        alike, and with the length of trainings. So the typical curve moves towards that of the
        study's own complete trials. A bad trial rises otherwise than a good one; what counts is how
        a complete trial's reports deviate from those that are expected of a trial with its end.

        Args:
            complete: the curves of the complete trials.
            latest: (fraction, score) as of the last report of all trials, see `Scale.of_study`.
        """
        if not complete:
            return self
        count = len(self.fractions)
        complete = complete[:: -(-len(complete) // _MOST_COMPLETE)]
        places = [list(curve.reports) for curve in complete]
        inside = np.array([(self.fractions >= p[0]) & (self.fractions <= p[-1]) for p in places])
        values = np.array(
            [
                np.concatenate([np.interp(self.fractions, at, list(part.values())) for part in c])
                for c, at in zip(complete, places, strict=True)
            ]
        )
        ends = np.array([list(curve.scores.values())[-1] for curve in complete])
        known = np.tile(inside, 2)
        numbers = np.maximum(known.sum(axis=0), 1)
        slope = self.covariance[:-1, -1] / self.covariance[-1, -1]
        left = np.diag(self.covariance)[:-1] - slope * self.covariance[:-1, -1]
        width, doubt = self.width[:-1], self.doubt[:-1]
        noise = np.sqrt(np.maximum(left, 1e-6)) * width
        moved, unsure = np.zeros(2 * count), doubt
        for _ in range(_MOST_MOVES):
            typical = self.typical[:-1] + moved
            scale = Scale.of_study(replace(self, typical=np.append(typical, 0.0)), latest)
            expected = self.mean[:-1] + slope * (scale.units(ends)[:, None] - self.mean[-1])
            apart = np.where(known, scale.units(values, typical, width) - expected, np.nan)
            rise = moved + width * _medians(apart)
            # As with Cauchy's distribution: what the noise of single trials can't explain is
            # believed at once.
            trust = (doubt / noise) ** 2 * (1.0 + (rise / noise) ** 2)
            weight = np.where(known.any(axis=0), 1.0 / (1.0 + 1.0 / (numbers * trust)), 0.0)
            before, moved = moved, weight * rise
            unsure = np.where(known.any(axis=0), noise * np.sqrt(weight / numbers), doubt)
            if np.abs(moved - before).max() < 0.05:
                break
        return replace(
            self,
            typical=self.typical + np.append(moved, 0.0),
            doubt=np.append(unsure, 0.0),
        )

    @property
    def end(self) -> Forecast:
        """The forecast without any report."""
        return Forecast(float(self.mean[-1]), float(self.covariance[-1, -1]))

    def forecast(self, curve: Curve) -> Forecast:
        """Return the distribution of the end after the reports of a curve in units (see `units`).

        Fractions between those of the recorded trainings are interpolated.
        """
        if not curve.reports:
            return self.end
        values = np.array([*curve.reports.values(), list(curve.scores.values())[-1]])
        between = self._between(np.array(list(curve.reports)))
        rows = np.zeros((len(values), 2 * len(self.fractions)))
        rows[:-1, : len(self.fractions)], rows[-1, len(self.fractions) :] = between, between[-1]
        seen = rows @ self.covariance[:-1, :-1] @ rows.T
        # Between two reports lies noise that interpolation averages away.
        seen[np.diag_indices_from(seen)] = rows @ np.diag(self.covariance)[:-1] + 1e-6
        # If the typical curve is too high or too low, then everywhere.
        wrong = rows @ (self.doubt / self.width)[:-1]
        seen += np.outer(wrong, wrong)
        gain = np.linalg.solve(seen, rows @ self.covariance[:-1, -1])
        mean = self.mean[-1] + gain @ (values - rows @ self.mean[:-1])
        variance = self.covariance[-1, -1] - gain @ rows @ self.covariance[:-1, -1]
        return Forecast(float(mean), max(float(variance), 1e-4))

    def units(self, curve: Curve, scale: Scale) -> Curve:
        """Return a curve in units of a scale."""
        places = list(curve.reports)
        between = self._between(np.array(places))
        usual = zip(self._parts(self.typical), self._parts(self.width), strict=True)
        parts = []
        for values, (typical, width) in zip(curve, usual, strict=True):
            units = scale.units(list(values.values()), between @ typical, between @ width)
            parts.append(dict(zip(places, units.tolist(), strict=True)))
        return Curve(*parts)

    def curve(self, units: Array, places: ArrayLike, scale: Scale) -> Curve:
        """Return the curve at fractions (N,) whose units at the own ones are `units` (2 T,)."""
        places = np.atleast_1d(np.asarray(places, float))
        between = self._between(places)
        parts = []
        for part in zip(*(self._parts(x) for x in (units, self.typical, self.width)), strict=True):
            scores = scale.scores(*(between @ values for values in part))
            parts.append(dict(zip(places.tolist(), scores.tolist(), strict=True)))
        return Curve(*parts)

    def usual_scores(self, places: ArrayLike) -> tuple[Array, Array]:
        """Return the typical score (N,) as of fractions (N,), and the usual deviation (N,).

        Both are in spreads, the score above the median end.
        """
        rows = self._between(np.atleast_1d(np.asarray(places, float)))
        return rows @ self._parts(self.typical)[1], rows @ self._parts(self.width)[1]

    def _parts(self, values: Array) -> tuple[Array, Array]:
        """Return what belongs to the reports, and to the scores as of each."""
        count = len(self.fractions)
        return values[:count], values[count : 2 * count]

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
        """Return the scale of a study, from (fraction, score) as of the last report of each trial.

        The level is the median of the levels that each trial suggests alone: its score, less what
        is typical at its fraction. The spread is that of the recorded trainings until the study's
        own trials outweigh it.
        """
        if not latest:
            return cls(0.0, prior.spread)
        places, scores = np.array(latest, float).T
        typical, width = prior.usual_scores(places)
        weight = len(latest) / (len(latest) + _PRIOR_TRIALS)
        spread, least, most = prior.spread, _LEAST_SPREAD * prior.spread, 5.0 * prior.spread
        for _ in range(_ROUNDS):
            levels = scores - spread * typical
            level = float(np.median(levels))
            own = float(np.quantile((levels - level) / width, 0.84))
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


def _doubt(medians: Array) -> Array:
    """Return how much typical curves (N, 2 T + 1) differ between data sets.

    Few data sets say little about a single place, so it is one share of the rise for all places.
    """
    rise = np.abs(medians.mean(axis=0)[:-1])
    share = _ONE_DATA_SET
    if len(medians) > 1:
        deviations = medians[:, :-1].std(axis=0, ddof=1)
        large = rise > 0.1 * rise.max()
        share = float(np.sqrt(np.mean((deviations[large] / rise[large]) ** 2)))
    return np.append(np.maximum(share * rise, _LEAST_DOUBT), 0.0)


def _medians(values: Array) -> Array:
    """Return the medians of columns, those without any value 0."""
    empty = np.isnan(values).all(axis=0)
    return np.asarray(np.nanmedian(np.where(empty, 0.0, values), axis=0))


def _plain_covariance(fractions: Array, deviations: Array) -> Array:
    """Return a covariance (N + 1, N + 1) with given deviations and no surprises.

    Scores at two places resemble each other the more, the smaller the ratio of their fractions.
    """
    places = np.log([*fractions, fractions[-1]])
    correlation = np.exp(-np.abs(places[:, None] - places[None]))
    return np.asarray(np.outer(deviations, deviations) * correlation)


def _spread_of(ends: Array) -> float:
    """Return the spread of the better half: the worse one holds trainings that failed."""
    low, high = np.quantile(ends, [0.5, 0.84])
    return max(float(high - low), 1e-3)
