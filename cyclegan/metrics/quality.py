"""Image quality where a reference exists: PSNR, SSIM, and the comparison with a plain Gaussian.

Two habits keep these numbers honest. Every image is first fitted to the reference by a slope and
an offset, because each domain is standardised separately; the *sign of the slope* is reported with
the numbers, because after the fit an inverted image scores as high as an upright one. And a
Gaussian filter of the best width is always compared with the network: it is hard to beat on PSNR.

All arrays are (Z, Y, X).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclegan.errors import DataError

Array = NDArray[np.floating[Any]]

PERCENTILES = (0.1, 99.9)
"""Percentiles of the reference that bound its data range, so that no single voxel decides."""
SIGMAS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0)
"""Widths (sigma) of the Gaussian baseline to try, in voxels of the reference; 0 is no filter."""
SSIM_WINDOW = 11
"""Voxels of SSIM's Gaussian weights (sigma 1.5) along each axis."""


@dataclass(frozen=True)
class AffineFit:
    """The slope * image + offset closest to the reference; a negative slope means inverted."""

    slope: float
    offset: float

    def __call__(self, image: ArrayLike) -> Array:
        """Return the fitted image, in the reference's units."""
        return self.slope * _floating(image) + self.offset


@dataclass(frozen=True)
class QualityRow:
    """One row of a comparison: PSNR in dB and SSIM against the reference, after the affine fit.

    `slope` is the fit's; its sign belongs with every fitted number. `sigma` is the Gaussian's width
    in voxels of the reference, for the row that has one.
    """

    name: str
    psnr: float
    ssim: float
    slope: float
    sigma: float | None = None

    @property
    def sign(self) -> int:
        """1: contrast upright; -1: inverted; 0: nothing of the reference in the image."""
        return (self.slope > 0) - (self.slope < 0)


def psnr(image: ArrayLike, reference: ArrayLike, data_range: float | None = None) -> float:
    """Return the peak signal-to-noise ratio, 10 log10(data_range^2 / MSE), in dB.

    It is infinite for equal arrays. By default `data_range` is the span from the 0.1 to the 99.9
    percentile of the reference. Raises `DataError` for arrays that differ in shape, are constant or
    hold non-finite values.
    """
    image, reference = _pair(image, reference)
    span = _data_range(reference) if data_range is None else data_range
    mse = float(np.mean(np.square(image - reference, dtype=np.float64)))
    return 20 * math.log10(span) - 10 * math.log10(mse) if mse > 0 else math.inf


def ssim(image: ArrayLike, reference: ArrayLike, data_range: float | None = None) -> float:
    """Return the mean structural similarity in 3D, with Gaussian weights of sigma 1.5 voxels.

    `data_range` and errors are as in `psnr`; each axis needs 11 voxels. Source: Z. Wang et
    al., IEEE Trans. Image Process. 13, 600 (2004), in scikit-image's implementation.
    """
    from skimage.metrics import structural_similarity

    image, reference = _pair(image, reference)
    if min(reference.shape) < SSIM_WINDOW:
        raise DataError(
            f"the volumes have shape {reference.shape}, but SSIM needs {SSIM_WINDOW} voxels"
            " along each axis; take a larger region"
        )
    similarity: Callable[..., float] = structural_similarity
    span = _data_range(reference) if data_range is None else data_range
    return float(
        similarity(
            image,
            reference,
            data_range=span,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def affine_fit(image: ArrayLike, reference: ArrayLike) -> AffineFit:
    """Return the least-squares slope and offset that bring `image` closest to `reference`.

    A constant image gets slope 0. Raises `DataError` for different shapes or non-finite values.
    """
    image, reference = _pair(image, reference)
    mean_x = float(np.mean(image, dtype=np.float64))
    mean_y = float(np.mean(reference, dtype=np.float64))
    x = image.astype(np.float64) - mean_x
    variance = float(np.mean(x * x))
    # The rounding of a constant image's mean must not pass as contrast.
    constant = variance <= (1e-7 * mean_x) ** 2
    slope = 0.0 if constant else float(np.mean(x * (reference - mean_y))) / variance
    return AffineFit(slope, mean_y - slope * mean_x)


def best_gaussian(
    image: ArrayLike, reference: ArrayLike, sigmas: Sequence[float] = SIGMAS
) -> tuple[Array, float]:
    """Return the plain baseline, `image` filtered for the highest fitted PSNR, and sigma in voxels.

    The filtered image is in its own units, not fitted. Raises `DataError` as `psnr` does.
    """
    from scipy.ndimage import gaussian_filter

    image, reference = _pair(image, reference)
    best: tuple[float, Array, float] | None = None
    for sigma in sigmas:
        filtered = gaussian_filter(image, sigma) if sigma > 0 else image
        quality = psnr(affine_fit(filtered, reference)(filtered), reference)
        if best is None or quality > best[0]:
            best = (quality, filtered, sigma)
    if best is None:
        raise DataError("no sigmas given for the Gaussian baseline; give at least one")
    return best[1], best[2]


def compare_with_reference(
    image: ArrayLike, input: ArrayLike, reference: ArrayLike
) -> list[QualityRow]:
    """Compare the enhanced `image` with its `input` and the best plain Gaussian filter of that.

    `image` and `reference` have the same shape; the `input` of a super resolution is coarser and is
    interpolated linearly onto the reference's grid. The rows are 'input', 'best Gaussian' and
    'enhanced', each fitted to the reference first. Raises `DataError` that names the array that
    doesn't fit.
    """
    enhanced, truth = _pair(image, reference)
    raw = on_grid(_checked(input, "input"), truth.shape)
    filtered, sigma = best_gaussian(raw, truth)
    return [
        _row("input", raw, truth),
        _row("best Gaussian", filtered, truth, sigma),
        _row("enhanced", enhanced, truth),
    ]


def _row(name: str, image: Array, reference: Array, sigma: float | None = None) -> QualityRow:
    fit = affine_fit(image, reference)
    fitted = fit(image)
    return QualityRow(name, psnr(fitted, reference), ssim(fitted, reference), fit.slope, sigma)


def verdict(rows: Sequence[QualityRow]) -> str:
    """Return a sentence that says which image is closer to the reference; empty without rows.

    Leads are compared as they are printed, so 0.0 dB is no lead. An inverted image never wins,
    however high it scores.
    """
    named = {row.name: row for row in rows}
    if not {"best Gaussian", "enhanced"} <= named.keys():
        return ""
    plain, enhanced = named["best Gaussian"], named["enhanced"]
    if plain.sign <= 0 or enhanced.sign <= 0:
        return _verdict_by_sign(plain, enhanced)
    leads = _lead(enhanced.psnr, plain.psnr, 1), _lead(enhanced.ssim, plain.ssim, 2)
    if min(leads) < 0 < max(leads):
        return _mixed_verdict(plain, *leads)
    if max(leads) > 0:
        return f"The enhanced volume is closer to the reference than {_FILTER}: {_by(*leads)}."
    if min(leads) < 0:
        return _filter_wins(plain, _by(*leads))
    return (
        f"The enhanced volume and {_filter(plain)} are equally close to the reference: PSNR "
        "differs by less than 0.1 dB, SSIM by less than 0.01. This model does no better than a "
        "filter here."
    )


_FILTER = "the best Gaussian filter"


def _verdict_by_sign(plain: QualityRow, enhanced: QualityRow) -> str:
    """Return the verdict if one of both lacks the reference's contrast: no number counts then."""
    if plain.sign <= 0 and enhanced.sign <= 0:
        return (
            f"Neither the enhanced volume nor {_FILTER} shows the reference's contrast: make sure "
            "that the reference is of the same place."
        )
    if enhanced.sign > 0:
        return (
            f"The enhanced volume is closer to the reference than {_FILTER}, which does not show "
            "the reference's contrast."
        )
    fault = "is inverted" if enhanced.sign < 0 else "is lost"
    return _filter_wins(plain, f"the enhanced volume's contrast {fault}")


def _filter_wins(plain: QualityRow, why: str) -> str:
    better = "leaving the input as it is" if plain.sigma == 0 else "a filter here"
    return (
        f"T{_filter(plain)[1:]} is closer to the reference than the enhanced volume: {why}. "
        f"This model does worse than {better}."
    )


def _mixed_verdict(plain: QualityRow, psnr_lead: float, ssim_lead: float) -> str:
    names = _filter(plain), "the enhanced volume"
    first, second = names if psnr_lead < 0 else names[::-1]
    return (
        f"Against the reference {first} is ahead in PSNR by {abs(psnr_lead):.1f} dB, {second} in "
        f"SSIM by {abs(ssim_lead):.2f}."
    )


def _filter(plain: QualityRow) -> str:
    """Return the filter and its width, which nobody could choose so well without the reference."""
    width = "0, the input as it is" if plain.sigma == 0 else f"{plain.sigma or 0:g} voxels"
    return f"{_FILTER} (sigma {width}, chosen with the reference)"


def _by(psnr_lead: float, ssim_lead: float) -> str:
    decibels = f"by {abs(psnr_lead):.1f} dB in PSNR" if psnr_lead else ""
    similarity = f"{abs(ssim_lead):.2f} in SSIM"
    if not ssim_lead:
        return f"{decibels}, with the same SSIM"
    return f"{decibels} and {similarity}" if decibels else f"by {similarity}, with the same PSNR"


def _lead(one: float, other: float, digits: int) -> float:
    # Two infinite PSNR are equal; their difference is not a number.
    return 0.0 if one == other else round(one - other, digits)


def on_grid(volume: Array, shape: tuple[int, ...]) -> Array:
    """Interpolate a coarse volume (Z, Y, X) linearly onto the finer grid of the same region."""
    if volume.shape == shape:
        return volume
    from scipy.ndimage import zoom

    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    # grid_mode: voxels are boxes, not points, so a coarse voxel covers its block of fine ones.
    resized: Array = zoom(volume, factors, order=1, mode="nearest", grid_mode=True)
    return resized


def _pair(image: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    first, second = _checked(image, "image"), _checked(reference, "reference")
    if first.shape != second.shape:
        raise DataError(
            f"the image has shape {first.shape} and the reference {second.shape}; crop or resize"
            " one of them so that they cover the same voxels"
        )
    return first, second


def _checked(volume: ArrayLike, name: str) -> Array:
    array = _floating(volume)
    if array.ndim != 3 or array.size == 0:
        raise DataError(f"the {name} has shape {array.shape}; a volume (Z, Y, X) is needed")
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise DataError(
            f"the {name} has {bad} of {array.size} voxels that are not finite; mask or crop them"
        )
    return array


def _floating(volume: ArrayLike) -> Array:
    """Return float32 or float64: half precision and integers would overflow in the sums."""
    array = np.asarray(volume)
    keeps = array.dtype in (np.dtype(np.float32), np.dtype(np.float64))
    floating: Array = array if keeps else array.astype(np.float32)
    return floating


def _data_range(reference: Array) -> float:
    low, high = np.percentile(reference, PERCENTILES)
    if high <= low:
        raise DataError(
            "the reference is constant between its 0.1 and 99.9 percentiles, so it has no data"
            " range; give data_range or another region"
        )
    return float(high - low)
