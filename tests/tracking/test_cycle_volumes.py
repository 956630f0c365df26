"""Volumes of validations: which ones are stored, and a run's budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cyclegan.model import IMAGES
from cyclegan.validation import ValidationReport
from tracking.cycle_volumes import CycleVolume, CycleVolumes


def report(
    iteration: int, score: float = -5.0, *, size: int = 8, scale: int = 1, gate: str | None = None
) -> ValidationReport:
    shapes = {name: size * (scale if name.endswith("_B") else 1) for name in IMAGES}
    images = {name: torch.full((2, 1, n, n, n), float(iteration)) for name, n in shapes.items()}
    return ValidationReport(
        step=iteration, iteration=iteration, score=score, gate=gate, metrics={}, images=images
    )


def given(volumes: CycleVolumes, *reports: ValidationReport) -> list[int]:
    found = [v.about["iteration"] for each in reports for v in volumes.validated(each)]
    return [*found, *(v.about["iteration"] for v in volumes.ended())]


def begun(budget: float, written: set[int] | None = None) -> CycleVolumes:
    volumes = CycleVolumes(budget, "run")
    volumes.begin(written or set(), None)
    return volumes


def test_the_way_the_best_and_the_last_are_kept_once() -> None:
    scores = {300: -1.0, 1100: -3.0}
    reports = [report(i, scores.get(i, -5.0)) for i in range(100, 1200, 100)]
    assert given(begun(1e8), *reports) == [100, 200, 400, 800, 300, 1100]


def test_what_fails_a_gate_is_never_the_best() -> None:
    reports = [report(100), report(150, 5.0, gate="inverted"), report(180, -6.0)]
    assert given(begun(1e8), *reports) == [100, 180]


def test_a_run_that_goes_on_has_its_files() -> None:
    assert given(begun(1e8, {100, 200, 400}), report(500), report(900)) == [900, 500]


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("budget", [3e4, 3e5, 3e6])
def test_a_run_stays_within_its_budget(budget: float, scale: int) -> None:
    volumes = begun(budget)
    kept: list[CycleVolume] = []
    for i in range(1, 40):
        kept += volumes.validated(report(100 * i, float(i % 17), size=12, scale=scale))
    kept += volumes.ended()
    sizes = [sum(image.nbytes for image in volume.images.values()) for volume in kept]
    assert sum(sizes) <= budget
    assert kept[-1].about["iteration"] == 3900
    for volume in kept:  # a crop keeps the grids aligned
        shapes = {name: image.shape[2] for name, image in volume.images.items()}
        assert shapes["real_B"] == scale * shapes["real_A"]


def test_nothing_is_kept_without_a_budget() -> None:
    assert given(begun(0.0), report(100), report(200)) == []


def test_values_are_those_of_the_validation() -> None:
    volumes = begun(1e8)
    (volume,) = volumes.validated(report(100))
    assert np.all(volume.images["fake_B"] == 100.0)
