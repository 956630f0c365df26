"""Play searches on recorded trainings, thousands of times, without training anything.

    python benchmarks/search_replay.py --replays 200
    python benchmarks/search_replay.py --json

Every search (see `search_players.py`) is played on every pool of `benchmarks/search_pool/`, in
`--replays` different worlds (see `search_worlds.py`), the same for all searches. It spends the
iterations of `BUDGET` whole trainings; it sees scores, and is judged by the true PSNR, without the
noise of a seed, of the trial that it would promote. Nothing that it knows beforehand comes from
the pool on which it is played: its curve prior and, in `+prior`, its earlier studies are those of
the other pools.

Printed for each pool and search: the regret at the end (dB below the best candidate), after a
half and a quarter of the iterations; how many times fewer iterations than random search it needs
until its mean regret is that of random search in the end; and how often it chooses worse than
random search and than the recipe.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from search_players import SAMPLERS, SCHEDULERS, Search
from search_pool import POOLS, STEPS, TABLES, recipe_values
from search_worlds import (
    REPORTS,
    Trainings,
    WorldMaker,
    accuracy,
    curve_prior,
    earlier_study,
    read_trainings,
    unit,
)

from search.study.curves import CurvePrior
from search.study.prospects import EarlierStudy

Array = NDArray[np.float64]
BUDGET = 20
"""Iterations of a search in whole trainings."""
_PLACES = np.arange(1, 4 * BUDGET + 1) / (4 * BUDGET)
"""Shares of the budget at which the regret is recorded."""
_PART = 10
"""Number of replays that a process plays at a time."""
SEARCHES = (
    "random+none",
    "random+none+twice",
    "grid+none",
    "random+first_then_best",
    "random+halving",
    "random+percentile75",
    "random+thaw",
    "tpe+none",
    "tpe+halving",
    "tpe+median",
    "tpe+percentile75",
    "optuna_gp+none",
    "optuna_gp+halving",
    "noisy_gp+none",
    "noisy_gp+halving",
    "noisy_gp+percentile75",
    "noisy_gp+percentile75+prior",
    "noisy_gp+thaw",
    "noisy_gp+thaw+prior",
    "random+none+recipe",
    "noisy_gp+thaw+recipe",
)
"""All searches: the sampler, the scheduler, and what else. `twice` has twice the budget, `prior`
knows the trainings of the other pools, `recipe` begins with the recipe's own values."""
RANDOM = SEARCHES[0]


@cache
def trainings_of(pool: str) -> Trainings:
    """Return the trainings of a pool."""
    return read_trainings(pool)


@cache
def prior_without(pool: str, pools: tuple[str, ...]) -> CurvePrior:
    """Return the curve prior from all pools but one; from that one if there is no other."""
    others = [other for other in pools if other != pool] or [pools[0]]
    return curve_prior(others, folder=TABLES)


@cache
def earlier_without(pool: str, pools: tuple[str, ...]) -> tuple[EarlierStudy, ...]:
    """Return the other pools as earlier studies."""
    prior = prior_without(pool, pools)
    return tuple(earlier_study(trainings_of(other), prior) for other in pools if other != pool)


@cache
def worlds_of(pool: str) -> WorldMaker:
    """Return the maker of a pool's worlds."""
    return WorldMaker(trainings_of(pool), np.array(unit(recipe_values())))


@dataclass(frozen=True)
class Task:
    """Some replays of one search on one pool."""

    pool: str
    pools: tuple[str, ...]
    """All pools: the others say what is known beforehand."""
    search: str
    seeds: tuple[int, ...]
    budget: int = BUDGET
    workers: int = 1


def searched(task: Task, seed: int) -> Search:
    """Play one search and return it."""
    sampler, scheduler, *more = task.search.split("+")
    search = Search(
        worlds_of(task.pool).draw(seed),
        prior_without(task.pool, task.pools),
        seed,
        task.budget * REPORTS * (2 if "twice" in more else 1),
        task.workers,
        earlier_without(task.pool, task.pools) if "prior" in more else (),
        "recipe" in more,
    )
    search.run(SAMPLERS[sampler](search), SCHEDULERS[scheduler]())
    return search


def play(task: Task) -> tuple[Array, NDArray[np.bool_]]:
    """Return the regrets (replays, places), and whether the choice is worse than the recipe."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    regrets, worse = [], []
    for seed in task.seeds:
        search = searched(task, seed)
        regrets.append(search.regrets(_PLACES))
        worse.append(regrets[-1][-1] > search.world.regret(search.world.recipe))
    return np.array(regrets), np.array(worse)


@dataclass(frozen=True)
class Outcome:
    """All replays of one search on one pool."""

    regrets: Array
    worse: NDArray[np.bool_]
    budget: float = 1.0
    """Iterations of the search, relative to the others'."""


def _share_to(means: Array, goal: float) -> float:
    # Before a whole training is done there is nothing to promote.
    reached = np.flatnonzero((means <= goal) & (_PLACES >= 1.0 / BUDGET))
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


Outcomes = dict[tuple[str, str], Outcome]
"""Outcomes by pool and search."""


def all_outcomes(
    options: argparse.Namespace, pools: Sequence[str], recorded: tuple[str, ...]
) -> Outcomes:
    """Play everything, `--jobs` processes at a time."""
    seeds = np.arange(options.replays)
    tasks = [
        Task(pool, recorded, search, tuple(map(int, part)), workers=options.workers)
        for search in _wanted(options)
        for pool in pools
        for part in np.array_split(seeds, max(len(seeds) // _PART, 1))
    ]
    context = multiprocessing.get_context("spawn")
    parts: dict[tuple[str, str], list[tuple[Array, NDArray[np.bool_]]]] = {}
    with ProcessPoolExecutor(options.jobs, mp_context=context) as workers:
        for done, (task, part) in enumerate(zip(tasks, workers.map(play, tasks), strict=True), 1):
            parts.setdefault((task.pool, task.search), []).append(part)
            if sys.stderr.isatty() or done % 20 == 0:
                print(f"{done} of {len(tasks)} parts", file=sys.stderr, flush=True)
    return {
        key: Outcome(
            *(np.concatenate(arrays) for arrays in zip(*found, strict=True)),
            budget=2.0 if key[1].endswith("+twice") else 1.0,
        )
        for key, found in parts.items()
    }


def _wanted(options: argparse.Namespace) -> list[str]:
    chosen = [search for search in SEARCHES if not options.only or search in options.only]
    return [RANDOM, *(search for search in chosen if search != RANDOM)]


def report(outcomes: Outcomes, pools: Sequence[str]) -> dict[str, Any]:
    """Return the figures of all pools and searches."""
    found: dict[str, Any] = {}
    for pool in pools:
        random = outcomes[pool, RANDOM]
        found[pool] = {}
        for (where, search), outcome in outcomes.items():
            if where == pool:
                found[pool][search] = _figures(outcome, random)
    return found


def _figures(outcome: Outcome, random: Outcome) -> dict[str, Any]:
    means = outcome.regrets.mean(axis=0)
    times, low, high = ratio(random, outcome)
    against = outcome.regrets[:, -1] - random.regrets[:, -1]
    error = float(against.std() / np.sqrt(len(against)))
    return {
        "regret_db": round(float(means[-1]), 3),
        "at_half": round(float(means[len(means) // 2 - 1]), 3),
        "at_quarter": round(float(means[len(means) // 4 - 1]), 3),
        "worst_tenth_db": round(float(np.quantile(outcome.regrets[:, -1], 0.9)), 3),
        "above_random_db": [round(float(against.mean()), 3), round(1.96 * error, 3)],
        "ratio": round(times, 2),
        "interval": [round(low, 2), round(high, 2)],
        "worse_than_recipe": round(float(outcome.worse.mean()), 3),
        "worse_than_random": round(float((against > 0.05).mean()), 3),
    }


def main() -> None:
    """Play, and print the table or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="workers of each search")
    parser.add_argument("--pools", nargs="+", choices=list(POOLS))
    parser.add_argument("--only", nargs="+", choices=SEARCHES, help="play only these searches")
    parser.add_argument("--curves", type=Path, help="write the mean regrets here, as JSON")
    parser.add_argument("--json", action="store_true", help="print one line")
    options = parser.parse_args()
    recorded = tuple(pool for pool in POOLS if (TABLES / f"{pool}.csv").exists())
    if not options.json:
        for pool in options.pools or recorded:
            figures = accuracy(trainings_of(pool))
            print(f"{pool}: " + ", ".join(f"{k} {v:.2f}" for k, v in figures.items()), flush=True)
    pools = tuple(options.pools or recorded)
    outcomes = all_outcomes(options, pools, recorded)
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
