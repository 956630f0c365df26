"""The replay of searches: fair worlds, the same every time, and figures that mean what they say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Modules(NamedTuple):
    """The scripts under test."""

    pool: ModuleType
    worlds: ModuleType
    players: ModuleType
    accuracy: ModuleType
    replay: ModuleType


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modules]:
    """The scripts, with tables of made-up trainings in which `lr_g` counts most."""
    names = ("search_pool", "search_worlds", "search_players", "search_accuracy", "search_replay")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        pool, worlds, players, accuracy, replay = (importlib.import_module(name) for name in names)
        folder = tmp_path_factory.mktemp("tables")
        for module in (pool, worlds, replay):
            patch.setattr(module, "TABLES", folder)
        for number, name in enumerate(("phantom", "fibres")):
            pool._write_csv(folder / f"{name}.csv", list(_rows(pool, worlds, number)))
        values = zip(_names(pool), pool.configurations(), strict=True)
        pool._write_csv(
            folder / "configurations.csv", [{"configuration": n} | v for n, v in values]
        )
        patch.setattr(replay, "read_trainings", lambda name: worlds.read_trainings(name, folder))
        yield Modules(pool, worlds, players, accuracy, replay)
        for name in names:
            sys.modules.pop(name, None)


def _names(pool: ModuleType) -> list[str]:
    return [f"c{number:02d}" for number in range(pool.CONFIGURATIONS)]


def _rows(pool: ModuleType, worlds: ModuleType, number: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(number)
    fractions = worlds.FRACTIONS
    for name, values in zip(_names(pool), pool.configurations(), strict=True):
        place = np.array(worlds.unit(values))
        quality = -6.0 * float(((place - 0.4) ** 2 * np.array([5, 1, 1, 1, 0, 1, 0])).sum())
        for seed in range(pool.SEEDS):
            end = quality + 0.2 * random.normal()
            scores = 5.0 + end * (1.0 - np.exp(-fractions / 0.15)) + 2.0 * np.log(fractions)
            scores = scores + 0.1 * random.normal(size=len(scores))
            for step, score, quality_now in zip(
                range(pool.EVERY, pool.STEPS + 1, pool.EVERY),
                scores,
                24.0 + end * fractions,
                strict=True,
            ):
                yield {
                    "configuration": name,
                    "seed": seed,
                    "step": step,
                    "score": f"{score:.4g}",
                    "psnr": f"{quality_now:.4g}",
                }


BOTH = ("phantom", "fibres")


def outcome(modules: Modules, search: str, replays: int, workers: int = 1) -> Any:
    task = modules.replay.Task("phantom", BOTH, search, tuple(range(replays)), 6, workers)
    return modules.replay.play(task)


def test_configurations_are_the_recipe_and_points_of_the_whole_space(modules: Modules) -> None:
    found = modules.pool.configurations()
    assert len(found) == modules.pool.CONFIGURATIONS >= 65
    assert found[0]["lr_g"] == 1e-3
    assert found == modules.pool.configurations()
    for key, (low, high) in modules.pool.SPACE.items():
        values = np.log([values[key] for values in found[1:]])
        shares = (values - np.log(low)) / np.log(high / low)
        assert shares.min() > -1e-3 and shares.max() < 1 + 1e-3
        assert (np.histogram(shares, 4, (0, 1))[0] >= 12).all()


def test_every_member_has_a_valid_configuration(modules: Modules, tmp_path: Path) -> None:
    members = modules.pool.members(list(modules.pool.POOLS))
    assert len(members) == len(set(members)) == 2 * 65 * 3
    for member in members[:3]:
        values = modules.pool.configurations()[member.number]
        config = modules.pool.configuration(member, values, tmp_path)
        assert config.lambdas.I_B[0] == config.lambdas.I_A[0] == values["lambdas.I_A"]
        assert config.validate_every == modules.pool.EVERY


def test_a_world_answers_like_the_recorded_trainings(modules: Modules) -> None:
    trainings = modules.replay.trainings_of("phantom")
    figures = modules.accuracy.accuracy(trainings)
    assert figures["rho_psnr"] > 0.8
    maker = modules.replay.worlds_of("phantom")
    drawn = np.array([maker.draw(seed).quality(trainings.points) for seed in range(30)])
    recorded = trainings.psnr[..., -1].mean(axis=1)
    good = recorded > np.quantile(recorded, 0.3)
    assert np.abs(drawn.mean(axis=0) - recorded)[good].mean() < 0.4
    # Between the recorded points worlds differ from each other.
    points = np.random.default_rng(0).random((20, trainings.points.shape[1]))
    assert np.std([maker.draw(seed).quality(points) for seed in range(5)], axis=0).mean() > 0.05


def test_differences_vary_by_what_seeds_do_not_share(modules: Modules) -> None:
    """A race cancels the part of a seed that is common to all configurations, not the rest."""
    random = np.random.default_rng(0)
    shape = (300, 2, modules.worlds.REPORTS)
    scores = np.zeros(shape) + random.normal(size=(300, 1, 1)) + [[[0.0], [5.0]]]
    trainings = modules.worlds.Trainings(np.zeros((300, 1)), scores, scores)
    assert modules.accuracy.deviation_of_differences(trainings) == pytest.approx(0.0, abs=1e-9)
    noisy = scores + 0.3 * random.normal(size=(300, 2, 1))
    trainings = modules.worlds.Trainings(np.zeros((300, 1)), noisy, noisy)
    found = modules.accuracy.deviation_of_differences(trainings, share=1.0)
    assert found == pytest.approx(0.3 * np.sqrt(2.0), rel=0.1)


def test_good_configurations_have_the_noise_of_good_ones(modules: Modules) -> None:
    """Bad trainings differ much more between seeds; a good one must not be lucky by their noise."""
    random = np.random.default_rng(0)
    count, reports = 40, modules.worlds.REPORTS
    quality = np.linspace(-3.0, 0.0, count)
    noise = np.where(quality < -1.5, 0.6, 0.05)[:, None] * random.normal(size=(count, 2))
    rise = np.linspace(-4.0, 0.0, reports)
    scores = (quality[:, None] + noise)[..., None] + rise
    points = np.stack([quality / 3.0 + 1.0, random.random(count)], axis=1)
    trainings = modules.worlds.Trainings(points, scores, 20.0 + scores)
    world = modules.worlds.WorldMaker(trainings, np.array([0.5, 0.5])).draw(0)
    deviations = [
        np.std([world.trial(np.array([place, 0.5])).max() for _ in range(40)])
        for place in (0.2, 0.9)
    ]
    assert deviations[1] < 0.5 * deviations[0]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "scheduler", ["none", "halving", "percentile75", "first_then_best", "thaw"]
)
def test_a_replay_is_the_same_every_time_and_keeps_to_its_budget(
    modules: Modules, scheduler: str, workers: int
) -> None:
    name = f"random+{scheduler}"
    first, again = (outcome(modules, name, 2, workers) for _ in range(2))
    assert (first.regrets == again.regrets).all()
    assert (first.regrets > -0.5).all()
    task = modules.replay.Task("phantom", BOTH, name, (0,), 6, workers)
    search = modules.replay.searched(task, 0)
    assert sum(trial.reached for trial in search.trials) == search.budget
    assert len(search.history) == search.budget == 6 * modules.worlds.REPORTS
    running = sum(trial.state == "running" for trial in search.trials)
    assert running <= workers


@pytest.mark.parametrize("search", ["tpe+halving", "optuna_gp+none", "noisy_gp+thaw+prior"])
def test_a_search_can_begin_with_the_recipe(modules: Modules, search: str) -> None:
    for name, first in ((search, False), (f"{search}+recipe", True)):
        played = modules.replay.searched(modules.replay.Task("phantom", BOTH, name, (0,), 3), 0)
        assert np.allclose(played.trials[0].point, played.world.recipe) == first
        assert len(played.trials) > 1


def test_a_search_knows_nothing_of_its_own_pool(modules: Modules) -> None:
    (study,) = modules.replay.earlier_without("phantom", BOTH)
    others = modules.replay.trainings_of("fibres")
    assert len(study.points) == len(others.points)
    assert modules.replay.prior_without("phantom", BOTH).to_dict() == (
        modules.worlds.curve_prior(["fibres"], folder=modules.replay.TABLES).to_dict()
    )


def test_a_longer_search_begins_like_a_shorter_one(modules: Modules) -> None:
    """So random search with twice the iterations is a part of the one with eight times as many."""
    short, long = (
        modules.replay.play(modules.replay.Task("phantom", BOTH, "random+none", (0, 1), budget))
        for budget in (3, 6)
    )
    assert (long.regrets[:, : short.regrets.shape[1]] == short.regrets).all()
    assert (long.after(3) == short.regrets[:, -1]).all()


def made_up(modules: Modules, means: list[float]) -> Any:
    return modules.replay.Outcome(np.tile(means, (20, 1)), np.zeros(20))


def test_comparisons_with_random_search_are_those_of_the_iterations(modules: Modules) -> None:
    replay = modules.replay
    trainings = np.arange(1, 8 * 4 * 10 + 1) / 4
    random = made_up(modules, 200.0 - trainings)
    fast = made_up(modules, (200.0 - 2.0 * trainings)[:40])
    never = made_up(modules, np.full(40, 300.0))
    assert replay.ratio(random, random, 10) == pytest.approx((1.0, 1.0, 1.0))
    assert replay.ratio(random, fast, 10) == pytest.approx((2.0, 2.0, 2.0))
    assert replay.ratio(random, never, 10) == (0.0, 0.0, 0.0)
    assert replay.random_needs(random, random, 10) == pytest.approx((1.0, 1.0, 1.0))
    assert replay.random_needs(random, fast, 10) == pytest.approx((2.0, 2.0, 2.0))
    best = made_up(modules, np.zeros(40))
    assert replay.random_needs(random, best, 10) == (np.inf, np.inf, np.inf)
    assert replay.random_needs(random, never, 10)[0] == pytest.approx(0.1)
