"""Shift-invariant BayesShrink in three dimensions: wavelets without another dependency.

Source: S. G. Chang, B. Yu, M. Vetterli, IEEE Trans. Image Process. 9, 1532 (2000); the shifts: R.
R. Coifman, D. L. Donoho, Translation-Invariant De-Noising (1995).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Bands = dict[str, Array]

_ROOT3 = math.sqrt(3)
LOW_PASS = {
    "haar": np.array([1.0, 1.0]) / math.sqrt(2),
    "db2": np.array([1 + _ROOT3, 3 + _ROOT3, 3 - _ROOT3, 1 - _ROOT3]) / (4 * math.sqrt(2)),
}
"""Orthonormal low passes; the high pass of each is its alternating mirror."""
_GAUSSIAN_MAD = 0.6745
"""Median absolute value of a Gaussian of standard deviation 1."""


def bayes_shrink(image: Array, wavelet: str, levels: int, strength: float, by_level: bool) -> Array:
    """Return `image` (Z, Y, X) with its details shrunk, averaged over the 8 shifts by 0 or 1.

    The noise is estimated from the median of the diagonal details: with `by_level` those of each
    level, because a tomogram's noise is coloured, else those of the finest; `strength` multiplies
    it.
    """
    result = np.zeros_like(image)
    for shift in itertools.product((0, 1), repeat=3):
        padded, where = _padded(image, shift, 2**levels)
        result += _shrink(padded, wavelet, levels, strength, by_level)[where]
    return result / 8


def _padded(image: Array, shift: tuple[int, ...], unit: int) -> tuple[Array, tuple[slice, ...]]:
    """Reflect the image at its faces to multiples of `unit`; return that and the image's place.

    No voxel occurs twice in a row: equal neighbours would look like no noise.
    """
    width = [(unit + s, unit + (-n - s) % unit) for s, n in zip(shift, image.shape, strict=True)]
    where = tuple(
        slice(before, before + n) for (before, _), n in zip(width, image.shape, strict=True)
    )
    return np.pad(image, width, mode="reflect"), where


def _shrink(
    image: Array,
    wavelet: str,
    levels: int,
    strength: float,
    by_level: bool,
    noise: float | None = None,
) -> Array:
    if not levels:
        return image
    bands = analyse(image, wavelet)
    if noise is None or by_level:
        noise = strength * float(np.median(np.abs(bands["hhh"]))) / _GAUSSIAN_MAD
    details = {name: _soft(band, noise) for name, band in bands.items() if name != "lll"}
    coarse = _shrink(bands["lll"], wavelet, levels - 1, strength, by_level, noise)
    return synthesise(details | {"lll": coarse}, wavelet)


def _soft(band: Array, noise: float) -> Array:
    """Shrink by noise^2 / the signal's standard deviation; return 0 where there is no signal."""
    signal = math.sqrt(max(float(np.mean(np.square(band))) - noise**2, 0.0))
    if signal == 0:
        return np.zeros_like(band)
    return np.sign(band) * np.maximum(np.abs(band) - noise**2 / signal, 0)


def analyse(image: Array, wavelet: str) -> Bands:
    """Return the eight bands of one level, named by low and high along Z, Y, X: `lll` to `hhh`."""
    bands: Bands = {"": image}
    for axis in range(3):
        bands = {
            name + kind: _filter(band, taps, axis)
            for name, band in bands.items()
            for kind, taps in _passes(wavelet)
        }
    return bands


def synthesise(bands: Bands, wavelet: str) -> Array:
    """Return the image for which `analyse` returns `bands`."""
    for axis in (2, 1, 0):
        names = sorted({name[:-1] for name in bands})
        bands = {
            name: sum(_unfilter(bands[name + kind], taps, axis) for kind, taps in _passes(wavelet))
            for name in names
        }
    return bands[""]


def _passes(wavelet: str) -> Iterator[tuple[str, Array]]:
    low = LOW_PASS[wavelet].astype(np.float32)
    yield "l", low
    yield "h", low[::-1] * np.where(np.arange(len(low)) % 2, -1, 1).astype(np.float32)


def _filter(image: Array, taps: Array, axis: int) -> Array:
    """Correlate with `taps` and keep every second voxel; periodic."""
    even = tuple(slice(None, None, 2) if a == axis else slice(None) for a in range(3))
    return sum(tap * np.roll(image, -i, axis)[even] for i, tap in enumerate(taps))


def _unfilter(band: Array, taps: Array, axis: int) -> Array:
    """Apply the transpose of `_filter`."""
    shape = tuple(2 * n if a == axis else n for a, n in enumerate(band.shape))
    spread = np.zeros(shape, band.dtype)
    spread[tuple(slice(None, None, 2) if a == axis else slice(None) for a in range(3))] = band
    return sum(tap * np.roll(spread, i, axis) for i, tap in enumerate(taps))
