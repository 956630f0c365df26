"""The benchmark of training curves prints the numbers of the trainings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("training_curve")


def record(seed: int, *values: float, **more: Any) -> dict[str, Any]:
    parts = {"score/spectrum_distance_db": 1.0, "score/noise_in_cycle_db": 2.0}
    rows = [
        {"step": i, "seconds": 10.0 * i, "score": v, "psnr": v, "ssim": 0.5, "parts": parts}
        for i, v in enumerate(values)
    ]
    return {"name": "n", "seed": seed, "rows": rows, **more}


@pytest.mark.parametrize(
    ("values", "fall"),
    [
        ([1.0, 2.0, 3.0], 0.0),
        ([1.0, 3.0, 2.0, 4.0, 3.5], 1.0),
        ([3.0, 2.0, 1.0], 2.0),
        ([5.0], 0.0),
    ],
)
def test_the_deepest_fall_is_below_the_best_before_not_the_best_of_all(
    benchmark: ModuleType, values: list[float], fall: float
) -> None:
    assert benchmark.deepest_fall(values) == fall


def test_a_line_has_means_at_the_end_and_the_worst_seed_s_fall(benchmark: ModuleType) -> None:
    line = benchmark.line_of("n", [record(0, 20.0, 22.0, 21.5), record(1, 20.0, 21.0, 22.5)])
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:6] == ["n", "2", "22.00 ± 0.50", "0.500 ± 0.000", "0.50", "0.50"]
    assert cells[7] == "1.000"
    assert cells[9] == "-"  # the checkerboard was not measured
    assert cells[-1] == "20"


def test_what_diverged_is_counted_but_not_averaged(benchmark: ModuleType) -> None:
    broken = record(1, 1.0, diverged="at step 1")
    assert "| 1 of 2 | 22.00 |" in benchmark.line_of("n", [record(0, 20.0, 22.0), broken])
    assert benchmark.line_of("n", [broken]) == "| n | all of 1 diverged |"
