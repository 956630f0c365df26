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
half and a quarter of the iterations; two comparisons with random search; and how often it chooses
worse than random search and than the recipe. The comparisons are

- how many times fewer iterations it needs until its mean regret is that of random search in the
  end. Where random search itself stops getting better early, this says little: compare with the
  figure of random search itself.
- how many times the iterations random search needs until its mean regret is that of the search in
  the end. Random search is played up to `LONGER` times the iterations for that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from search_accuracy import accuracy
from search_players import SAMPLERS, SCHEDULERS, Search
from search_pool import POOLS, STEPS, TABLES, recipe_values
from search_worlds import (
    REPORTS,
    Trainings,
    WorldMaker,
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
LONGER = 8
"""Random search is played with this many times the iterations."""
_EACH = 4
"""Number of times that the regret is recorded for each whole training's iterations."""
_PART = 10
"""Number of replays that a process plays at a time."""
_DRAWS = 500
"""Number of times that the replays are drawn anew for an interval."""
SEARCHES = (
    "random+none",
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
    "noisy_gp+percentile75+highest",
    "noisy_gp+percentile75+prior",
    "noisy_gp+percentile75+prior+recipe",
    "noisy_gp+none+prior+recipe",
    "noisy_gp+thaw",
    "noisy_gp+thaw+prior",
    "random+none+expected",
    "random+none+recipe",
    "noisy_gp+percentile75+recipe",
    "noisy_gp+thaw+recipe",
)
"""All searches: the sampler, the scheduler, and what else. `prior` knows the trainings of the other
pools, as a study by default knows those of all pools; `recipe` begins with the recipe's own values;
`expected` promotes the trial that is expected to be best, as `noisy_gp` does, and `highest` the one
with the highest score, as all others do."""
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
    return tuple(earlier_study(trainings_of(other)) for other in pools if other != pool)


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
        task.budget * REPORTS,
        task.workers,
        earlier_without(task.pool, task.pools) if "prior" in more else (),
        "recipe" in more,
        (sampler == "noisy_gp" and "highest" not in more) or "expected" in more,
        scheduler == "thaw",
    )
    search.run(SAMPLERS[sampler](search), SCHEDULERS[scheduler]())
    return search


@dataclass(frozen=True)
class Outcome:
    """All replays of one search on one pool."""

    regrets: Array
    """(replays, places): in dB, after each quarter of a whole training's iterations."""
    recipe: Array
    """(replays,): the recipe's own."""

    def after(self, trainings: float) -> Array:
        """Return the regrets (replays,) after the iterations of a number of whole trainings."""
        return np.asarray(self.regrets[:, round(_EACH * trainings) - 1])


def play(task: Task) -> Outcome:
    """Play some replays."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    places = np.arange(1, _EACH * task.budget + 1) / (_EACH * task.budget)
    regrets, recipe = [], []
    for seed in task.seeds:
        search = searched(task, seed)
        regrets.append(search.regrets(places))
        recipe.append(search.world.regret(search.world.recipe))
    return Outcome(np.array(regrets), np.array(recipe))


def _needed(regrets: Array, goal: float) -> float:
    """Return the iterations, in whole trainings, until the mean regret is as low as `goal`."""
    # Before a whole training is done there is nothing to promote.
    reached = np.flatnonzero(regrets.mean(axis=0)[_EACH - 1 :] <= goal)
    return float(reached[0] / _EACH + 1.0) if len(reached) else float("inf")


class Measured(NamedTuple):
    """A figure of a search with its interval (95 %), from bootstrapping the paired replays."""

    value: float
    low: float
    high: float


def _measured(count: int, figure: Callable[[NDArray[np.int64]], float]) -> Measured:
    random = np.random.default_rng(0)
    drawn = [figure(random.integers(count, size=count)) for _ in range(_DRAWS)]
    # "inverted_cdf": some of them may be infinite, between which nothing can be interpolated.
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Measured(figure(np.arange(count)), float(low), float(high))


def ratio(random: Outcome, other: Outcome, budget: int = BUDGET) -> Measured:
    """Return how many times fewer iterations `other` needs for the final result of random search.

    A search that does not get there within the budget has the ratio 0.
    """

    def one(chosen: NDArray[np.int64]) -> float:
        goal = float(random.after(budget)[chosen].mean())
        return budget / _needed(other.regrets[chosen, : _EACH * budget], goal)

    return _measured(len(random.regrets), one)


def random_needs(random: Outcome, other: Outcome, budget: int = BUDGET) -> Measured:
    """Return how many times the iterations random search needs for the final result of `other`.

    Infinite if it does not get there with `LONGER` times the iterations.
    """

    def one(chosen: NDArray[np.int64]) -> float:
        goal = float(other.after(budget)[chosen].mean())
        return _needed(random.regrets[chosen], goal) / budget

    return _measured(len(random.regrets), one)


Outcomes = dict[tuple[str, str], Outcome]
"""Outcomes by pool and search."""


def all_outcomes(
    options: argparse.Namespace, pools: Sequence[str], recorded: tuple[str, ...]
) -> Outcomes:
    """Play everything, `--jobs` processes at a time."""
    seeds = np.arange(options.replays)
    tasks = [
        Task(pool, recorded, search, tuple(map(int, part)), _budget(search), options.workers)
        for search in _wanted(options)
        for pool in pools
        for part in np.array_split(seeds, max(len(seeds) // _PART, 1))
    ]
    context = multiprocessing.get_context("spawn")
    parts: dict[tuple[str, str], list[Outcome]] = {}
    with ProcessPoolExecutor(options.jobs, mp_context=context) as workers:
        for done, (task, part) in enumerate(zip(tasks, workers.map(play, tasks), strict=True), 1):
            parts.setdefault((task.pool, task.search), []).append(part)
            if sys.stderr.isatty() or done % 20 == 0:
                print(f"{done} of {len(tasks)} parts", file=sys.stderr, flush=True)
    return {
        key: Outcome(
            np.concatenate([part.regrets for part in found]),
            np.concatenate([part.recipe for part in found]),
        )
        for key, found in parts.items()
    }


def _budget(search: str) -> int:
    return BUDGET * (LONGER if search == RANDOM else 1)


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
        found[pool][RANDOM]["longer_db"] = {
            str(times): round(float(random.after(times * BUDGET).mean()), 3)
            for times in (2, 4, LONGER)
        }
    return found


def _figures(outcome: Outcome, random: Outcome) -> dict[str, Any]:
    end, at_random = outcome.after(BUDGET), random.after(BUDGET)
    fewer, more, against = ratio(random, outcome), random_needs(random, outcome), end - at_random
    error = float(against.std() / np.sqrt(len(against)))
    return {
        "regret_db": round(float(end.mean()), 3),
        "at_half": round(float(outcome.after(BUDGET / 2).mean()), 3),
        "at_quarter": round(float(outcome.after(BUDGET / 4).mean()), 3),
        "worst_tenth_db": round(float(np.quantile(end, 0.9)), 3),
        "above_random_db": [round(float(against.mean()), 3), round(1.96 * error, 3)],
        "ratio": round(fewer.value, 2),
        "interval": [round(fewer.low, 2), round(fewer.high, 2)],
        "random_needs": _finite(more.value),
        "random_needs_interval": [_finite(more.low), _finite(more.high)],
        "worse_than_recipe": round(float((end > outcome.recipe).mean()), 3),
        "worse_than_random": round(float((against > 0.05).mean()), 3),
    }


def _finite(value: float) -> float | None:
    """Return a value for JSON, which knows no infinity."""
    return round(value, 2) if np.isfinite(value) else None


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
        count = _EACH * BUDGET
        curves = {
            "+".join(key): outcome.regrets[:, :count].mean(axis=0).tolist()
            for key, outcome in outcomes.items()
        }
        places = (STEPS / _EACH * np.arange(1, count + 1)).tolist()
        options.curves.write_text(json.dumps({"iterations": places, "regret_db": curves}))
    if options.json:
        print(json.dumps(found))
        return
    for pool, rows in found.items():
        print(f"\n{pool}: regret in dB (end, half, quarter), times fewer iterations, worse ...")
        for name, row in rows.items():
            print(_line(name, row))
        longer = rows[RANDOM]["longer_db"].items()
        print("random for " + ", ".join(f"{n} times as long {db:.3f}" for n, db in longer))


def _line(name: str, row: dict[str, Any]) -> str:
    regrets = " ".join(f"{row[key]:6.3f}" for key in ("regret_db", "at_half", "at_quarter"))
    low, high = row["interval"]
    needs = [row["random_needs"], *row["random_needs_interval"]]
    middle, least, most = (f"> {LONGER}" if times is None else f"{times:.2f}" for times in needs)
    return (
        f"{name:28s} {regrets}  x{row['ratio']:5.2f} [{low:.2f}, {high:.2f}]"
        f"  random needs x{middle} [{least}, {most}]"
        f"  than random {row['worse_than_random']:.2f},"
        f" than the recipe {row['worse_than_recipe']:.2f}"
    )


if __name__ == "__main__":
    main()
