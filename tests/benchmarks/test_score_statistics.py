"""The statistics that validate the score, on numbers with known answers."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "score_statistics.py"


@pytest.fixture(scope="module")
def statistics() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_auc_of_parted_mixed_and_tied_groups(statistics: dict[str, Any]) -> None:
    auc = statistics["auc"]
    low, high = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])
    assert auc(high, low) == 1.0
    assert auc(low, high) == 0.0
    assert auc(low, low) == 0.5
    assert auc(np.array([1.0, 3.0]), np.array([2.0])) == 0.5


def test_regret_is_what_the_choice_of_each_seed_falls_short_of_the_best(
    statistics: dict[str, Any],
) -> None:
    quality = np.array([20.0, 21.0, 22.0, 20.0, 21.0, 22.0])
    seeds = np.array([0, 0, 0, 1, 1, 1])
    criterion = np.array([1.0, 2.0, 3.0, 9.0, 5.0, 1.0])  # the best, then the worst
    everything = np.arange(6)
    assert statistics["regret"](criterion, quality, seeds)(everything) == 1.0
    assert statistics["regret"](quality, quality, seeds)(everything) == 0.0
    assert statistics["regret_by_chance"](quality, seeds)(everything) == pytest.approx(1.0)


def test_rank_correlations_don_t_mind_the_scale(statistics: dict[str, Any]) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    for name in ("spearman", "kendall"):
        assert statistics[name](x, np.exp(x))(np.arange(4)) == pytest.approx(1.0)
        assert statistics[name](x, -x)(np.arange(4)) == pytest.approx(-1.0)


def test_the_interval_draws_groups_whole_and_covers_the_mean(statistics: dict[str, Any]) -> None:
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 2)
    values = np.repeat(random.normal(size=40), 2)  # the two seeds of a group agree

    def mean(rows: np.ndarray) -> float:
        return float(values[rows].mean())

    clustered = statistics["bootstrap"](mean, groups, 500)
    naive = statistics["bootstrap"](mean, np.arange(80), 500)
    assert clustered.low < clustered.value < clustered.high
    assert clustered.value == naive.value
    width = clustered.high - clustered.low
    assert width == pytest.approx(4 * values.std() / np.sqrt(40), rel=0.2)
    assert width > 1.2 * (naive.high - naive.low)
