"""The prospects of a study's trials: how they would end, and what that is worth for its steps.

```
reports of a trial --CurvePrior--> how it ends, from its curve alone
points and ends of all trials --GaussianProcess--> how a trial ends, from its neighbours
both --> prospect of a trial: mean and deviation of its end
     --> chance to beat the best complete trial, expected gain over it
     --> gain per step: the steps go where it is highest
```
A new trial is a prospect, too, from its neighbours alone. Everything is a pure function of what the
storage holds, so any worker comes to the same decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfc

from search.study.curves import Curve, CurvePrior, Forecast, Scale
from search.study.gaussian_process import (
    GaussianProcess,
    Hyperparameters,
    Observations,
    most_probable,
)

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
_WEIGHTS /= _WEIGHTS.sum()
"""Places and weights with which the mean of a function of a standard Gaussian variable is taken."""
_LOOKS = (0.1, 0.25, 0.5, 1.0)
"""Shares of a trial's further steps after which it may be looked at again."""
_HALVINGS = 12
"""Number of times that the interval of a rate is halved."""
_MOST_WITH_EARLIER = 300
"""Trials of a study from which on other studies have nothing to add, and cost time."""
_GATE_VARIANCE = 0.3
"""Error of the statement that a trial was usable or not, which are +1 and -1."""


@dataclass(frozen=True, kw_only=True)
class KnownTrial:
    """One trial as the storage knows it.

    `complete`: trained to the end, with a score. `paused` and `running`: may get more steps.
    `gated`: ended because its generator was unusable. `ended`: pruned or failed otherwise.
    """

    number: int
    state: Literal["complete", "paused", "running", "gated", "ended"]
    point: tuple[float, ...]
    """The trial's values in the unit cube."""
    reports: Mapping[int, float] = field(default_factory=dict)
    """Values by increasing iteration, without those of unusable generators."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """The trial's score as of each report (see `search.study.judging.scores_so_far`)."""
    score: float | None = None
    """Score of a complete trial."""


@dataclass(frozen=True, kw_only=True)
class EarlierStudy:
    """Finished trials of another study, at their points in this study's unit cube."""

    points: Array
    """(N, D)"""
    values: Array
    """(N,): ends in units of that study's own scale."""
    variances: Array
    """(N,): the error of each."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to five digits."""
        arrays = {"points": self.points, "values": self.values, "variances": self.variances}
        return {key: array.round(5).tolist() for key, array in arrays.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EarlierStudy:
        """Return what `to_dict` made plain."""
        return cls(**{key: np.asarray(value, float) for key, value in values.items()})


class Prospect(NamedTuple):
    """The end that is expected of a trial."""

    mean: float
    """Expected score."""
    deviation: float
    chance: float
    """Probability that it passes the gates and beats the best complete trial."""
    gain: float
    """Expected gain in score over the best complete trial."""
    rate: float
    """Expected gain in score for each further step, by which steps are given away."""


@dataclass(frozen=True)
class Prospects:
    """The prospects of all trials of a study.

    Args:
        trials: the study's trials.
        steps: steps of a whole trial.
        recorded: the usual course of learning curves in recorded trainings.
        first: iteration at which a new trial is first judged.
        earlier: other studies, which count as far as they predict this one.
        pausing: True if trials are paused and continued, so that one is trained only as far as it
            deserves. Otherwise a trial is worth its gain for the steps to its end: if a look at it
            counted as cheap, new trials would go where little is known rather than where much is
            expected.
    """

    trials: Sequence[KnownTrial]
    steps: int
    recorded: CurvePrior
    first: int
    earlier: Sequence[EarlierStudy] = ()
    pausing: bool = False

    @cached_property
    def prior(self) -> CurvePrior:
        """The usual course of learning curves in this study."""
        complete = [t for t in self.trials if t.state == "complete" and t.score is not None]
        curves = [self._curve(trial) for trial in complete if trial.reports]
        return self.recorded.adapted(curves, self._latest)

    @cached_property
    def scale(self) -> Scale:
        """The units of this study's scores."""
        return Scale.of_study(self.prior, self._latest)

    @cached_property
    def _latest(self) -> list[tuple[float, float]]:
        """(fraction, score) as of the last report of each trial."""
        latest = []
        for trial in self.trials:
            if trial.state == "complete" and trial.score is not None:
                latest.append((1.0, trial.score))
            elif trial.reports:
                at, score = list(self._curve(trial).scores.items())[-1]
                latest.append((at, score))
        return latest

    @cached_property
    def forecasts(self) -> dict[int, Forecast]:
        """The ends of trials from their curves alone, by number; variance 0 for complete ones."""
        found = {}
        for trial in self.trials:
            if trial.state == "complete" and trial.score is not None:
                found[trial.number] = Forecast(float(self.scale.units(trial.score)), 0.0)
            elif trial.reports:
                units = self.prior.units(self._curve(trial), self.scale)
                found[trial.number] = self.prior.forecast(units)
        return found

    def _curve(self, trial: KnownTrial) -> Curve:
        parts = (trial.reports, trial.scores)
        return Curve(*({at / self.steps: value for at, value in part.items()} for part in parts))

    @cached_property
    def process(self) -> GaussianProcess | None:
        """The surface of the ends, in units less those of a typical trial; None without trials."""
        observations = self._observations_of(self._observed)
        if observations is None or not observations.points.shape[1]:
            return None
        # Not from trials that run: then their reports change what they say, not how it is read,
        # and the costly part is done once for many reports.
        settled = self._observations_of([t for t in self._observed if t.state != "running"])
        return GaussianProcess.of(observations, _fitted(settled or observations))

    @cached_property
    def _own(self) -> dict[int, tuple[float, float]]:
        """The ends from the curves without the prior: value and variance, by number.

        A forecast already contains the prior for a trial about which nothing is known. The process
        has its own, so the prior is divided out.
        """
        start, found = self.prior.end, {}
        for number, (mean, variance) in self.forecasts.items():
            if variance < 0.97 * start.variance:
                if variance == 0.0:
                    found[number] = (mean - start.mean, 0.0)
                    continue
                error = 1.0 / (1.0 / variance - 1.0 / start.variance)
                value = error * (mean / variance - start.mean / start.variance) - start.mean
                found[number] = (value, error)
        return found

    def ends(self) -> dict[int, tuple[float, float]]:
        """Return what each trial's curve says about its end: (units, variance), by number."""
        middle = self.prior.end.mean
        return {number: (value + middle, error) for number, (value, error) in self._own.items()}

    @cached_property
    def _observed(self) -> list[KnownTrial]:
        return [trial for trial in self.trials if trial.number in self._own]

    @cached_property
    def _searched(self) -> GaussianProcess | None:
        """The surface for new trials: where a trial runs already there is little to be found."""
        if self.process is None:
            return None
        running = np.array([t.point for t in self.trials if t.state == "running"])
        return self.process.believing(running.reshape(-1, self.process.known.points.shape[1]))

    def _observations_of(self, trials: Sequence[KnownTrial]) -> Observations | None:
        own = [self._own[trial.number] for trial in trials]
        earlier = self.earlier if len(own) <= _MOST_WITH_EARLIER else ()
        if not own and not earlier:
            return None
        points = [np.array([trial.point for trial in trials])] if own else []
        values, errors = ([np.array(x)] for x in zip(*own, strict=True)) if own else ([], [])
        studies = [np.zeros(len(own), np.int64)]
        for number, study in enumerate(earlier, 1):
            points.append(study.points)
            values.append(study.values - self.prior.end.mean)
            errors.append(study.variances)
            studies.append(np.full(len(study.values), number, np.int64))
        parts = (points, values, errors, studies)
        return Observations(*(np.concatenate(part) for part in parts))

    @cached_property
    def best(self) -> float:
        """The end to beat, in units: that of the best complete trial, or a bad one without any."""
        scores = [t.score for t in self.trials if t.state == "complete" and t.score is not None]
        return float(self.scale.units(max(scores))) if scores else self.prior.end.mean - 1.0

    @cached_property
    def expected(self) -> dict[int, float]:
        """The scores that are expected of complete trials in the mean of many seeds, by number.

        A trial's own score says something about that, and so do its neighbours'. The highest of
        many scores is usually a lucky one, which its neighbours betray. Empty if nothing is known
        of neighbours.
        """
        complete = [t for t in self.trials if t.state == "complete" and t.score is not None]
        if self.process is None or not complete:
            return {}
        means = self.process.predict(np.array([trial.point for trial in complete])).means
        scores = self.scale.scores(means + self.prior.end.mean)
        return {t.number: float(score) for t, score in zip(complete, scores, strict=True)}

    @cached_property
    def noise(self) -> float | None:
        """Standard deviation between trainings of the same values, in score; None if unknown."""
        if self.process is None:
            return None
        return self.scale.spread * float(np.sqrt(self.process.assumed.noise))

    def rest(self, number: int) -> int:
        """Return the steps that a trial still needs."""
        reports = next(trial.reports for trial in self.trials if trial.number == number)
        return max(self.steps - max(reports, default=0), 1)

    def of_trials(self) -> dict[int, Prospect]:
        """Return the prospects of the trials that may get more steps, by number."""
        open_ones = [t for t in self.trials if t.state in ("paused", "running")]
        if not open_ones:
            return {}
        left_out = {}
        if self.process is not None:
            means, variances = self.process.left_out()
            rows = zip(self._observed, means, variances, strict=False)
            left_out = {t.number: (float(m), float(v)) for t, m, v in rows}
        around = [left_out.get(t.number) or self._around(t.point) for t in open_ones]
        nothing = (0.0, np.inf)
        curves = [self._own.get(trial.number, nothing) for trial in open_ones]
        done = [max(trial.reports, default=0) / self.steps for trial in open_ones]
        found = self._prospects(
            np.array(around), np.array(curves), np.array(done), np.ones(len(open_ones))
        )
        return {trial.number: prospect for trial, prospect in zip(open_ones, found, strict=True)}

    def of_points(self, points: Array) -> list[Prospect]:
        """Return the prospects of new trials at `points` (N, D)."""
        count = len(points)
        if self.process is None:
            around = np.tile([0.0, self.prior.end.variance], (count, 1))
        else:
            assert self._searched is not None
            means, variances = self._searched.predict(points)
            around = np.stack([means, variances + self.process.assumed.noise], axis=1)
        curves = np.tile([0.0, np.inf], (count, 1))
        return self._prospects(around, curves, np.zeros(count), self.usable(points))

    def _prospects(
        self, around: Array, curves: Array, done: Array, usable: Array
    ) -> list[Prospect]:
        """Return the prospects of N trials.

        Args:
            around: (N, 2), mean and variance from the neighbours, less a typical trial's end.
            curves: (N, 2), the same from each trial's own curve.
            done: (N,), fraction of the steps that a trial has had.
            usable: (N,), probability to pass the gates.
        """
        precision = 1.0 / around[:, 1] + 1.0 / np.maximum(curves[:, 1], 1e-9)
        means = around[:, 0] / around[:, 1]
        means += np.where(np.isinf(curves[:, 1]), 0.0, curves[:, 0]) / np.maximum(
            curves[:, 1], 1e-9
        )
        means, variances = means / precision, 1.0 / precision
        above = means + self.prior.end.mean - self.best
        deviations = np.sqrt(variances)
        chances = usable * chance_above(above, deviations)
        gains = usable * expected_gain(above, deviations)
        if self.pausing:
            rates = usable * self._rates(above, variances, around[:, 1], done)
        else:
            rates = gains / np.maximum(1.0 - done, 1e-9)
        scores = self.scale.scores(means + self.prior.end.mean)
        rows = zip(
            scores,
            self.scale.spread * deviations,
            chances,
            self.scale.spread * gains,
            self.scale.spread * rates / self.steps,
            strict=True,
        )
        return [Prospect(*map(float, row)) for row in rows]

    def _rates(self, above: Array, variances: Array, around: Array, done: Array) -> Array:
        """Return the gain of trials for each further whole training.

        A trial need not be trained to its end: after some steps its reports say more, and then it
        goes on only if that is worth the rest. The rate is the price of a step at which such a
        trial is just worth beginning, the best such place to look again included (Weitzman 1979,
        "Optimal search for the best alternative").

        Args:
            above: (N,), expected end above the best one.
            variances: (N,), its variance.
            around: (N,), the variance without the trial's own curve.
            done: (N,), fraction of the steps that the trial has had.
        """
        first = self.first / self.steps
        found = np.zeros(len(above))
        for share in _LOOKS:
            look = np.where(done < first, np.maximum(first, share), done + share * (1.0 - done))
            rest = 1.0 - look
            known = 1.0 / (1.0 / around + 1.0 / self._errors(look))
            known = np.minimum(known, variances)
            spread = np.sqrt(np.maximum(variances - known, 0.0))
            then = above[:, None] + spread[:, None] * _NODES
            gains = expected_gain(then, np.sqrt(known)[:, None])
            low, high = np.zeros(len(above)), gains.max(axis=1) / np.maximum(look - done, 1e-9)
            for _ in range(_HALVINGS):
                price = 0.5 * (low + high)
                kept = np.maximum(gains - (price * rest)[:, None], 0.0) @ _WEIGHTS
                worth = kept > price * (look - done)
                low, high = np.where(worth, price, low), np.where(worth, high, price)
            found = np.maximum(found, low)
        return found

    def _errors(self, fractions: Array) -> Array:
        """Return the variance of what a curve says alone that has been seen up to `fractions`."""
        places, errors = self._errors_at
        return np.asarray(np.interp(fractions, places, errors))

    @cached_property
    def _errors_at(self) -> tuple[Array, Array]:
        start, errors = self.prior.end.variance, []
        for place in self.prior.fractions:
            seen = self.prior.fractions[self.prior.fractions <= place]
            flat = dict.fromkeys(seen.tolist(), 0.0)
            variance = self.prior.forecast(Curve(flat, flat)).variance
            errors.append(1.0 / max(1.0 / variance - 1.0 / start, 1e-6))
        errors[-1] = min(errors[-1], 1e-4)
        return self.prior.fractions, np.array(errors)

    def usable(self, points: Array) -> Array:
        """Return the probability (N,) that the generators of trials at `points` pass the gates."""
        judged = [t for t in self.trials if t.state in ("gated", "complete", "paused")]
        gated = sum(t.state == "gated" for t in judged)
        if not gated or self.process is None:
            return np.ones(len(points))
        places = np.array([trial.point for trial in judged])
        labels = np.array([-1.0 if trial.state == "gated" else 1.0 for trial in judged])
        base = 1.0 - 2.0 * (gated + 1.0) / (len(judged) + 4.0)
        known = Observations(
            places,
            labels - base,
            np.full(len(judged), _GATE_VARIANCE),
            np.zeros(len(judged), np.int64),
        )
        assumed = self.process.assumed._replace(signal=1.0, noise=0.0, share=0.0)
        means, variances = GaussianProcess.of(known, assumed).predict(points)
        probability: Array = 0.5 + 0.5 * erf(
            (means + base) / np.sqrt(2.0 * (variances + _GATE_VARIANCE))
        )
        return probability

    def _around(self, point: tuple[float, ...]) -> tuple[float, float]:
        if self.process is None:
            return 0.0, self.prior.end.variance
        means, variances = self.process.predict(np.array([point]))
        return float(means[0]), float(variances[0]) + self.process.assumed.noise


_last_fit: dict[bytes, Hyperparameters] = {}
"""The last fit by its observations."""


def _fitted(known: Observations) -> Hyperparameters:
    arrays = (known.points, known.values, known.variances, known.studies)
    key = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    if key not in _last_fit:
        _last_fit.clear()
        _last_fit[key] = most_probable(known)
    return _last_fit[key]


def chance_above(means: Array, deviations: Array) -> Array:
    """Return the probability that Gaussian variables are positive."""
    chances: Array = 0.5 * erfc(-means / (np.sqrt(2.0) * np.maximum(deviations, 1e-9)))
    return chances


def expected_gain(means: Array, deviations: Array) -> Array:
    """Return the means of the positive parts of Gaussian variables: the expected improvement."""
    deviations = np.maximum(deviations, 1e-9)
    density = np.exp(-0.5 * (means / deviations) ** 2) / np.sqrt(2.0 * np.pi)
    gains = means * chance_above(means, deviations) + deviations * density
    return np.asarray(np.maximum(gains, 0.0))
