"""The live comparison of searches: it goes on where it ended, and judges what is promoted."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def comparison() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        before = set(sys.modules)
        yield importlib.import_module("search_comparison")
        for name in set(sys.modules) - before:
            if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
                sys.modules.pop(name)


def trial(number: int, state: str, score: float, psnr: float) -> dict[str, Any]:
    return {
        "number": number,
        "state": state,
        "iteration": 100,
        "score": score,
        "psnr": psnr,
        "ssim": 0.5,
    }


def test_the_last_choice_is_the_trial_that_is_promoted(comparison: ModuleType) -> None:
    trials = [
        trial(0, "complete", 1.0, 20.0),
        trial(1, "pruned", 9.0, 25.0),
        trial(2, "complete", 0.5, 22.0),
        trial(3, "complete", 2.0, 21.0),
    ]
    points = comparison.choices(trials, last=2)
    assert points == [(100, 20.0, 0.5), (400, 21.0, 0.5), (400, 22.0, 0.5)]
    assert comparison.steps_to(points, 20.5) == 400
    assert comparison.steps_to(points, 30.0) == float("inf")


def test_what_was_found_is_read_back_from_the_table(comparison: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    assert comparison.read_table(path) == {}
    points = [comparison.Choice(600, 22.125, 0.5), comparison.Choice(9_600, 23.5, 0.625)]
    found = {
        name: comparison.Found(trials=16, complete=12, choices=points, again=[22.5, 22.25, 22.75])
        for name in ("phantom_2x-study-0", "phantom_1x-grid-2")
    }
    comparison.write_table(found, path)
    assert comparison.read_table(path) == found


def test_the_recorded_searches_spent_the_same_steps(comparison: ModuleType) -> None:
    """A study that may not spend more ends with the trial that runs then."""
    for name, found in comparison.read_table().items():
        assert found.choices[-1].steps <= comparison.BUDGET + comparison.STEPS, name
        assert found.choices[-1].steps >= 0.9 * comparison.BUDGET, name
