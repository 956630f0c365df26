"""A numerical parallel-beam scanner: from an attenuation map to a noisy reconstruction.

Its steps, in the order of the physics: photons through the sample, binning of detector pixels,
counting noise (Poisson), the scintillator's blur (point spread function), read noise, division by a
noisy flat field (the same for all angles, hence rings), minus logarithm, filtered back-projection.

All slices of a parallel-beam scan have the same geometry. So one sparse matrix per few angles
serves all slices at once: its rows are the pixels of a slice, its columns (angle, detector bin),
and each pixel has two linear weights per angle. The matrix back-projects, its transpose projects
(pixel-driven projection; Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988,
chapter 3). The rotation axis is Z and goes through the middle of the slice and of the detector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclegan.errors import ConfigError, DataError, UsageError
from cyclegan.numbers import round_up

if TYPE_CHECKING:
    from scipy.sparse import csr_array


Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK = 8
"""Angles per matrix: few enough to stay in the cache, many enough to amortise the call."""

OVERSAMPLING = 2
"""Bins per detector pixel when projecting; see `project`."""


def detector_pixels(size: int, multiple: int = 1) -> int:
    """Return how many (unbinned) detector pixels see a `size` x `size` slice at every angle.

    The result is a multiple of `multiple`, with a spare pixel at each end for the linear weights.
    """
    return round_up(math.ceil(size * math.sqrt(2)) + 2, multiple)


def splat_matrix(size: int, angles: Float64, bins: int, bin_width: float) -> csr_array[Any, Any]:
    """Return the matrix of `angles` (radians): (size * size, len(angles) * bins), CSR, float32.

    `bin_width` is in pixels of the slice. Errors: `DataError` if the detector is too short: an
    index past its end would silently corrupt the neighbouring angle.
    """
    from scipy.sparse import csr_array

    centred = np.arange(size) - (size - 1) / 2
    # One row of `position` per pixel, in the order of a flattened (Y, X) slice.
    position = (
        centred[:, None, None] * np.sin(angles) + centred[None, :, None] * np.cos(angles)
    ).reshape(size * size, len(angles)) / bin_width + (bins - 1) / 2
    left = np.floor(position).astype(np.int32)
    if left.min() < 0 or left.max() > bins - 2:
        raise DataError(
            f"a detector of {bins} bins of {bin_width} pixels is too short for slices of "
            f"{size} x {size} pixels; it must cover the diagonal"
        )
    weight = (position - left).astype(np.float32)
    column = left + np.arange(len(angles), dtype=np.int32) * bins
    return csr_array(
        (
            np.stack([1 - weight, weight], axis=-1).ravel(),
            np.stack([column, column + 1], axis=-1).ravel(),
            np.arange(size * size + 1) * (2 * len(angles)),
        ),
        shape=(size * size, len(angles) * bins),
    )


def project(columns: Float32, angles: Float64, pixels: int) -> Float32:
    """Return the line integrals (angles, pixels, Z) of slices given as `columns`, (Y * X, Z).

    The values are integrals along the ray, in the unit of `columns` times a pixel's width. Rays
    are drawn into bins half as wide as a pixel, then summed: if the scan used the same weights as
    the reconstruction, the errors of both would stay hidden (the "inverse crime").
    """
    size, bins = math.isqrt(columns.shape[0]), pixels * OVERSAMPLING
    matrix = splat_matrix(size, angles, bins, 1 / OVERSAMPLING)
    fine = matrix.T @ columns
    lines: Float32 = fine.reshape(len(angles), pixels, OVERSAMPLING, -1).sum(axis=2)
    return lines


def back_project(sinogram: Float32, angles: Float64, size: int) -> Float32:
    """Return the sum of a filtered sinogram (angles, pixels, Z) over its rays: (size * size, Z)."""
    matrix = splat_matrix(size, angles, sinogram.shape[1], 1.0)
    image: Float32 = matrix @ sinogram.reshape(-1, sinogram.shape[2])
    return image


def ramp_filter(sinogram: Float32, pixel_width: float = 1.0) -> Float32:
    """Filter (angles, pixels, Z) along the detector with a ramp times a Hann window.

    The ramp is sampled in space, not in frequency, which keeps the mean of the image right
    (Kak and Slaney 1988, eq. 3.61), and zero-padded to twice the detector so that it doesn't
    wrap around. `pixel_width` is in the unit of length to which the image's attenuation refers.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    pixels = sinogram.shape[1]
    padded = next_fast_len(2 * pixels, real=True)
    distance = np.minimum(np.arange(padded), padded - np.arange(padded))
    odd = distance % 2 == 1
    kernel = np.zeros(padded)
    kernel[odd] = -1 / (math.pi * distance[odd]) ** 2
    kernel[0] = 0.25
    hann = 0.5 * (1 + np.cos(2 * math.pi * np.fft.rfftfreq(padded)))
    response = (rfft(kernel).real * hann / pixel_width).astype(np.float32)
    spectrum = rfft(sinogram, n=padded, axis=1) * response[:, None]
    filtered: Float32 = irfft(spectrum, n=padded, axis=1)[:, :pixels]
    return np.ascontiguousarray(filtered, dtype=np.float32)


Half = Literal["all", "even", "odd"]


@dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """Settings of a scan. Errors: `ConfigError` that names the impossible field."""

    angles: int
    """Number of projections, evenly spaced over 180 degrees."""
    photons: float
    """Photons per unbinned detector pixel and projection, without a sample."""
    binning: int = 1
    """Pixels summed along each axis; this shrinks the reconstruction in Z, Y and X."""
    flats: int = 20
    """Number of averaged flat-field exposures; the fewer, the stronger the rings."""
    psf_pixels: float = 0.6
    """Standard deviation of the Gaussian point spread function, in binned pixels."""
    read_noise: float = 5.0
    """Standard deviation of the electronics' noise, in photons, per binned pixel."""
    crop: int = 8
    """Voxels (unbinned) cut from each in-plane side, where the sample meets the air."""

    def __post_init__(self) -> None:
        lowest = {"angles": 2, "binning": 1, "flats": 2, "psf_pixels": 0, "read_noise": 0}
        for name, least in {**lowest, "crop": 0}.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigError(f"{name} = {value} is impossible; it must be at least {least}")
        if not (math.isfinite(self.photons) and self.photons > 0):
            raise ConfigError(f"photons = {self.photons} is impossible; it must be more than 0")
        if self.crop % self.binning:
            raise ConfigError(
                f"crop = {self.crop} is not a multiple of binning = {self.binning}; "
                "fast and slow scans would not be aligned"
            )


SLOW = ScanSettings(angles=400, photons=10_000, flats=40, read_noise=3.0)
"""The slow acquisition, domain B."""

FAST: Mapping[int, ScanSettings] = MappingProxyType(
    {
        1: ScanSettings(angles=90, photons=1_200),
        2: ScanSettings(angles=90, photons=150, binning=2),
        4: ScanSettings(angles=90, photons=80, binning=4),
    }
)
"""The fast acquisition, domain A, by the super-resolution factor that undoes its binning."""


def scan(
    attenuation: ArrayLike,
    settings: ScanSettings,
    seed: int | np.random.Generator | np.random.SeedSequence,
    *,
    half: Half = "all",
) -> Float32:
    """Scan a sample numerically and reconstruct it.

    `attenuation` is (Z, Y, X), per voxel, with Y = X and Z the rotation axis; outside there is air.
    Returns (Z / b, (Y - 2 crop) / b, (X - 2 crop) / b), attenuation per unbinned voxel, with b
    the binning. An even or odd `half` uses every other angle and its own half of the flats: both
    are independent halves of the same scan, for Fourier shell correlation.
    Errors: `DataError` for a map that can't be scanned, `UsageError` for an unknown half.
    """
    volume = np.asarray(attenuation, dtype=np.float32)
    _check(volume, settings)
    if half not in ("all", "even", "odd"):
        raise UsageError(f"half = {half!r} is unknown; use all, even or odd")
    rng = np.random.default_rng(seed)
    depth, size = volume.shape[0] // settings.binning, volume.shape[1] // settings.binning
    pixels = detector_pixels(volume.shape[1], settings.binning)
    flat = _flat_field(depth, pixels // settings.binning, settings, rng, half)
    columns = np.ascontiguousarray(volume.reshape(len(volume), -1).T)
    angles: Float64 = np.linspace(0, math.pi, settings.angles, endpoint=False)
    # The blocks have an even length, so the parity within a block is that of the whole scan.
    chosen = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[half]
    image: Float32 = np.zeros((size * size, depth), np.float32)
    for start in range(0, len(angles), BLOCK):
        block = angles[start : start + BLOCK]
        counts = _expose(project(columns, block, pixels), settings, rng)[chosen]
        if len(counts):
            # A count of 0 has no logarithm: the smallest count is one photon.
            sinogram: Float32 = -np.log(np.maximum(counts, 1) / flat)
            filtered = ramp_filter(sinogram, settings.binning)
            image += back_project(filtered, block[chosen], size)
    image *= math.pi / len(angles[chosen])
    crop = settings.crop // settings.binning
    return np.ascontiguousarray(
        image.T.reshape(depth, size, size)[:, crop : size - crop, crop : size - crop]
    )


def _check(volume: Float32, settings: ScanSettings) -> None:
    shape = volume.shape
    if volume.ndim != 3 or shape[1] != shape[2]:
        raise DataError(f"a map of shape {shape} can't be scanned; it must be (Z, Y, X) with Y = X")
    if not shape[0] or any(length % settings.binning for length in shape):
        raise DataError(
            f"a map of shape {shape} can't be binned by {settings.binning}; "
            "crop it to a multiple of the binning"
        )
    if shape[1] <= 2 * settings.crop:
        raise DataError(f"slices of {shape[1]} voxels vanish with a crop of {settings.crop} a side")
    if not np.isfinite(volume).all():
        raise DataError("the map holds NaN or infinite values; replace them before scanning")


def _expose(lines: Float32, settings: ScanSettings, rng: np.random.Generator) -> Float32:
    """Return detector counts (angles, pixels / b, Z / b) for line integrals (angles, pixels, Z)."""
    angles, pixels, depth = lines.shape
    b = settings.binning
    expected = settings.photons * np.exp(-lines.astype(np.float64))
    binned = expected.reshape(angles, pixels // b, b, depth // b, b).sum(axis=(2, 4))
    return _detect(binned, 1, settings, rng)


def _flat_field(
    depth: int, pixels: int, settings: ScanSettings, rng: np.random.Generator, half: Half
) -> Float32:
    """Return the mean counts (pixels, Z) without a sample, from all flats or one half of them."""
    exposures = settings.flats / 2
    expected = np.full((2, pixels, depth), settings.photons * settings.binning**2)
    halves = _detect(expected, exposures, settings, rng)
    # Both halves are always drawn, so that the noise that follows does not depend on `half`.
    chosen: Float32 = {"all": halves.mean(axis=0), "even": halves[0], "odd": halves[1]}[half]
    return np.maximum(chosen, 1)


def _detect(
    expected: NDArray[np.float64],
    exposures: float,
    settings: ScanSettings,
    rng: np.random.Generator,
) -> Float32:
    """Return the mean of `exposures` noisy exposures of `expected` counts (frames, pixels, Z)."""
    from scipy.ndimage import gaussian_filter

    photons = rng.poisson(expected * exposures) / exposures
    sigma = (0, settings.psf_pixels, settings.psf_pixels)
    counts: Float32 = gaussian_filter(photons.astype(np.float32), sigma, mode="nearest")
    noise = rng.standard_normal(counts.shape, dtype=np.float32)
    return counts + noise * np.float32(settings.read_noise / math.sqrt(exposures))
