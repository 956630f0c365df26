"""Worlds for `search_replay.py`: what any training of a pool would have given, without training it.

A world answers for every point of the space. It is made like this from the table of a pool (see
`search_pool.py`):

1. Every recorded training is one vector: its scores at all reports in units of the pool (see
   `search.study.curves.Scale`), then its true PSNR at all reports, in the same kind of units.
2. The principal components of the configurations' mean vectors are interpolated over the space,
   each by a Gaussian process. What the components leave out is noise.
3. A replay draws one function from each of these processes, so every replay has another surface
   that fits the recorded trainings and is as rough as they are between them.
4. A trial in this world adds the noise of a seed: how a recorded training differs from the mean of
   its configuration. Good configurations vary much less between seeds than bad ones, so it is taken
   from a configuration that ends about as well as the trial would without noise.

`search_accuracy.py` says how well step 2 predicts a configuration that was left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc
from search_pool import EVERY, SPACE, STEPS, TABLES

from cyclegan.score import GATED
from search.study.curves import CurvePrior, Scale
from search.study.gaussian_process import GaussianProcess, Observations
from search.study.judging import JudgedBy, scores_so_far
from search.study.prospects import EarlierStudy

Array = NDArray[np.float64]
REPORTS = STEPS // EVERY
FIRST = REPORTS // 4
"""Number of reports after which a trial is first judged; its score is the best from there on."""
FRACTIONS = np.arange(1, REPORTS + 1) / REPORTS
COMPONENTS = 4
"""Number of principal components; more than these are noise in pools of this size."""
_SAMPLES = 4096
_ALIKE = 9
"""Number of recorded configurations, those with the most similar ends, that share their noise."""
GRID_POINTS = (0.2, 0.8)
"""Values of each key on the grid, in the unit cube: one point below and one above the middle."""


@dataclass(frozen=True)
class Trainings:
    """The recorded trainings of a pool whose configuration has a record of every seed."""

    points: Array
    """(N, D): the configurations in the unit cube."""
    scores: Array
    """(N, S, T): the score of each of the S seeds at each report."""
    psnr: Array
    """(N, S, T): the true quality in dB."""

    @cached_property
    def quality(self) -> Array:
        """(N, S): the true quality in dB at the report that counts for each training."""
        return np.take_along_axis(self.psnr, counted(self.scores)[..., None], axis=-1)[..., 0]

    @cached_property
    def ends(self) -> Array:
        """(N,): the mean score of each configuration's seeds at the report that counts."""
        ends: Array = self.scores[..., FIRST - 1 :].max(axis=-1).mean(axis=-1)
        return ends

    @cached_property
    def noise(self) -> Array:
        """(N, S, 2T): how the trainings differ from the mean of their configuration, in units.

        It is as large as the differences of single trainings, which are wider than those from a
        mean of few.
        """
        seeds = self.vectors.shape[1]
        apart = self.vectors - self.vectors.mean(axis=1, keepdims=True)
        return np.asarray(apart * np.sqrt(seeds / max(seeds - 1.0, 1.0)))

    def alike(self, end: float) -> NDArray[np.int64]:
        """Return the configurations whose ends are nearest to a score."""
        return np.argsort(np.abs(self.ends - end), kind="stable")[:_ALIKE]

    @cached_property
    def level(self) -> Scale:
        """The scale of the scores."""
        return scale_of(self.scores[..., -1])

    @cached_property
    def truth(self) -> Scale:
        """The scale of the true qualities."""
        return scale_of(self.psnr[..., -1])

    @cached_property
    def usual(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Typical values and usual deviations at each report, of the scores and of the quality."""
        found = []
        for values, scale in ((self.scores, self.level), (self.psnr, self.truth)):
            low, high = np.quantile(values.reshape(-1, REPORTS), [0.5, 0.84], axis=0)
            width = np.maximum((high - low) / scale.spread, 1e-3)
            found.append(((low - scale.level) / scale.spread, width))
        return found[0], found[1]

    @cached_property
    def vectors(self) -> Array:
        """Scores and qualities in units, (N, S, 2T)."""
        scores = self.level.units(self.scores, *self.usual[0])
        return np.concatenate([scores, self.truth.units(self.psnr, *self.usual[1])], axis=-1)


def counted(scores: Array) -> NDArray[np.int64]:
    """Return which report (of the last axis) counts for trials with these scores.

    It is the best one since the first judgement. A trial keeps the generator of that report (see
    `search.study.judging.counted_report`).
    """
    late: NDArray[np.int64] = scores[..., FIRST - 1 :].argmax(axis=-1)
    return late + FIRST - 1


def read_trainings(pool: str, folder: Path = TABLES) -> Trainings:
    """Return the trainings of a pool from its tables. Gated reports have the score `GATED`."""
    with (folder / "configurations.csv").open(encoding="utf-8", newline="") as handle:
        values = {row["configuration"]: unit(row) for row in csv.DictReader(handle)}
    found = _recorded(pool, folder)
    seeds = max(len(each) for each in found.values())
    names = sorted(name for name, each in found.items() if len(each) == seeds)
    curves = np.array(
        [[_curve(found[name][seed]) for seed in sorted(found[name])] for name in names]
    )
    points = np.array([values[name] for name in names])
    return Trainings(points, curves[..., 0], curves[..., 1])


def read_curves(pool: str, judge_by: JudgedBy = "best", folder: Path = TABLES) -> Array:
    """Return the curves of all trainings of a pool, (N, 2 T + 1).

    They are the reports, the scores as of each, and the end (see `search.study.curves`). Unlike
    `read_trainings` it takes configurations with a single record, too.
    """
    each = [reports for seeds in _recorded(pool, folder).values() for reports in seeds.values()]
    reports = np.array([_curve(reports) for reports in each])[..., 0]
    scores = np.array([so_far(row, judge_by) for row in reports])
    return np.concatenate([reports, scores, scores[:, -1:]], axis=1)


def so_far(scores: Array, judge_by: JudgedBy = "best") -> Array:
    """Return the scores (T,) of a trial as of each of its reports, which have these scores."""
    found = scores_so_far(dict(enumerate(scores.tolist(), 1)), judge_by, FIRST)
    return np.array(list(found.values()))


_Reports = dict[int, tuple[float, float]]
"""(score, PSNR) by step."""


def _recorded(pool: str, folder: Path) -> dict[str, dict[int, _Reports]]:
    """Return the reports of all trainings by configuration and seed."""
    found: dict[str, dict[int, _Reports]] = {}
    with (folder / f"{pool}.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            reports = found.setdefault(row["configuration"], {}).setdefault(int(row["seed"]), {})
            reports[int(row["step"])] = (float(row["score"]), float(row["psnr"]))
    return found


def unit(values: Mapping[str, float | str]) -> list[float]:
    """Return a configuration's place in the unit cube."""
    found = []
    for key, (low, high) in SPACE.items():
        found.append(float(np.log(float(values[key]) / low) / np.log(high / low)))
    return found


def _curve(reports: _Reports) -> list[tuple[float, float]]:
    """Return (score, PSNR) at all reports; a training that diverged is unusable from there on."""
    last, found = (GATED, min(quality for _, quality in reports.values())), []
    for step in range(EVERY, STEPS + 1, EVERY):
        found.append(reports.get(step, last))
    return found


def scale_of(ends: Array) -> Scale:
    """Return the scale on which the median end is 0, and that of the best sixth begins at 1."""
    low, high = np.quantile(ends, [0.5, 0.84])
    return Scale(float(low), max(float(high - low), 1e-3))


@dataclass(frozen=True)
class Surface:
    """Interpolated principal components of a pool."""

    trainings: Trainings
    centre: Array
    """(2T,): mean vector."""
    components: Array
    """(K, 2T)"""
    processes: tuple[GaussianProcess, ...]
    """One for each component, of values divided by `widths`."""
    widths: Array
    """(K,)"""

    @classmethod
    def of(cls, trainings: Trainings) -> Surface:
        """Interpolate the trainings."""
        means = trainings.vectors.mean(axis=1)
        centre = means.mean(axis=0)
        count = min(COMPONENTS, len(means) - 1)
        components = np.linalg.svd(means - centre, full_matrices=False)[2][:count]
        values = (means - centre) @ components.T
        seeds = trainings.noise @ components.T
        squares = (seeds**2).mean(axis=1) / seeds.shape[1]
        noise = np.array([squares[trainings.alike(end)].mean(axis=0) for end in trainings.ends])
        widths = values.std(axis=0)
        processes = tuple(
            GaussianProcess.fitted(
                Observations(
                    trainings.points,
                    values[:, k] / widths[k],
                    noise[:, k] / widths[k] ** 2,
                    np.zeros(len(values), np.int64),
                )
            )
            for k in range(count)
        )
        return cls(trainings, centre, components, processes, widths)

    def without(self, number: int) -> Array:
        """Return the vector predicted for a recorded configuration from all others."""
        kept = np.arange(len(self.trainings.points)) != number
        values = []
        for process in self.processes:
            other = GaussianProcess.of(process.known.chosen(np.flatnonzero(kept)), process.assumed)
            point = self.trainings.points[number : number + 1]
            values.append(float(other.predict(point).means[0]))
        predicted: Array = self.centre + (np.array(values) * self.widths) @ self.components
        return predicted


class WorldMaker:
    """Draws worlds of one pool; the recipe's own values lie at `recipe` (D,)."""

    def __init__(self, trainings: Trainings, recipe: Array) -> None:
        self.surface, self.recipe = Surface.of(trainings), recipe
        dimensions = trainings.points.shape[1]
        sobol = qmc.Sobol(dimensions, scramble=True, seed=7).random(_SAMPLES)
        self.samples = np.concatenate([recipe[None], trainings.points, sobol])

    def draw(self, seed: int) -> World:
        """Return a world."""
        random = np.random.default_rng([11, seed])
        drawn = tuple(process.drawn(random) for process in self.surface.processes)
        return World(self, drawn, random)


class World:
    """One surface, and trials on it."""

    def __init__(
        self,
        maker: WorldMaker,
        drawn: Sequence[Callable[[Array], Array]],
        random: np.random.Generator,
    ) -> None:
        self._surface, self._drawn = maker.surface, drawn
        self.dimensions, self.recipe, self.random = len(maker.recipe), maker.recipe, random
        self.best = float(self.quality(maker.samples).max())
        """The highest true quality in the space, of many points."""

    def quality(self, points: Array) -> Array:
        """Return the true PSNR (N,) in dB at the report that counts, without a seed's noise."""
        trainings, vectors = self._surface.trainings, self._vectors(points)
        scores = self._scores(vectors)
        truth = trainings.truth.scores(vectors[:, REPORTS:], *trainings.usual[1])
        return np.asarray(np.take_along_axis(truth, counted(scores)[:, None], axis=-1)[:, 0])

    def trial(self, point: Array) -> Array:
        """Return the scores (T,) of one training at a point, with a new seed."""
        vector, trainings = self._vectors(point[None]), self._surface.trainings
        end = float(self._scores(vector)[0, FIRST - 1 :].max())
        like = self.random.choice(trainings.alike(end))
        noise = trainings.noise[like, self.random.integers(trainings.noise.shape[1])]
        scores = self._scores(vector + self.random.choice([-1.0, 1.0]) * noise)[0]
        return np.maximum(scores, GATED + 1.0)

    def regret(self, point: Array) -> float:
        """Return how many dB a point is below the best one."""
        return self.best - float(self.quality(point[None])[0])

    def _scores(self, vectors: Array) -> Array:
        trainings = self._surface.trainings
        return trainings.level.scores(vectors[:, :REPORTS], *trainings.usual[0])

    def _vectors(self, points: Array) -> Array:
        values = np.stack([function(points) for function in self._drawn], axis=1)
        vectors: Array = self._surface.centre + values * self._surface.widths @ (
            self._surface.components
        )
        return vectors


def grid(dimensions: int) -> Array:
    """Return all combinations of `GRID_POINTS`."""
    axes = np.meshgrid(*[GRID_POINTS] * dimensions, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def curve_prior(
    pools: Sequence[str], judge_by: JudgedBy = "best", folder: Path = TABLES
) -> CurvePrior:
    """Return the curve prior of some pools."""
    curves = [read_curves(pool, judge_by, folder) for pool in pools]
    return CurvePrior.from_curves(FRACTIONS, curves)


def earlier_study(trainings: Trainings) -> EarlierStudy:
    """Return what the trainings say about good configurations, as an earlier study.

    It says how good each one truly is, which nobody knows of a user's own earlier studies: the
    score orders good trainings less surely than their truth is the same for two seeds.
    """
    usable = (trainings.scores[..., FIRST - 1 :].max(axis=-1) > GATED).all(axis=1)
    quality = trainings.quality.mean(axis=1)[usable]
    return EarlierStudy(
        points=trainings.points[usable],
        values=scale_of(quality).units(quality),
        variances=np.zeros(len(quality)),
    )
