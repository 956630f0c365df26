"""Studies with pauses, played on drawn learning curves: how many steps they would take."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.study.curves import CurvePrior, Scale
from search.study.proposals import prospect_of_new
from search.study.prospects import KnownTrial, Prospect, Prospects
from search.study.thaw import next_choice, pauses

_STUDIES = 4
_MOST_TRIALS = 30
"""Most trials of a played study; the steps of a longer one grow with its trials."""
_LOOKS = 8
"""Most places of a trial at which it is decided whether it goes on."""


class PlayedStudies(NamedTuple):
    """Means over some played studies."""

    steps: float
    complete: float
    """Number of trials that were trained to the end."""


def played(trials: int, steps: int, first: int, *, least_chance: float) -> PlayedStudies:
    """Play studies whose trials have curves as the recorded trainings have, and no neighbours.

    Args:
        trials: trials of a study.
        steps: steps of a whole trial.
        first: step at which trials are first judged.
        least_chance: see `search.study.pruners.Pruner`.
    """
    prior, random = CurvePrior.shipped(), np.random.default_rng(0)
    count = min(trials, _MOST_TRIALS)
    found = []
    for _ in range(_STUDIES):
        drawn = random.multivariate_normal(prior.mean, prior.covariance, size=count)
        found.append(_Study(drawn, prior, steps, first).play(least_chance))
    spent, complete = np.mean(found, axis=0) * trials / count
    return PlayedStudies(float(spent), float(complete))


class _Study:
    """A study whose curves (N, 2 T + 1) are known, in units."""

    def __init__(
        self, units: NDArray[np.float64], prior: CurvePrior, steps: int, first: int
    ) -> None:
        self.prior, self.steps, self.first = prior, steps, first
        looks = np.linspace(first, steps, min(_LOOKS, max(steps - first, 1) + 1))
        self.looks = np.unique(looks.round().astype(int)).tolist()
        scale, places = Scale(0.0, prior.spread), np.array(self.looks) / steps
        drawn = (prior.curve(row[:-1], places, scale) for row in units)
        self.curves = [[list(part.values()) for part in curve] for curve in drawn]
        self.ends = scale.scores(units[:, -1])
        self.reached: list[int] = []
        """Number of looks of each trial that has begun."""
        self.states: list[str] = []

    def _new(self, known: Prospects) -> Prospect | None:
        if len(self.states) == len(self.ends):
            return None
        return prospect_of_new(known, None, seed=0)

    def play(self, least_chance: float) -> tuple[float, float]:
        """Return the steps and the number of complete trials."""
        while True:
            known = self._known()
            choice = next_choice(known, self._new(known), least_chance=least_chance)
            if choice is None:
                break
            number = choice.number
            if number is None:
                number = len(self.states)
                self.states.append("")
                self.reached.append(0)
            self._train(number, least_chance)
        spent = sum(self.looks[reached - 1] for reached in self.reached)
        return float(spent), float(self.states.count("complete"))

    def _train(self, number: int, least_chance: float) -> None:
        self.states[number] = "running"
        while True:
            self.reached[number] += 1
            if self.reached[number] == len(self.looks):
                self.states[number] = "complete"
                return
            known = self._known()
            stops = pauses(known, number, self._new(known), least_chance=least_chance)
            if stops is not None:
                self.states[number] = "paused"
                return

    def _known(self) -> Prospects:
        states: Any = enumerate(zip(self.states, self.reached, strict=True))
        trials = [
            KnownTrial(
                number=number,
                state=state,
                point=(),
                reports=dict(zip(self.looks[:reached], self.curves[number][0], strict=False)),
                scores=dict(zip(self.looks[:reached], self.curves[number][1], strict=False)),
                score=float(self.ends[number]) if state == "complete" else None,
            )
            for number, (state, reached) in states
        ]
        return Prospects(trials, self.steps, self.prior, self.first, pausing=True)
