"""Does the reference-free score rank plain filters as the slow scan does?

    cyclegan simulate data/demo && python benchmarks/score_ranking.py

The script applies filters (Gaussian, median, total variation, sharpening) to the simulated fast
scan as if they were generators, scores them without reference, and measures them against the slow
scan of the same part. It prints the table and Spearman's rank correlation. A filter is no CycleGAN:
the result shows if the score's parts point the right way, not how well the score chooses among
trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, median_filter
from scipy.stats import spearmanr
from skimage.restoration import denoise_tv_chambolle

from cyclegan.data import DatasetSpec, PatchSampler, Volume
from cyclegan.metrics.quality import affine_fit, psnr, ssim
from cyclegan.score import Score

Filter = Callable[[np.ndarray], np.ndarray]


def filters() -> dict[str, Filter]:
    """Return filters by name, from none to far too strong ones."""
    chosen: dict[str, Filter] = {"nothing": lambda x: x}
    for sigma in (0.5, 0.7, 0.9, 1.2, 1.6, 2.2):
        chosen[f"Gaussian {sigma}"] = lambda x, s=sigma: gaussian_filter(x, s)
    for size in (3, 5):
        chosen[f"median {size}"] = lambda x, n=size: median_filter(x, n)
    for weight in (0.1, 0.2, 0.4, 0.8, 1.6):
        chosen[f"total variation {weight}"] = lambda x, w=weight: denoise_tv_chambolle(x, w)
    for amount in (0.5, 1.0):
        chosen[f"sharpened {amount}"] = lambda x, a=amount: x + a * (x - gaussian_filter(x, 1.0))
    return chosen


def as_generator(function: Filter, gain: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a filter as a map of patches (B, 1, Z, Y, X), with the contrast of domain B."""

    def apply(patches: torch.Tensor) -> torch.Tensor:
        images = [gain * function(p[0].numpy().astype(np.float64)) for p in patches]
        return torch.from_numpy(np.stack(images)[:, None]).float()

    return apply


def main() -> None:
    """Score and measure every filter, print the table and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    parser.add_argument("--patches", type=int, default=16)
    options = parser.parse_args()
    fast, slow = (
        Volume(DatasetSpec.load(options.data / f"{name}.json").validate[0])
        for name in ("fast", "slow")
    )
    size = (32, 32, 32)
    patches_A, patches_B = (
        PatchSampler([volume], size, seed=(number,), flips=False).draw(options.patches)
        for number, volume in enumerate((fast, slow))
    )
    score = Score(patches_A, patches_B)
    source, reference = (v.read((0, 0, 0), v.shape)[0] for v in (fast, slow))
    rows = []
    for name, function in filters().items():
        report = score(as_generator(function, 1 / score.pairs.degradation.gain))
        image = function(source.astype(np.float64))
        fitted = affine_fit(image, reference)(image)
        rows.append((name, report.value, psnr(fitted, reference), ssim(fitted, reference)))
    print(f"{'filter':22s} {'score':>7s} {'PSNR / dB':>10s} {'SSIM':>6s}")
    for name, value, decibels, similarity in sorted(rows, key=lambda row: -row[1]):
        print(f"{name:22s} {value:7.2f} {decibels:10.2f} {similarity:6.3f}")
    for index, measure in ((2, "PSNR"), (3, "SSIM")):
        rho = spearmanr([row[1] for row in rows], [row[index] for row in rows]).statistic
        print(f"Spearman of score and {measure}: {rho:.2f} ({len(rows)} filters)")


if __name__ == "__main__":
    main()
