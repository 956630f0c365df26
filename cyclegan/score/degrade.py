"""A model that makes a slow scan look like a fast one: pseudo pairs with a known truth.

It is fitted to unpaired patches. With the slow domain B on A's grid (a mean over blocks of voxels
at 2x and 4x), the model of the fast domain A in Fourier space is

    A(k) = g H(k) B(k) + noise(k),    H(k) = exp(-2 pi^2 sigma^2 k^2),

with a gain `g` (each domain is standardised together with its noise, so structures in the noisier
one are fainter), a Gaussian blur and stationary Gaussian noise of any spectrum. The fit needs only
mean power spectra, hence no pairs:

    P_A(k) = g^2 H(k)^2 P_B(k) + P_noise(k).

The noise is binned over (k_z, k_r): Z is the rotation axis, and a tomogram's noise is coloured
within a slice by the ramp filter and nearly white between slices.

The model lacks streaks, rings and noise that depends on the signal. Trainings (`cyclegan.degrader`)
and the score (`residual_noise`) use other noise if it matches A better.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import (
    cylindrical_index,
    cylindrical_power,
    cylindrical_share,
    gaussian_low_pass,
    radial_power,
)

Array = NDArray[np.float64]

GAUSSIANS = (0.0, *(0.4 * 1.2**i for i in range(12)))
"""Sigmas that the baseline tries, in voxels of A."""
SIGMAS = tuple(0.05 * i for i in range(61))
"""Blurs that the fit tries, in voxels of A."""
TYPICAL_SIGMA = 1.0
"""Standard deviation of the Gaussian prior on the blur, in voxels of A: few patches leave the blur
uncertain, but detectors limit it."""
NOISE_BLURS = (0.0, 0.3, 0.6, 0.9)
"""Blurs of the ramp-filtered part of the noise that the fit tries, in voxels of A."""
MODEL_ERROR = 0.05
"""Relative error of the model's power, which no number of patches reduces."""
VARIANCE_ERROR = 0.05
"""Uncertainty of the statement that a domain has variance 1: patches miss coarser and rarer
structure."""
SEED_STREAM = 7_302_511_000
"""Offset of all seeds: data drawn elsewhere from the same small seed must not correlate with the
noise, which would then look like structure and make every filter look brilliant."""
TINY = 1e-12
"""Power that counts as zero."""
SIGNIFICANCE = 3.0
"""Standard errors by which P_A must exceed the signal's power to give an estimate of the noise."""


@dataclass(frozen=True)
class Degradation:
    """A fitted degradation B -> A.

    `gain` g and `sigma` (voxels of A) describe the signal, `factor` the ratio of the resolutions,
    `noise_power` (Kz, Kr) the density of the noise over the bins of `cylindrical_index(shape)`,
    `shape` (Z, Y, X) the patches of A.
    """

    gain: float
    sigma: float
    factor: int
    shape: tuple[int, int, int]
    noise_power: Tensor

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise, in units of the standardised domain A."""
        return math.sqrt(float((self.noise_power.numpy() * cylindrical_share(self.shape)).sum()))

    def signal(self, patches_B: Tensor) -> Tensor:
        """Return B (N, 1, sZ, sY, sX) with A's grid, gain and blur, but without noise.

        The result is (N, 1, Z, Y, X).
        """
        return self.gain * gaussian_low_pass(to_coarse(patches_B, self.factor), self.sigma)

    def noise(self, count: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw `count` volumes (count, 1, Z, Y, X) of noise on `device` with its own generator.

        The noise is stationary and Gaussian: white noise, filtered with the root of the power
        spectrum. The same seed gives the same noise on the same kind of device.
        """
        device = torch.device(device)
        generator = torch.Generator(device).manual_seed(SEED_STREAM + seed)
        white = torch.randn((count, 1, *self.shape), generator=generator, device=device)
        axes = (2, 3, 4)
        spectrum = torch.fft.rfftn(white, dim=axes) * self._amplitude(device)
        noise: Tensor = torch.fft.irfftn(spectrum, self.shape, dim=axes)
        return noise

    def apply(self, patches_B: Tensor, seed: int) -> Tensor:
        """Return B (N, 1, sZ, sY, sX) as a fast scan would show it, (N, 1, Z, Y, X)."""
        return self.signal(patches_B) + self.noise(patches_B.shape[0], seed).to(patches_B)

    def _amplitude(self, device: torch.device) -> Tensor:
        """Return the root of the noise's power at every frequency of `rfftn`.

        The result is (Z, Y, X // 2 + 1), float32.
        """
        if device not in self._amplitudes:
            index, _ = cylindrical_index(self.shape)
            power = self.noise_power.reshape(-1)[torch.from_numpy(index)]
            self._amplitudes[device] = power.sqrt().float().to(device)
        return self._amplitudes[device]

    @functools.cached_property
    def _amplitudes(self) -> dict[torch.device, Tensor]:
        """Cache by device, because a training step would wait for the copy."""
        return {}


def fit_degradation(patches_A: Tensor, patches_B: Tensor, factor: int = 1) -> Degradation:
    """Fit the degradation B -> A from unpaired patches.

    `patches_A` (N, 1, Z, Y, X) and `patches_B` (M, 1, sZ, sY, sX) with s = `factor` are
    standardised by domain. At least two of each are needed: the differences between patches give
    the uncertainty of the power. Errors: `DataError` if the shapes don't match or a domain has no
    structure.
    """
    on_grid = to_coarse(patches_B, factor)
    if on_grid.shape[1:] != patches_A.shape[1:]:
        raise DataError(
            f"patches of B have shape {tuple(patches_B.shape)} and of A {tuple(patches_A.shape)};"
            f" at super_resolution {factor} B's must be {factor} times A's along each axis"
        )
    if min(len(patches_A), len(patches_B)) < 2:
        raise DataError("the degradation needs at least 2 patches of each domain; give more")
    for name, patches in (("A", patches_A), ("B", patches_B)):
        if float(patches.double().var()) < TINY:
            raise DataError(f"all patches of {name} are constant; give patches that show structure")
    lost = float(patches_B.double().var() - on_grid.double().var())
    gain, sigma = _fit_signal(patches_A, on_grid, lost)
    shape = (on_grid.shape[2], on_grid.shape[3], on_grid.shape[4])
    noise = _fit_noise(patches_A, on_grid, gain, sigma)
    return Degradation(gain, sigma, factor, shape, torch.from_numpy(noise))


def to_coarse(volumes: Tensor, factor: int) -> Tensor:
    """Return `volumes` (N, 1, sZ, sY, sX) averaged over blocks of s^3 voxels: (N, 1, Z, Y, X)."""
    return volumes if factor == 1 else functional.avg_pool3d(volumes, factor)


def to_fine(volumes: Tensor, factor: int) -> Tensor:
    """Return `volumes` (N, 1, Z, Y, X) interpolated linearly, aligned as in `to_coarse`."""
    if factor == 1:
        return volumes
    return functional.interpolate(
        volumes, scale_factor=factor, mode="trilinear", align_corners=False
    )


def best_gaussian_mse(
    images: Tensor, truth: Tensor, rim: int, voxel: float = 1.0
) -> tuple[float, float]:
    """Return the least mean squared error of a Gaussian filter after an affine fit, and its sigma.

    This is the baseline of the gain. `images` and `truth` are (N, 1, Z, Y, X), with one sigma,
    slope and offset for all; `rim` voxels at every face don't count. The sigmas tried are
    `GAUSSIANS` times `voxel`; the one returned is in voxels.
    """
    cropped = crop(truth, rim)
    tried: list[tuple[float, float]] = []
    for sigma in GAUSSIANS:
        filtered = crop(gaussian_low_pass(images, sigma * voxel), rim)
        tried.append((float(fitted_mse(filtered, cropped)), sigma * voxel))
        # With wider filters the error falls, then rises: the search ends after the minimum.
        errors = [error for error, _ in tried[-3:]]
        if len(errors) == 3 and errors[0] < errors[1] < errors[2]:
            break
    return min(tried)


def fitted_mse(images: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared error of slope * `images` + offset, both chosen best for all."""
    x, y = images - images.mean(), truth - truth.mean()
    slope = (x * y).mean() / x.square().mean().clamp_min(1e-30)
    return (slope * x - y).square().mean()


def crop(volumes: Tensor, rim: int) -> Tensor:
    """Return `volumes` (N, 1, Z, Y, X) without `rim` voxels at each face."""
    return volumes[..., rim:-rim, rim:-rim, rim:-rim] if rim else volumes


def _fit_signal(patches_A: Tensor, patches_B: Tensor, lost: float) -> tuple[float, float]:
    """Return gain and sigma from fits of P_A as a non-negative sum of signal and smooth noise.

    For each blur, the noise has two shapes, flat and blurred ramp, which together cover the result
    of reconstructing white projections. They only keep the noise from passing as signal; the noise
    itself is estimated without them afterwards. `lost` is the variance of B that is finer than A's
    grid. The amount of structure in a few patches is a matter of luck, but the whole domains have
    variance 1, which gives one more equation: gain^2 * (1 - lost to the blur) + noise = 1.
    """
    from scipy.optimize import nnls

    k, rows_A = (tensor.numpy() for tensor in radial_power(patches_A))
    rows_B = radial_power(patches_B)[1].numpy()
    power_A, power_B = rows_A.mean(axis=0) + TINY, rows_B.mean(axis=0) + TINY
    error = np.hypot(MODEL_ERROR, np.hypot(_error(rows_A) / power_A, _error(rows_B) / power_B))
    total = _Total(patches_A, patches_B, lost)
    best = (math.inf, 1.0, 0.0)
    for sigma, blur in itertools.product(SIGMAS, NOISE_BLURS):
        signal = _gaussian_power(k, sigma) * power_B
        spectra = np.stack([signal, np.ones_like(k), k * _gaussian_power(k, blur)], axis=1)
        rows = np.vstack([spectra / (power_A * error)[:, None], total.row(sigma, blur)])
        scales = np.linalg.norm(rows, axis=0)
        weights, residual = nnls(rows / scales, np.append(1 / error, total.target))
        misfit = float(residual) ** 2 + (sigma / TYPICAL_SIGMA) ** 2
        best = min(best, (misfit, math.sqrt(weights[0] / scales[0]), sigma))
    return best[1], best[2]


class _Total:
    """The equation that domain A's variance is 1, divided by `VARIANCE_ERROR`.

    Its unknowns are those of `_fit_signal`: gain^2, flat and ramp noise. Beyond the sphere that
    the radial bins cover the signal is negligible: all of P_A there is noise.
    """

    def __init__(self, patches_A: Tensor, patches_B: Tensor, lost: float) -> None:
        k_z, k_r, rows_A = (tensor.numpy() for tensor in cylindrical_power(patches_A))
        self.share = cylindrical_share(patches_A.shape[2:])
        self.k = np.hypot(k_z[:, None], k_r[None, :])
        self.inside = self.share * (self.k <= 0.5)
        self.power_B = cylindrical_power(patches_B)[2].numpy().mean(axis=0)
        self.kept = max(1.0 - lost, 0.0)
        outside = ((self.share - self.inside) * rows_A.mean(axis=0)).sum()
        self.target = max(1.0 - outside, 0.0) / VARIANCE_ERROR

    def row(self, sigma: float, blur: float) -> Array:
        """Return what one unit of gain^2, of flat and of ramp noise adds to A's variance: (3,)."""
        blurred = (self.share * (1 - _gaussian_power(self.k, sigma)) * self.power_B).sum()
        ramp = (self.inside * self.k * _gaussian_power(self.k, blur)).sum()
        parts = [self.kept - blurred, self.inside.sum(), ramp]
        return np.array([float(part) / VARIANCE_ERROR for part in parts])


def _fit_noise(patches_A: Tensor, patches_B: Tensor, gain: float, sigma: float) -> Array:
    """Return the noise's power (Kz, Kr): the excess of P_A over the signal's power.

    In bins where the signal dominates, the difference says nothing about the noise: they get the
    mean over the other k_z at the same k_r, since the noise is nearly white between slices.
    """
    k_z, k_r, rows_A = (tensor.numpy() for tensor in cylindrical_power(patches_A))
    rows_B = cylindrical_power(patches_B)[2].numpy()
    transfer = gain**2 * _gaussian_power(np.hypot(k_z[:, None], k_r[None, :]), sigma)
    excess = rows_A.mean(axis=0) - transfer * rows_B.mean(axis=0)
    unsure = np.hypot(_error(rows_A), transfer * _error(rows_B))
    seen = excess > SIGNIFICANCE * unsure
    mean = np.where(seen, excess, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    # At most all of A's power: in a bin of few modes the mean of the others may exceed it.
    filled = np.minimum(np.broadcast_to(mean, excess.shape), rows_A.mean(axis=0))
    return np.asarray(np.maximum(np.where(seen, excess, filled), 0.0), dtype=np.float64)


def _error(rows: Array) -> Array:
    """Return the standard error of the mean over rows (N, ...)."""
    return np.asarray(rows.std(axis=0, ddof=1) / math.sqrt(len(rows)))


def _gaussian_power(k: Array, sigma: float) -> Array:
    """Return the factor of a Gaussian filter of `sigma` voxels on the power at frequencies `k`."""
    return np.asarray(np.exp(-4 * np.pi**2 * sigma**2 * k**2))
