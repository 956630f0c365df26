"""Do the trust maps find invented and removed structure better than chance?

    python benchmarks/trust_auc.py --scale 1 --folder data/trust1
    python benchmarks/trust_auc.py --scale 2 --folder data/trust2

The script simulates a fibre composite with a known truth, trains a small CycleGAN on the fast and
the slow scan (or takes a generator file) and enhances the validation scan with its trust maps. It
measures how well every map tells wrong voxels from right ones: the area under the ROC curve (AUC),
0.5 by chance, with an interval from resampling blocks of 16^3 voxels, as neighbours are not
independent.

A voxel is *wrong* if the enhanced volume, fitted to the truth by one slope and one offset, differs
from it there by more than a share of the contrast between fibre and resin, both low-passed over
half a fibre's radius. The truth is blurred like the slow scan, so that details that no slow scan
shows are not missed. A second test paints fibre-like pieces into the output, whatever the input
shows, at places that mirror each other, so that flips can't see them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_gradient_magnitude

from cyclegan import Trainer, parse_config
from cyclegan.enhance.network import Generator
from cyclegan.enhance.tiling import apply_tiled
from cyclegan.generator import load_generator, save_generators
from cyclegan.metrics.quality import affine_fit, compare_with_reference
from cyclegan.networks import UNet3d
from cyclegan.simulate import simulate
from cyclegan.simulate.phantom import ATTENUATION, FIBRE_DIAMETER, RESIN
from cyclegan.trust import TrustOperator

Image = np.ndarray

HALF_RADIUS = FIBRE_DIAMETER / 4
"""Standard deviation of the Gaussian low pass before the judgement, in voxels of the truth."""
SHARES = (0.15, 0.25, 0.5)
"""Shares of the contrast between fibre and resin beyond which a voxel is wrong."""
RIM = 8
"""Width in voxels of the rim that is not judged."""
BLOCK = 16
"""Side in voxels of the blocks that are resampled: about two fibres."""
BINS = 1024
"""Number of quantiles by which scores are ranked."""
NEAR_AIR = 8
"""Width in voxels of the margin around voids and breaks that the second table leaves out."""

NETWORKS = {1: ("UNetSim3d", "UNetSim3d"), 2: ("UNetSim3dSRx2", "UNetSim3dSRd2")}
SETTINGS = {
    "filters": 8,
    "activation": "leaky_relu",
    "init_std": 0.07,
    "filters_D": 16,
    "layers_D": 2,
    "norm_D": "none",
    "batch_size": 1,
    "validate_every": 50,
    "checkpoint_every": 1000,
    "ema_decay": 0.99,
    "precision": "fp32",
    "lossFuncs": dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan"),
    "lr_g": 9e-4,
    "lr_d": 1.6e-4,
}
LAMBDAS = {"G_A": 6, "G_B": 1, "D_A": 1, "D_B": 1, "C_A": 0.3, "C_B": 3, "I_A": 1, "I_B": 1}
LAMBDAS_SR = {"G_A": 1, "G_B": 1, "D_A": 1, "D_B": 1, "C_A": 0.7, "C_B": 12, "I_A": 9, "I_B": 9}


def trained(folder: Path, options: argparse.Namespace) -> Path:
    """Return the generator file: the given one, an earlier one, or one trained now."""
    path = options.generator or folder / f"generator-{options.steps}.pt"
    if path.exists():
        return path
    patch = 32 // options.scale
    config = parse_config(
        {
            **SETTINGS,
            "run_name": "trust-auc",
            "data_A": str(folder / "fast.json"),
            "data_B": str(folder / "slow.json"),
            "net_A": NETWORKS[options.scale][0],
            "net_B": NETWORKS[options.scale][1],
            "imsize_A": [patch] * 3,
            "super_resolution": options.scale,
            "lambdas": LAMBDAS if options.scale == 1 else LAMBDAS_SR,
            "steps": options.steps,
            "seed": options.seed,
        }
    )
    trainer = Trainer(config)
    result = trainer.fit()
    save_generators(trainer.model, path, step=trainer.step, score=result.score)
    return path


class Painting(Generator):
    """A generator that adds the same picture to all its outputs."""

    def __init__(self, network: UNet3d, picture: Image) -> None:
        super().__init__(network)
        self.picture = torch.from_numpy(picture)

    def translate(self, patch: torch.Tensor) -> torch.Tensor:
        """Translate as `Generator.translate`; the patch must be the whole volume."""
        return super().translate(patch) + self.picture


def fibre_pieces(shape: tuple[int, ...], amplitude: float, seed: int) -> Image:
    """Return pieces of fibres, bright and dark, 16 voxels long, mirrored along all axes."""
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    picture = np.zeros(shape, np.float32)
    for sign in (1, -1):
        place = [random.uniform(RIM + 8, n / 2 - 8) for n in shape]
        for mirrored in np.ndindex(2, 2, 2):
            cz, cy, cx = (
                n - 1 - c if m else c for n, c, m in zip(shape, place, mirrored, strict=True)
            )
            radius = np.hypot(y - cy, x - cx)
            disc = np.clip(FIBRE_DIAMETER / 2 - radius + 0.5, 0, 1)
            picture += np.float32(sign) * (disc * (np.abs(z - cz) < 8)).astype(np.float32)
    return amplitude * gaussian_filter(picture, 0.9)


class Judge:
    """AUC of scores with intervals, over the voxels of `counted`."""

    def __init__(self, wrong: Image, counted: Image, resamples: int) -> None:
        blocks = np.zeros(wrong.shape, np.int64)
        for axis, length in enumerate(wrong.shape):
            index = np.arange(length) // BLOCK
            shape = [-1 if a == axis else 1 for a in range(3)]
            blocks = blocks * (index.max() + 1) + index.reshape(shape)
        self.counted = np.flatnonzero(counted.ravel())
        self.wrong = wrong.ravel()[self.counted]
        _, self.block = np.unique(blocks.ravel()[self.counted], return_inverse=True)
        self.blocks = int(self.block.max()) + 1
        self.hit = len(np.unique(self.block[self.wrong]))
        random = np.random.default_rng(0)
        self.weights = random.multinomial(
            self.blocks, np.full(self.blocks, 1 / self.blocks), resamples
        )

    def __call__(self, score: Image) -> tuple[float, float, float, float]:
        """Return the AUC, the ends of its 95 % interval, and the lift of the 1 % highest scores."""
        values = score.ravel()[self.counted]
        edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
        place = np.searchsorted(edges, values) + BINS * self.block
        shape = (self.blocks, BINS)
        size = self.blocks * BINS
        right = np.bincount(place, ~self.wrong, minlength=size).reshape(shape)
        wrong = np.bincount(place, self.wrong, minlength=size).reshape(shape)
        aucs = _auc(self.weights @ wrong, self.weights @ right)
        top = values >= np.quantile(values, 0.99)
        lift = float(self.wrong[top].mean() / self.wrong.mean())
        low, high = np.nanpercentile(aucs, [2.5, 97.5])
        whole = _auc(wrong.sum(axis=0)[None], right.sum(axis=0)[None])[0]
        return float(whole), float(low), float(high), lift


def _auc(wrong: Image, right: Image) -> Image:
    """Return the AUC (N,) of histograms (N, bins); ties count half."""
    below = np.cumsum(right, axis=1) - right
    pairs = wrong.sum(axis=1) * right.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (wrong * (below + right / 2)).sum(axis=1) / pairs


def show(title: str, judge: Judge, scores: Mapping[str, Image]) -> None:
    """Print one table, the best score first."""
    print(f"\n{title}: {judge.wrong.mean():.3%} of {judge.wrong.size} voxels wrong, ", end="")
    print(f"in {judge.hit} of {judge.blocks} blocks")
    if judge.hit < 5:
        print("  too few blocks with wrong voxels to say anything")
        return
    print(f"  {'map':30s} {'AUC':>6s}  {'95 % interval':14s} {'lift of the highest 1 %':>24s}")
    rows = [(judge(score), name) for name, score in scores.items()]
    for (auc, low, high, lift), name in sorted(rows, reverse=True):
        print(f"  {name:30s} {auc:6.3f}  {low:.3f} to {high:.3f} {lift:23.1f}x")


def on_fine_grid(image: Image, factor: int) -> Image:
    """Repeat the voxels of (Z, Y, X) to factor x (Z, Y, X)."""
    for axis in range(3):
        image = np.repeat(image, factor, axis)
    return image


def baselines(image: Image, factor: int) -> dict[str, Image]:
    """Return scores that need no trust map, as baselines."""
    low = gaussian_filter(image, 1.5)
    noise = gaussian_filter((image - gaussian_filter(image, 1)) ** 2, 1.5)
    found = {
        "baseline: input's gradient": gaussian_gradient_magnitude(image, 1.5),
        "baseline: input's local noise": noise,
        "baseline: unusual grey value": np.abs(low - np.median(low)),
    }
    return {name: on_fine_grid(score, factor) for name, score in found.items()}


def read(path: Path) -> tuple[Image, Mapping[str, float]]:
    """Return a volume of the simulator and its attributes."""
    with h5py.File(path) as handle:
        return handle["data"][()], dict(handle["data"].attrs)


def maps_of(operator: TrustOperator, source: Image) -> tuple[Image, dict[str, Image]]:
    """Return the enhanced image and all maps on its grid, in one pass."""
    results = {name: image[0] for name, image in apply_tiled(operator, source).items()}
    enhanced = results.pop("data")
    factor = operator.factor
    return enhanced, {
        name: image if image.shape == enhanced.shape else on_fine_grid(image, factor)
        for name, image in results.items()
    }


def main() -> None:
    """Simulate, train, enhance, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the simulated data")
    parser.add_argument("--scale", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=1, help="seed of phantoms and training")
    parser.add_argument("--steps", type=int, default=250, help="steps of the training")
    parser.add_argument(
        "--generator", type=Path, help="generator file to use instead of a training"
    )
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    factor = options.scale
    simulate(options.folder, phantom=True, scale=factor, seed=options.seed)
    path = trained(options.folder, options)
    source, _ = read(options.folder / "fast_validate.h5")
    # Use whole multiples of the alignment: the mirror of a place is then a place, too.
    source = source[tuple(slice(0, n // 8 * 8) for n in source.shape)]
    fine = tuple(slice(0, n * factor) for n in source.shape)
    slow, truth = (
        read(options.folder / f"{name}.h5")[0][fine] for name in ("slow_validate", "validate_truth")
    )
    about = read(options.folder / "validate_truth.h5")[1]
    contrast = (1 - RESIN) * ATTENUATION / about["std"]

    G_A, G_B = (load_generator(path, direction).network for direction in "AB")

    def reader(origin: tuple[int, ...], size: tuple[int, ...]) -> Image:
        window = tuple(slice(o, o + n) for o, n in zip(origin, size, strict=True))
        return source[None][(slice(None), *window)]

    operator = TrustOperator(G_A, G_B).calibrated(reader, source.shape)
    enhanced, maps = maps_of(operator, source)
    print(f"{path}: against the slow scan")
    for row in compare_with_reference(enhanced, source, slow):
        print(
            f"  {row.name:14s} PSNR {row.psnr:.2f} dB  SSIM {row.ssim:.3f}  slope {row.slope:+.2f}"
        )
    print(f"calibration: {operator.calibration}")

    blurs = (0.0, 0.5, 0.7, 0.9, 1.1, 1.3)
    ideal = min(
        (gaussian_filter(truth, blur) for blur in blurs),
        key=lambda image: float(np.square(affine_fit(image, slow)(image) - slow).mean()),
    )
    fit = affine_fit(enhanced, ideal)
    error = np.abs(gaussian_filter(fit(enhanced) - ideal, HALF_RADIUS))
    counted = np.zeros(error.shape, bool)
    counted[(slice(RIM, -RIM),) * 3] = True
    air = truth < (0.5 * RESIN * ATTENUATION - about["mean"]) / about["std"]
    away = counted & ~binary_dilation(air, iterations=NEAR_AIR)
    scores = maps | baselines(source, factor)
    for share in SHARES:
        wrong = error > share * contrast
        for where, voxels in (("everywhere", counted), ("away from voids and breaks", away)):
            judge = Judge(wrong, voxels, options.resamples)
            show(f"wrong by {share:.2f} of the contrast, {where}", judge, scores)

    for share in (1.0, 0.5):
        amplitude = share * contrast / abs(fit.slope)
        picture = fibre_pieces(enhanced.shape, amplitude, options.seed)
        painting = TrustOperator(Painting(G_A, picture), G_B, calibration=operator.calibration)
        _, painted = maps_of(painting, source)
        judge = Judge(np.abs(picture) > amplitude / 2, counted, options.resamples)
        show(
            f"painted pieces of {share:.1f} x the contrast",
            judge,
            painted | baselines(source, factor),
        )


if __name__ == "__main__":
    main()
