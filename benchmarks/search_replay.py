"""Play searches on recorded trainings, thousands of times, without training anything.

    python benchmarks/search_replay.py --replays 200
    python benchmarks/search_replay.py --json

A search is a sampler, which chooses the values of new trials, and a scheduler, which says how long
each is trained. Every search is played on every pool of `benchmarks/search_pool/`, in `--replays`
different worlds (see `search_worlds.py`), the same for all searches. It spends the iterations of
`BUDGET` whole trainings; it sees scores, and is judged by the true PSNR, without the noise of a
seed, of the trial that it would promote. Its curve prior comes from the other pools alone.

Printed for each pool and search: the regret at the end (dB below the best candidate), after a
quarter and half of the iterations; how many iterations it needs, relative to the budget, until its
mean regret is that of random search in the end; and how often it chooses worse than the recipe.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from search_pool import EVERY, POOLS, STEPS, TABLES, recipe_values
from search_worlds import (
    FIRST,
    REPORTS,
    Trainings,
    World,
    WorldMaker,
    accuracy,
    curve_prior,
    grid,
    read_trainings,
    unit,
)

from cyclegan.score import GATED
from search.study.cube import Cube
from search.study.curves import CurvePrior
from search.study.prospects import KnownTrial, Prospects
from search.study.pruners import halving_cutoff
from search.study.space import FloatRange
from search.study.thaw import next_choice, pauses, proposal, prospect_of_new

Array = NDArray[np.float64]
BUDGET = 20
"""Iterations of a search in whole trainings."""
STARTUP = 5
LEAST_CHANCE = 0.05
_PLACES = np.arange(1, 2 * BUDGET + 1) / (2 * BUDGET)
"""Shares of the budget at which the regret is recorded."""


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


class Search:
    """One search in one world."""

    def __init__(self, world: World, prior: CurvePrior, seed: int, budget: int) -> None:
        self.world, self.prior, self.seed, self.budget = world, prior, seed, budget
        self.random = np.random.default_rng([5, seed])
        self.cube = Cube({str(k): FloatRange(low=0.0, high=1.0) for k in range(world.dimensions)})
        self.trials: list[Trial] = []
        self.spent = 0
        self.history: list[tuple[int, Trial]] = []
        """Spent reports, and the trial that would be promoted then."""

    def known(self) -> Prospects:
        """Return what our sampler and scheduler know."""
        states = {"pruned": "ended"}
        found = []
        for trial in self.trials:
            reports = trial.curve[: trial.reached]
            usable = reports > GATED + 1.0
            state: Any = states.get(trial.state, trial.state)
            found.append(
                KnownTrial(
                    number=trial.number,
                    state=state,
                    point=tuple(trial.point.tolist()),
                    reports={
                        (k + 1) * EVERY: float(value)
                        for k, value in enumerate(reports)
                        if usable[k]
                    },
                    score=trial.score if trial.state == "complete" else None,
                )
            )
        return Prospects(found, STEPS, self.prior, FIRST * EVERY)

    def begin(self, point: Array, asked: optuna.Trial | None = None) -> Trial:
        """Begin a trial at a point."""
        trial = Trial(len(self.trials), point, self.world.trial(point), asked=asked)
        self.trials.append(trial)
        return trial

    def train(self, trial: Trial, scheduler: Scheduler) -> None:
        """Train a trial until it is complete, the scheduler stops it, or the budget is spent."""
        trial.state = "running"
        while trial.state == "running" and self.spent < self.budget:
            trial.reached += 1
            self.spent += 1
            if trial.asked is not None:
                trial.asked.report(float(trial.curve[trial.reached - 1]), trial.reached * EVERY)
            if trial.reached == REPORTS:
                trial.state = "complete"
            elif trial.reached >= FIRST:
                trial.state = scheduler.judge(self, trial)
            self.history.append((self.spent, self.chosen()))

    def chosen(self) -> Trial:
        """Return the trial that would be promoted now."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        begun = complete or [trial for trial in self.trials if trial.reached]
        return max(begun, key=lambda trial: trial.score)

    def regrets(self) -> Array:
        """Return the regret in dB at `_PLACES` of the budget."""
        spent = np.array([place for place, _ in self.history])
        at = np.searchsorted(spent, np.ceil(_PLACES * self.budget - 1e-9).astype(int))
        last = len(self.history) - 1
        chosen = [self.history[min(i, last)][1].point for i in at]
        return self.world.best - self.world.quality(np.array(chosen))


# -- Samplers ----------------------------------------------------------------------------------


class Sampler:
    """Chooses the values of new trials; this one at random."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def new(self) -> Trial:
        """Begin a trial."""
        return self.search.begin(self.search.random.random(self.search.world.dimensions))

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
    """`search.study.thaw.proposal`."""

    def new(self) -> Trial:
        """Begin the trial that is worth most."""
        search, number = self.search, len(self.search.trials)
        place = proposal(search.known(), number, search.cube, startup=STARTUP, seed=search.seed)
        return search.begin(place)


class FromOptuna(Sampler):
    """A sampler of Optuna."""

    def __init__(self, search: Search, sampler: optuna.samplers.BaseSampler) -> None:
        super().__init__(search)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        names = [f"x{k}" for k in range(search.world.dimensions)]
        self.space: dict[str, BaseDistribution] = {
            name: FloatDistribution(0.0, 1.0) for name in names
        }

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
    "ours": Ours,
}


# -- Schedulers --------------------------------------------------------------------------------


class Scheduler:
    """Says how long trials are trained; this one trains all to the end."""

    def judge(self, search: Search, trial: Trial) -> str:
        """Return the state of a trial after a report: `running`, `paused` or `pruned`."""
        return "running"

    def run(self, search: Search, sampler: Sampler) -> None:
        """Play a whole search."""
        while search.spent < search.budget:
            trial = sampler.new()
            search.train(trial, self)
            if trial.state != "running":
                sampler.told(trial)


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
    """All trials up to the first judgement, then the best few of them to the end."""

    _share = 0.25

    def judge(self, search: Search, trial: Trial) -> str:
        """Pause every trial once."""
        return "paused" if trial.reached == FIRST else "running"

    def run(self, search: Search, sampler: Sampler) -> None:
        """Begin as many trials as the budget allows, and finish the best."""
        each = FIRST + self._share * (REPORTS - FIRST)
        for _ in range(int(search.budget / each)):
            search.train(sampler.new(), self)
        for trial in sorted(search.trials, key=lambda t: -t.score):
            if search.spent < search.budget:
                search.train(trial, self)


class Thaw(Scheduler):
    """`search.study.thaw`."""

    def judge(self, search: Search, trial: Trial) -> str:
        """Pause the trial if another one deserves the steps more."""
        prospects = search.known()
        new = prospect_of_new(prospects, search.cube, seed=search.seed)
        stops = pauses(prospects, trial.number, new, least_chance=LEAST_CHANCE)
        return "running" if stops is None else "paused"

    def run(self, search: Search, sampler: Sampler) -> None:
        """Give the steps to paused and new trials."""
        while search.spent < search.budget:
            trial = self._next(search) or sampler.new()
            search.train(trial, self)
            if trial.asked is not None and trial.state != "running":
                sampler.told(trial)

    def _next(self, search: Search) -> Trial | None:
        if len(search.trials) < 2:
            return None
        prospects = search.known()
        new = prospect_of_new(prospects, search.cube, seed=search.seed)
        choice = next_choice(prospects, new, least_chance=LEAST_CHANCE)
        return None if choice is None or choice.number is None else search.trials[choice.number]


SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "none": Scheduler,
    "halving": Halving,
    "median": lambda: Percentile(0.5),
    "percentile75": lambda: Percentile(0.75),
    "first_then_best": FirstThenBest,
    "thaw": Thaw,
}
SEARCHES = (
    ("random", "none"),
    ("grid", "none"),
    ("random", "first_then_best"),
    ("random", "halving"),
    ("random", "percentile75"),
    ("random", "thaw"),
    ("tpe", "none"),
    ("tpe", "halving"),
    ("tpe", "median"),
    ("tpe", "percentile75"),
    ("optuna_gp", "none"),
    ("optuna_gp", "halving"),
    ("ours", "none"),
    ("ours", "halving"),
    ("ours", "percentile75"),
    ("ours", "thaw"),
)
"""All searches that are played; our sampler with our scheduler is the last."""


# -- Replays -----------------------------------------------------------------------------------


@cache
def trainings_of(pool: str) -> Trainings:
    """Return the trainings of a pool."""
    return read_trainings(pool)


@cache
def prior_without(pool: str | None, pools: tuple[str, ...]) -> CurvePrior:
    """Return the curve prior from all pools but one; from that one if there is no other."""
    others = [other for other in pools if other != pool] or [pools[0]]
    return curve_prior([trainings_of(other) for other in others])


@cache
def worlds_of(pool: str) -> WorldMaker:
    """Return the maker of a pool's worlds."""
    return WorldMaker(trainings_of(pool), np.array(unit(recipe_values())))


@dataclass(frozen=True)
class Task:
    """Some replays of one search on one pool."""

    pool: str
    pools: tuple[str, ...]
    sampler: str
    scheduler: str
    seeds: tuple[int, ...]
    budget: int


def play(task: Task) -> tuple[Array, NDArray[np.bool_]]:
    """Return the regrets (replays, places), and whether the choice is worse than the recipe."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    regrets, worse = [], []
    for seed in task.seeds:
        world = worlds_of(task.pool).draw(seed)
        prior = prior_without(task.pool, task.pools)
        search = Search(world, prior, seed, task.budget * REPORTS)
        SCHEDULERS[task.scheduler]().run(search, SAMPLERS[task.sampler](search))
        regrets.append(search.regrets())
        worse.append(search.regrets()[-1] > world.regret(world.recipe))
    return np.array(regrets), np.array(worse)


@dataclass(frozen=True)
class Outcome:
    """All replays of one search on one pool."""

    regrets: Array
    worse: NDArray[np.bool_]
    budget: float = 1.0
    """Iterations of the search, relative to the others'."""


def _share_to(means: Array, goal: float) -> float:
    reached = np.flatnonzero(means <= goal)
    return float(_PLACES[reached[0]]) if len(reached) else float("inf")


def ratio(random: Outcome, other: Outcome, draws: int = 500) -> tuple[float, float, float]:
    """Return how many times fewer iterations `other` needs for random's result, with its interval.

    The interval (95 %) comes from bootstrapping the replays, which are paired. A search that does
    not get there within the budget has the ratio 0.
    """
    rng = np.random.default_rng(0)
    count = len(random.regrets)

    def one(chosen: NDArray[np.int64]) -> float:
        goal = float(random.regrets[chosen, -1].mean())
        return 1.0 / (other.budget * _share_to(other.regrets[chosen].mean(axis=0), goal))

    found = [one(rng.integers(count, size=count)) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return one(np.arange(count)), float(low), float(high)


def all_outcomes(
    options: argparse.Namespace, pools: tuple[str, ...]
) -> dict[tuple[str, str, str], Outcome]:
    """Play everything, `--jobs` processes at a time."""
    seeds = np.arange(options.replays)
    tasks = [
        Task(pool, pools, sampler, scheduler, tuple(map(int, part)), budget)
        for pool in pools
        for sampler, scheduler, budget in _wanted(options)
        for part in np.array_split(seeds, max(len(seeds) // 20, 1))
    ]
    context = multiprocessing.get_context("spawn")
    parts: dict[tuple[str, str, str], list[tuple[Array, NDArray[np.bool_]]]] = {}
    with ProcessPoolExecutor(options.jobs, mp_context=context) as workers:
        for done, (task, part) in enumerate(zip(tasks, workers.map(play, tasks), strict=True), 1):
            name = task.scheduler if task.budget == BUDGET else "twice"
            parts.setdefault((task.pool, task.sampler, name), []).append(part)
            if sys.stderr.isatty() or done % 20 == 0:
                print(f"{done} of {len(tasks)} parts", file=sys.stderr, flush=True)
    return {
        key: Outcome(
            *(np.concatenate(arrays) for arrays in zip(*found, strict=True)),
            budget=2.0 if key[2] == "twice" else 1.0,
        )
        for key, found in parts.items()
    }


def _wanted(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    chosen = [s for s in SEARCHES if not options.only or "+".join(s) in options.only]
    if ("random", "none") not in chosen:
        chosen.insert(0, ("random", "none"))
    return [(*search, BUDGET) for search in chosen] + [("random", "none", 2 * BUDGET)]


def report(outcomes: dict[tuple[str, str, str], Outcome], pools: Sequence[str]) -> dict[str, Any]:
    """Return the figures of all pools and searches."""
    found: dict[str, Any] = {}
    for pool in pools:
        random = outcomes[pool, "random", "none"]
        found[pool] = {}
        for (where, sampler, scheduler), outcome in outcomes.items():
            if where != pool:
                continue
            means = outcome.regrets.mean(axis=0)
            times, low, high = ratio(random, outcome)
            found[pool][f"{sampler}+{scheduler}"] = {
                "regret_db": round(float(means[-1]), 3),
                "at_half": round(float(means[len(means) // 2 - 1]), 3),
                "at_quarter": round(float(means[len(means) // 4 - 1]), 3),
                "worst_tenth_db": round(float(np.quantile(outcome.regrets[:, -1], 0.9)), 3),
                "ratio": round(times, 2),
                "interval": [round(low, 2), round(high, 2)],
                "worse_than_recipe": round(float(outcome.worse.mean()), 3),
                "worse_than_random": round(
                    float((outcome.regrets[:, -1] > random.regrets[:, -1] + 0.05).mean()), 3
                ),
            }
    return found


def main() -> None:
    """Play, and print the table or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--pools", nargs="+", choices=list(POOLS))
    parser.add_argument("--only", nargs="+", help="searches, such as tpe+halving")
    parser.add_argument("--curves", type=Path, help="write the mean regrets here, as JSON")
    parser.add_argument("--json", action="store_true", help="print one line")
    options = parser.parse_args()
    recorded = [pool for pool in POOLS if (TABLES / f"{pool}.csv").exists()]
    pools = tuple(options.pools or recorded)
    if not options.json:
        for pool in pools:
            figures = accuracy(trainings_of(pool))
            print(f"{pool}: " + ", ".join(f"{k} {v:.2f}" for k, v in figures.items()), flush=True)
    outcomes = all_outcomes(options, pools)
    found = report(outcomes, pools)
    if options.curves:
        curves = {"+".join(key): o.regrets.mean(axis=0).tolist() for key, o in outcomes.items()}
        places = (_PLACES * BUDGET * STEPS).tolist()
        options.curves.write_text(json.dumps({"iterations": places, "regret_db": curves}))
    if options.json:
        print(json.dumps(found))
        return
    for pool, rows in found.items():
        print(f"\n{pool}: regret in dB (end, half, quarter), times fewer iterations, worse ...")
        for name, row in rows.items():
            print(
                f"{name:24s} {row['regret_db']:6.3f} {row['at_half']:6.3f} {row['at_quarter']:6.3f}"
                f"  x{row['ratio']:5.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"
                f"  than random {row['worse_than_random']:.2f},"
                f" than the recipe {row['worse_than_recipe']:.2f}"
            )


if __name__ == "__main__":
    main()
