"""The searches that `search_replay.py` plays: samplers, schedulers, and what they know.

A *sampler* chooses the values of new trials, and a *scheduler* says how long each is trained. All
trials train at the same pace, so a search with several workers gives each of them one report after
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from search_pool import EVERY, STEPS
from search_worlds import FIRST, REPORTS, World, grid, so_far

from cyclegan.score import GATED
from search.study.cube import Cube
from search.study.curves import CurvePrior
from search.study.outlook import LEAST_COMPLETE
from search.study.proposals import proposal, prospect_of_new
from search.study.prospects import EarlierStudy, KnownTrial, Prospects
from search.study.pruners import Pruner, halving_cutoff
from search.study.samplers import Sampler as StudySampler
from search.study.space import FloatRange
from search.study.thaw import next_choice, pauses

Array = NDArray[np.float64]
STARTUP: int = StudySampler.model_fields["startup_trials"].default
LEAST_CHANCE: float = Pruner.model_fields["least_chance"].default


@dataclass
class Trial:
    """A trial in a world."""

    number: int
    point: Array
    """(D,), in the unit cube."""
    curve: Array
    """(T,): the scores that it would report."""
    reached: int = 0
    """Number of reports so far."""
    state: str = "running"
    rungs: list[float] = field(default_factory=list)
    asked: optuna.Trial | None = None

    @property
    def score(self) -> float:
        """Its score by what it has reported: the best since it was first judged."""
        reports = self.curve[: self.reached]
        late = reports[FIRST - 1 :]
        return float(late.max() if len(late) else reports[-1])


@dataclass
class Search:
    """One search in one world.

    Args:
        budget: reports of all trials together.
        earlier: what studies of other data found out, for the samplers that look at it.
        from_recipe: begin with the recipe's own values, as a study does by `enqueue_defaults`.
        by_expected: promote the trial that is expected to be best, as our studies do, and not the
            one with the highest score.
        pausing: the scheduler pauses trials and continues them.
    """

    world: World
    prior: CurvePrior
    seed: int
    budget: int
    workers: int = 1
    earlier: Sequence[EarlierStudy] = ()
    from_recipe: bool = False
    by_expected: bool = False
    pausing: bool = False
    trials: list[Trial] = field(default_factory=list)
    history: list[Trial] = field(default_factory=list)
    """After each report, the trial that would be promoted then."""

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([5, self.seed])
        axes = range(self.world.dimensions)
        self.cube = Cube({str(axis): FloatRange(low=0.0, high=1.0) for axis in axes})
        self._expected: tuple[int, dict[int, float]] = (0, {})

    def known(self) -> Prospects:
        """Return what our sampler and scheduler know."""
        return Prospects(
            [_known(trial) for trial in self.trials],
            STEPS,
            self.prior,
            FIRST * EVERY,
            self.earlier,
            pausing=self.pausing,
        )

    def left(self) -> int:
        """Return the steps that are not spent yet."""
        return EVERY * (self.budget - len(self.history))

    def begin(self, point: Array, asked: optuna.Trial | None = None) -> Trial:
        """Begin a trial at a point."""
        trial = Trial(len(self.trials), point, self.world.trial(point), asked=asked)
        self.trials.append(trial)
        return trial

    def run(self, sampler: Sampler, scheduler: Scheduler) -> None:
        """Play until the budget is spent."""
        busy: list[Trial | None] = [None] * self.workers
        while len(self.history) < self.budget:
            for place in range(self.workers):
                trial = busy[place]
                if trial is None:
                    trial = scheduler.next(self, sampler)
                    trial.state = "running"
                self._train(trial, scheduler)
                if trial.state in ("complete", "pruned"):
                    sampler.told(trial)
                busy[place] = trial if trial.state == "running" else None
                if len(self.history) == self.budget:
                    return

    def _train(self, trial: Trial, scheduler: Scheduler) -> None:
        """Train a trial up to its next report."""
        trial.reached += 1
        if trial.asked is not None:
            trial.asked.report(float(trial.curve[trial.reached - 1]), trial.reached * EVERY)
        if trial.reached == REPORTS:
            trial.state = "complete"
        elif trial.reached >= FIRST:
            trial.state = scheduler.judge(self, trial)
        self.history.append(self.chosen())

    def chosen(self) -> Trial:
        """Return the trial that would be promoted now."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        if self.by_expected and len(complete) >= LEAST_COMPLETE:
            if self._expected[0] != len(complete):  # what pauses and prunings tell comes later
                self._expected = len(complete), self.known().expected
            expected = self._expected[1]
            return max(complete, key=lambda trial: expected[trial.number])
        begun = complete or [trial for trial in self.trials if trial.reached]
        return max(begun, key=lambda trial: trial.score)

    def regrets(self, places: Array) -> Array:
        """Return the regret in dB at some shares of the budget."""
        at = np.maximum(np.ceil(places * len(self.history) - 1e-9).astype(int) - 1, 0)
        chosen = [self.history[i].point for i in at]
        return self.world.best - self.world.quality(np.array(chosen))


def _known(trial: Trial) -> KnownTrial:
    states = {"pruned": "ended"}
    state: Any = states.get(trial.state, trial.state)
    seen = trial.curve[: trial.reached]
    rows = zip(range(EVERY, STEPS + 1, EVERY), seen.tolist(), so_far(seen).tolist(), strict=False)
    usable = [row for row in rows if row[1] > GATED + 1.0]
    return KnownTrial(
        number=trial.number,
        state=state,
        point=tuple(trial.point.tolist()),
        reports={at: value for at, value, _ in usable},
        scores={at: score for at, _, score in usable},
        score=trial.score if trial.state == "complete" else None,
    )


# -- Samplers ----------------------------------------------------------------------------------


class Sampler:
    """Chooses the values of new trials; this one at random."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def new(self) -> Trial:
        """Begin a trial."""
        search = self.search
        if search.from_recipe and not search.trials:
            return search.begin(search.world.recipe)
        return search.begin(self.point())

    def point(self) -> Array:
        """Return the place of a new trial."""
        return self.search.random.random(self.search.world.dimensions)

    def told(self, trial: Trial) -> None:
        """Take the result of a trial that has ended."""


class Grid(Sampler):
    """All combinations in random order."""

    def __init__(self, search: Search) -> None:
        super().__init__(search)
        self.order = search.random.permutation(grid(search.world.dimensions))

    def new(self) -> Trial:
        """Begin the next trial of the grid."""
        return self.search.begin(self.order[len(self.search.trials) % len(self.order)])


class Ours(Sampler):
    """`search.study.proposals.proposal`."""

    def point(self) -> Array:
        """Return the place that is worth most."""
        search, number = self.search, len(self.search.trials)
        return proposal(search.known(), number, search.cube, startup=STARTUP, seed=search.seed)


class FromOptuna(Sampler):
    """A sampler of Optuna."""

    def __init__(self, search: Search, sampler: optuna.samplers.BaseSampler) -> None:
        super().__init__(search)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        names = [f"x{k}" for k in range(search.world.dimensions)]
        self.space: dict[str, BaseDistribution] = {
            name: FloatDistribution(0.0, 1.0) for name in names
        }
        if search.from_recipe:
            recipe = np.clip(search.world.recipe, 0.0, 1.0).tolist()
            self.study.enqueue_trial(dict(zip(names, recipe, strict=True)))

    def new(self) -> Trial:
        """Begin the trial that Optuna asks for."""
        asked = self.study.ask(self.space)
        return self.search.begin(np.array([asked.params[name] for name in self.space]), asked)

    def told(self, trial: Trial) -> None:
        """Tell Optuna the result."""
        assert trial.asked is not None
        if trial.state == "complete":
            self.study.tell(trial.asked, trial.score)
        else:
            self.study.tell(trial.asked, state=optuna.trial.TrialState.PRUNED)


SAMPLERS: dict[str, Callable[[Search], Sampler]] = {
    "random": Sampler,
    "grid": Grid,
    "tpe": lambda search: FromOptuna(
        search, optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=10)
    ),
    "optuna_gp": lambda search: FromOptuna(
        search, optuna.samplers.GPSampler(seed=search.seed, n_startup_trials=10)
    ),
    "noisy_gp": Ours,
}


# -- Schedulers --------------------------------------------------------------------------------


class Scheduler:
    """Says how long trials are trained; this one trains all to the end."""

    def judge(self, search: Search, trial: Trial) -> str:
        """Return the state of a trial after a report: `running`, `paused` or `pruned`."""
        return "running"

    def next(self, search: Search, sampler: Sampler) -> Trial:
        """Return the trial that a free worker trains."""
        return sampler.new()


class Halving(Scheduler):
    """Successive halving, asynchronous, as in `search.study.pruners`."""

    def judge(self, search: Search, trial: Trial) -> str:
        """Compare the trial with its rivals at the rungs."""
        rung = len(trial.rungs)
        if trial.reached < FIRST * 2**rung:
            return "running"
        rivals = [t.rungs[rung] for t in search.trials if len(t.rungs) > rung]
        trial.rungs.append(trial.score)
        return "running" if trial.score >= halving_cutoff(trial.score, rivals, 2) else "pruned"


class Percentile(Scheduler):
    """Optuna's percentile pruner: below a quantile of the complete trials at the same report."""

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def judge(self, search: Search, trial: Trial) -> str:
        """Compare the trial's best report with the complete trials."""
        complete = [t for t in search.trials if t.state == "complete"]
        if len(complete) < 3:
            return "running"
        rivals = [t.curve[trial.reached - 1] for t in complete]
        cutoff = float(np.percentile(rivals, 100.0 * (1.0 - self.keep)))
        return "running" if trial.curve[: trial.reached].max() >= cutoff else "pruned"


class FirstThenBest(Scheduler):
    """All trials up to the first judgement, then the best of them to the end."""

    _share = 0.25

    def judge(self, search: Search, trial: Trial) -> str:
        """Pause every trial once."""
        return "paused" if trial.reached == FIRST else "running"

    def next(self, search: Search, sampler: Sampler) -> Trial:
        """Begin as many trials as the budget allows, then take the best that is not complete."""
        each = FIRST + self._share * (REPORTS - FIRST)
        paused = [trial for trial in search.trials if trial.state == "paused"]
        if len(search.trials) < int(search.budget / each) or not paused:
            return sampler.new()
        return max(paused, key=lambda trial: trial.score)


class Thaw(Scheduler):
    """`search.study.thaw`."""

    def judge(self, search: Search, trial: Trial) -> str:
        """Pause the trial if another one deserves the steps more."""
        prospects = search.known()
        new = prospect_of_new(prospects, search.cube, seed=search.seed)
        left = search.left()
        stops = pauses(prospects, trial.number, new, least_chance=LEAST_CHANCE, left=left)
        return "running" if stops is None else "paused"

    def next(self, search: Search, sampler: Sampler) -> Trial:
        """Return the paused or new trial that is worth its steps most."""
        if len(search.trials) < 2:
            return sampler.new()
        prospects = search.known()
        new = prospect_of_new(prospects, search.cube, seed=search.seed)
        choice = next_choice(prospects, new, least_chance=LEAST_CHANCE, left=search.left())
        if choice is None or choice.number is None:
            return sampler.new()
        return search.trials[choice.number]


SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "none": Scheduler,
    "halving": Halving,
    "median": lambda: Percentile(0.5),
    "percentile75": lambda: Percentile(0.75),
    "first_then_best": FirstThenBest,
    "thaw": Thaw,
}
