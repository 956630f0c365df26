"""Does the score favour networks that have learned the very degradation it judges by?

A network trained on pseudo pairs has seen the degradation that is fitted to real A, and the score
fits the same one. This module makes the score's pseudo pairs with *other* degradations, none of
which a training has seen: another blur, more and less noise, noise of another colour, and each time
other random numbers. A network that is as good as the score says holds its rank.
`score_validity.py judge --unfamiliar` uses it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from score_statistics import Interval, Numbers, bootstrap
from score_tables import OTHER_SCORE, Row, criteria
from torch import Tensor

from cyclegan.files import write_text
from cyclegan.metrics.spectrum import cylindrical_share
from cyclegan.score import Generator, Score
from cyclegan.score.degrade import Degradation

SEED = 1_000
"""Seed of the noise in all of them; a study's score uses 0."""
BLUR = 0.3
"""Change of the blur's sigma, in voxels of A."""
NOISE = 1.25
"""Factor on the noise's standard deviation."""
COLOUR = 1.0
"""Sigma in voxels of the Gaussian that makes the noise coarser, at the same variance."""
NEW_TERM = "lambdas.P_A"
"""The key that tells if a training has seen a degradation."""


def unfamiliar(fitted: Degradation) -> Mapping[str, Degradation]:
    """Return variants of the fitted degradation, by name; the first changes the noise only."""
    blurred, sharp = fitted.sigma + BLUR, max(fitted.sigma - BLUR, 0.0)
    return {
        "other noise": fitted,
        "more blur": dataclasses.replace(fitted, sigma=blurred),
        "less blur": dataclasses.replace(fitted, sigma=sharp),
        "more noise": dataclasses.replace(fitted, noise_power=fitted.noise_power * NOISE**2),
        "less noise": dataclasses.replace(fitted, noise_power=fitted.noise_power / NOISE**2),
        "white noise": _coloured(fitted, torch.ones_like(fitted.noise_power)),
        "coarser noise": _coloured(fitted, fitted.noise_power * _low_pass(fitted)),
    }


class Unfamiliar:
    """The scores of a generator by degradations that no training has seen."""

    def __init__(self, patches_A: Tensor, patches_B: Tensor, standard: Score) -> None:
        self.scores = {
            name: Score(
                patches_A,
                patches_B,
                super_resolution=standard.super_resolution,
                seed=SEED,
                degradation=degradation,
            )
            for name, degradation in unfamiliar(standard.pairs.degradation).items()
        }

    def __call__(self, G_A: Generator) -> dict[str, float]:
        """Return the score with each degradation, by the names of `columns`."""
        return {column_of(name): score(G_A).value for name, score in self.scores.items()}

    def cached(self, path: Path, G_A: Generator, *, again: bool = False) -> dict[str, float]:
        """Return the scores from the file `path`; compute and write it if it is missing."""
        if again or not path.exists():
            write_text(path, json.dumps(self(G_A)))
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return found


def column_of(name: str) -> str:
    """Return the column of a table with the score by this degradation."""
    return OTHER_SCORE + name


def print_favour(title: str, rows: list[Row], resamples: int) -> None:
    """Compare usable trainings with and without the new term, of a kind that can have it.

    If the first line is above 0, trainings with the term score higher than others of the same true
    PSNR; if the other lines are below 0, other degradations cost them more.
    """
    rows = [row for row in rows if NEW_TERM in row and row["gate"] is None]
    if not rows:
        return
    seen = np.array([float(row[NEW_TERM]) > 0 for row in rows])
    if not 2 <= seen.sum() <= len(seen) - 2:
        print(f"\n{title}: too few trainings with and without {NEW_TERM} to compare")
        return
    groups = np.array([row["configuration"] for row in rows])
    print(f"\n{title}: {seen.sum()} trainings with {NEW_TERM}, {(~seen).sum()} without")
    print("how much more the score of the former is than of the latter / dB")
    excess = favour(_numbers(rows, "value"), _numbers(rows, "psnr"), seen, groups, resamples)
    print(f"  {'score, at the same PSNR':30s} {excess}")
    for name, (column, _) in criteria(rows).items():
        change = _numbers(rows, column) - _numbers(rows, "value")
        found = favour(change, _numbers(rows, "psnr"), seen, groups, resamples)
        print(f"  {name + ', change':30s} {found}")


def favour(
    numbers: Numbers, quality: Numbers, seen: Numbers, groups: Numbers, resamples: int
) -> Interval:
    """Return the excess of `numbers` where `seen` over the others at the same `quality`.

    It is the coefficient of `seen` in a linear regression on `seen` and the quality.
    """

    def statistic(rows: Numbers) -> float:
        if len(np.unique(seen[rows])) < 2:
            return float("nan")
        design = np.stack([np.ones(len(rows)), quality[rows], seen[rows]], axis=1)
        return float(np.linalg.lstsq(design, numbers[rows], rcond=None)[0][2])

    return bootstrap(statistic, groups, resamples)


def _numbers(rows: list[Row], name: str) -> Numbers:
    return np.array([float(row[name]) for row in rows])


def _coloured(fitted: Degradation, power: Tensor) -> Degradation:
    """Return `fitted` with noise of the colour of `power` and the variance of its own noise."""
    share = torch.from_numpy(cylindrical_share(fitted.shape))
    variance = (share * fitted.noise_power).sum() / (share * power).sum().clamp_min(1e-30)
    return dataclasses.replace(fitted, noise_power=power * variance)


def _low_pass(fitted: Degradation) -> Tensor:
    """Return the share of the power that a Gaussian filter of `COLOUR` voxels leaves per bin."""
    z, y, x = fitted.shape
    n_z, n_r = fitted.noise_power.shape
    k_z, k_r = torch.arange(n_z) / z, torch.arange(n_r) / min(y, x)
    square = k_z[:, None] ** 2 + k_r[None, :] ** 2
    return torch.exp(-4 * torch.pi**2 * COLOUR**2 * square).double()
