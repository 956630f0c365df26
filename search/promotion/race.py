"""Race the best trials of a study: the same further seeds for all, until one is surely the best.

The score by which a trial was chosen flatters it, because the best of many noisy values is high
partly by luck. So only seeds that the study did not train count, and every round gives all trials
that are still in the race the same one: they start with the same random numbers and are judged on
the same patches, and so their difference is less noisy than either score. A trial drops out as soon
as it is unlikely to beat the leader; the trainings that it would have had are saved (Maron and
Moore 1997, "The racing algorithm").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

LEAST_CHANCE = 0.05
"""Probability to be better than the leader below which a trial drops out."""
_PRIOR_DEVIATION = 0.5
"""Deviation of the difference of two trainings, in score, that is expected before any is known.
Recorded trainings differ by 0.3 to 0.4 (`benchmarks/search_accuracy.py` prints it)."""
_PRIOR_WEIGHT = 2.0
"""Number of differences that the expectation counts as."""

Scores = Mapping[int, Mapping[int, float]]
"""Scores by trial and seed."""


class Standing(NamedTuple):
    """The state of a race."""

    racing: tuple[int, ...]
    """The trials still in the race, the leader first."""
    due: int | None
    """The seed with which they are trained next; None if the race is over."""
    chances: dict[int, float]
    """Probability of each other racing trial to be better than the leader; empty before the first
    round of seeds that count."""

    @property
    def sureness(self) -> float | None:
        """Probability that the leader is the best of all, at least; None if nothing is known."""
        return max(1.0 - sum(self.chances.values()), 0.0) if self.chances else None


def standing(scores: Scores, seeds: Sequence[int], own: int) -> Standing:
    """Return the state of a race.

    Args:
        scores: what is known; a trial that has dropped out needs no more.
        seeds: the seeds in the order of the rounds.
        own: how many of them the study trained itself. If these are all, they count.
    """
    racing, chances = tuple(scores), dict[int, float]()
    dropped: dict[int, float] = {}
    for done, seed in enumerate(seeds, 1):
        if any(seed not in scores[trial] for trial in racing):
            return Standing(racing, seed, dropped | chances)
        counting = seeds[own:done] if own < len(seeds) else seeds[: done if done > 1 else 0]
        ranked_by = counting or seeds[:done]
        racing = tuple(sorted(racing, key=lambda trial: -_mean(scores[trial], ranked_by)))
        chances = {}
        if counting:
            leader = scores[racing[0]]
            found = {trial: chance(scores[trial], leader, counting) for trial in racing[1:]}
            chances = {trial: p for trial, p in found.items() if p >= LEAST_CHANCE}
            dropped |= {trial: p for trial, p in found.items() if p < LEAST_CHANCE}
            racing = (racing[0], *chances)
        if len(racing) == 1 < len(scores):
            break
    return Standing(racing, None, dropped | chances)


def chance(trial: Mapping[int, float], leader: Mapping[int, float], seeds: Sequence[int]) -> float:
    """Return the probability that a trial is better than the leader, by the same `seeds` of both.

    It is that of a t test of the paired differences, whose variance is known a little beforehand:
    one or two differences say almost nothing about it.
    """
    differences = np.array([trial[seed] - leader[seed] for seed in seeds])
    count, mean = len(differences), float(differences.mean())
    squares = float(((differences - mean) ** 2).sum()) + _PRIOR_WEIGHT * _PRIOR_DEVIATION**2
    freedom = count - 1 + _PRIOR_WEIGHT
    return float(student.sf(0.0, freedom, loc=mean, scale=np.sqrt(squares / freedom / count)))


def _mean(scores: Mapping[int, float], seeds: Sequence[int]) -> float:
    return float(np.mean([scores[seed] for seed in seeds]))
