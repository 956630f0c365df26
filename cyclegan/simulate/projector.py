"""Parallel-beam projection and back-projection of a stack of slices, with one sparse matrix.

All slices of a parallel-beam scan have the same geometry. So one matrix per few angles serves all
slices at once: its rows are the pixels of a slice, its columns (angle, detector bin), and each
pixel has two linear weights per angle. The matrix back-projects, its transpose projects
(pixel-driven projection; Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988,
chapter 3). The rotation axis is Z and goes through the middle of the slice and of the detector.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from cyclegan.rounding import round_up

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
