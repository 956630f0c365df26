"""Rank correlation, regret and AUC with bootstrap intervals. Used by `score_validity.py`.

A table has one row per training; rows of one configuration (its seeds) are drawn together, because
they are not independent. All intervals are 95 % percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata, spearmanr

Numbers = np.ndarray
Statistic = Callable[[Numbers], float]
"""A statistic of the rows with these numbers, which may occur more than once."""


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:5.2f} ({self.low:5.2f} to {self.high:5.2f})"


def bootstrap(statistic: Statistic, groups: Numbers, resamples: int) -> Interval:
    """Resample the groups with replacement; `groups` has one number per row."""
    random = np.random.default_rng(0)
    names = np.unique(groups)
    rows = {name: np.flatnonzero(groups == name) for name in names}
    found = []
    for _ in range(resamples):
        drawn = random.choice(names, len(names))
        found.append(statistic(np.concatenate([rows[name] for name in drawn])))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return Interval(statistic(np.arange(len(groups))), float(low), float(high))


def spearman(criterion: Numbers, quality: Numbers) -> Statistic:
    """Return Spearman's rank correlation as a statistic."""
    return lambda rows: float(spearmanr(criterion[rows], quality[rows]).statistic)


def kendall(criterion: Numbers, quality: Numbers) -> Statistic:
    """Return Kendall's tau-b as a statistic."""
    return lambda rows: float(kendalltau(criterion[rows], quality[rows]).statistic)


def regret(criterion: Numbers, quality: Numbers, seeds: Numbers) -> Statistic:
    """Return the loss of the row with the highest criterion against the best, mean over seeds.

    Each seed is a study of its own, which chooses among all configurations.
    """

    def statistic(rows: Numbers) -> float:
        found = []
        for seed in np.unique(seeds[rows]):
            chosen = rows[seeds[rows] == seed]
            best = quality[chosen].max()
            found.append(best - quality[chosen[np.argmax(criterion[chosen])]])
        return float(np.mean(found))

    return statistic


def regret_by_chance(quality: Numbers, seeds: Numbers) -> Statistic:
    """Return the expected regret of a random choice as a statistic."""

    def statistic(rows: Numbers) -> float:
        parts = [quality[rows[seeds[rows] == seed]] for seed in np.unique(seeds[rows])]
        return float(np.mean([part.max() - part.mean() for part in parts]))

    return statistic


def auc(healthy: Numbers, failed: Numbers) -> float:
    """Return P(healthy > failed) over all pairs; ties count half."""
    ranks = rankdata(np.concatenate([healthy, failed]))
    pairs = len(healthy) * len(failed)
    return float((ranks[: len(healthy)].sum() - len(healthy) * (len(healthy) + 1) / 2) / pairs)
