"""Did a study choose the trial that is best in truth?

    cyclegan study run studies/find_recipe.yaml
    python benchmarks/study_truth.py find_recipe
    python benchmarks/study_truth.py demo --data data/demo

The script applies the best generator of each trial to the fast scan of the validation part. It
measures the result against the phantom's noise-free truth or, if there is none, against the slow
scan. It prints one line per trial, the best first, Spearman's correlation of the score with PSNR
and SSIM, and the loss of the study's choice against the best trial. For studies at 1x.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from score_truth import RIM, generator_of

from cyclegan.metrics.quality import affine_fit, psnr, ssim

LARGEST = 112
"""Most voxels along each axis that are measured."""
STEP = 8
"""Divisor of the window's size, as networks need it."""


class Judge:
    """The fast scan of the validation part and its reference."""

    def __init__(self, data: Path) -> None:
        truth = data / "validate_truth.h5"
        names = (data / "fast_validate.h5", truth if truth.exists() else data / "slow_validate.h5")
        self.source, self.reference = (_read(name) for name in names)

    def __call__(self, image: np.ndarray) -> tuple[float, float]:
        """Return PSNR in dB and SSIM after an affine fit, without the rim."""
        inner, reference = (x[RIM:-RIM, RIM:-RIM, RIM:-RIM] for x in (image, self.reference))
        fitted = affine_fit(inner, reference)(inner)
        return psnr(fitted, reference), ssim(fitted, reference)

    def best_gaussian(self) -> tuple[float, float]:
        """Return the same of the Gaussian filter with the highest PSNR."""
        return max(self(gaussian_filter(self.source, s)) for s in np.arange(0.0, 2.5, 0.1))


def _read(path: Path) -> np.ndarray:
    with h5py.File(path) as handle:
        size = [min(n // STEP * STEP, LARGEST) for n in handle["data"].shape]
        return np.ascontiguousarray(handle["data"][tuple(slice(n) for n in size)])


def trials_of(study: str) -> list[dict[str, Any]]:
    """Return the trials in the form of `cyclegan study show --json`."""
    command = ["cyclegan", "study", "show", study, "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    trials: list[dict[str, Any]] = json.loads(shown.stdout)["trials"]
    return trials


def main() -> None:
    """Measure every trial that has stored a generator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(options.data)
    patches = torch.from_numpy(judge.source)[None, None]
    rows = []
    for trial in trials_of(options.study):
        number = trial["number"]
        path = options.results / options.study / f"trial-{number:03d}" / "save" / "generator.pt"
        if trial["score"] is None or not path.exists():
            continue
        with torch.no_grad():
            image = generator_of(path)(patches)[0, 0].numpy()
        rows.append((number, trial["state"], trial["score"], *judge(image)))
    gaussian = judge.best_gaussian()
    print(f"best Gaussian filter: {gaussian[0]:.2f} dB, SSIM {gaussian[1]:.3f}")
    for number, state, score, quality, similarity in sorted(rows, key=lambda row: -row[3]):
        print(
            f"trial {number:3d} {state:9s} score {score:7.2f}  {quality:.2f} dB, SSIM"
            f" {similarity:.3f}"
        )
    for name, chosen in (
        ("all", rows),
        ("complete", [row for row in rows if row[1] == "complete"]),
    ):
        if len(chosen) > 2:
            scores, decibels, similar = (np.array([row[i] for row in chosen]) for i in (2, 3, 4))
            print(
                f"{name}: {len(chosen)} trials, rho with PSNR"
                f" {spearmanr(scores, decibels).statistic:.2f}, with SSIM"
                f" {spearmanr(scores, similar).statistic:.2f}, regret"
                f" {decibels.max() - decibels[scores.argmax()]:.2f} dB"
            )


if __name__ == "__main__":
    main()
