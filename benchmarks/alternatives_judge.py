"""The judge of `alternatives.py`: it measures every image against its reference in the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclegan.metrics.correlation import fourier_shell_correlation
from cyclegan.metrics.quality import AffineFit, affine_fit, psnr, ssim

Array = NDArray[np.floating]

RIM = 4
"""Width in voxels of the rim that is not judged: filters and networks see padding there."""
CRITERION = 0.5
"""Threshold of the Fourier shell correlation with a reference; two halves would have 1/7."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """An image's quality: PSNR in dB, SSIM (3D), resolution as a full period in voxels."""

    psnr: float
    ssim: float
    resolution: float
    slope: float
    """Slope of the affine fit; a negative one (inverted image) is judged as a constant image."""


class Judge:
    """Measure images against one reference (Z, Y, X), whose percentiles set the data range."""

    def __init__(self, reference: Array) -> None:
        self.reference = _inner(reference)

    def psnr(self, image: Array) -> float:
        """Return the PSNR after the affine fit, in dB; it chooses the filters' parameters."""
        return psnr(self.fitted(_inner(image))[0], self.reference)

    def __call__(self, image: Array) -> Figures:
        """Return all figures of an image."""
        inner = _inner(image)
        fitted, slope = self.fitted(inner)
        correlation = fourier_shell_correlation(inner, self.reference)
        resolution = correlation.resolution(CRITERION).voxels
        return Figures(
            psnr=psnr(fitted, self.reference),
            ssim=ssim(fitted, self.reference),
            # JSON knows no infinity: nothing correlates beyond the size of the volume.
            resolution=resolution if math.isfinite(resolution) else float(max(inner.shape)),
            slope=slope,
        )

    def slice(self, image: Array) -> Array:
        """Return the middle slice (Y, X), fitted to the reference, for pictures."""
        fitted, _ = self.fitted(_inner(image))
        return fitted[len(fitted) // 2]

    def fitted(self, inner: Array) -> tuple[Array, float]:
        """Return the image fitted with a slope of 0 or more, and the slope of the free fit."""
        fit = affine_fit(inner, self.reference)
        if fit.slope < 0:
            return AffineFit(0.0, float(self.reference.mean()))(inner), fit.slope
        return fit(inner), fit.slope


def _inner(image: Array) -> Array:
    whole = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return whole[RIM:-RIM, RIM:-RIM, RIM:-RIM]
