"""Losses between two images (B, C, Z, Y, X) of standardised grey values; 0 if they are identical.

Each returns a 0-dimensional tensor, computed in float32 (float64 for float64 images) even under
autocast, with finite gradients for constant images too, and without waiting for a device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cyclegan.losses.precision import at_least_single
from cyclegan.metrics.spectrum import frequency_grid

ImageFunction = Callable[[Tensor, Tensor], Tensor]
DICE_SLOPE: Final = 4.0
"""Slope of the soft threshold: phases at -1 and 1 count as foreground by 0.018 and 0.982."""
DICE_SMOOTH: Final = 1e-6
"""Share of the voxels that is added to overlap and sizes, so that two empty foregrounds agree."""


@at_least_single
def l1(image: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference."""
    return functional.l1_loss(image, target)


@at_least_single
def mse(image: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference."""
    return functional.mse_loss(image, target)


@at_least_single
def smooth_l1(image: Tensor, target: Tensor) -> Tensor:
    """Return the mean of d^2 / 2 for differences d below 1, of d - 1/2 above (Girshick 2015)."""
    return functional.smooth_l1_loss(image, target)


@at_least_single
def dice(image: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice overlap of both foregrounds, in [0, 1]; mean over images, channels.

    The foreground is sigmoid(`DICE_SLOPE` * grey value): voxels brighter than the volume's mean.
    With squares in the denominator, 1 - 2 sum(ab) / (sum(a^2) + sum(b^2)), the loss is 0 for
    identical images, soft foregrounds included. Source: Milletari 2016 (V-Net).
    """
    a = (DICE_SLOPE * image).sigmoid().flatten(2)
    b = (DICE_SLOPE * target).sigmoid().flatten(2)
    overlap = 2 * (a * b).mean(dim=2) + DICE_SMOOTH
    sizes = a.square().mean(dim=2) + b.square().mean(dim=2) + DICE_SMOOTH
    return 1 - (overlap / sizes).mean()


# -- Fourier shell correlation as a loss: agreement at every scale, whatever the contrast ------

FLOOR: Final = 1e-2
"""Standard deviation of the faint white noise, common to both images, that is assumed in each
shell, so that the loss of constant images and its gradient stay finite, and empty shells agree."""


@at_least_single
def fsc(image: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Fourier shell correlation of images (B, C, Z, Y, X), averaged over the shells.

    In each shell of frequencies, FSC = Re sum(F conj(G)) / sqrt(sum |F|^2 sum |G|^2). Shells are
    one frequency step of the shortest axis wide and reach to Nyquist; the mean grey value is in
    none. All shells weigh the same: coarse scales count as much as fine ones, which have most of
    the frequencies. 0: identical but for a positive factor and an offset; 1: unrelated; 2:
    inverted. Noise a hundredth as strong as the standardised signal counts as none (`FLOOR`).
    Source: Harauz and van Heel, Optik 73, 146 (1986); van Heel and Schatz 2005.

    Both images are tapered by a Hann window first. A patch is not a period of its volume, so the
    jumps at its faces would spread its coarse structure over all shells along the axes, where it
    correlates and hides that fine structure doesn't. Voxels near the faces therefore count less.
    """
    window = _window(image)
    density = window.square().sum()
    f, g = _spectrum(image, window), _spectrum(target, window)
    cross = f.real * g.real + f.imag * g.imag
    powers = torch.stack(
        [cross, f.real.square() + f.imag.square(), g.real.square() + g.imag.square()]
    )
    z, y, x = image.shape[2:]
    index, weights, modes = _shells((z, y, x), image.device)
    gathered = (
        powers.flatten(3).index_select(3, index.flatten()).view(*powers.shape[:3], *index.shape)
    )
    sums = (gathered * weights.to(gathered)).sum(dim=4) / density + FLOOR**2 * modes.to(gathered)
    correlation: Tensor = sums[0] / (sums[1] * sums[2]).sqrt()
    return 1 - correlation.mean()


def _spectrum(images: Tensor, window: Tensor) -> Tensor:
    """Return the transform (B, C, Z, Y, X // 2 + 1) of the windowed images, their mean removed."""
    # Otherwise the mean would leak through the window into the first shells.
    mean = (images * window).sum(dim=(2, 3, 4), keepdim=True) / window.sum()
    spectrum: Tensor = torch.fft.rfftn((images - mean) * window, dim=(2, 3, 4))
    return spectrum


def _window(images: Tensor) -> Tensor:
    """Return a separable Hann window (Z, Y, X) with its zeros just outside the image."""
    window = torch.ones((), device=images.device, dtype=images.dtype)
    for size in images.shape[2:]:
        line = torch.hann_window(size + 2, periodic=False, device=images.device, dtype=images.dtype)
        window = window[..., None] * line[1:-1]
    return window


@functools.lru_cache(maxsize=16)
def _shells(shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the modes of `rfftn` in each of S shells, as an index (S, L) into the flat spectrum.

    Also return the weights (S, L), i.e. how many modes of the full spectrum each mode stands for,
    and the number of modes (S,), at least 1. Shells are padded to the longest with modes of weight
    0. A sum over gathered rows, each mode gathered once, repeats bit for bit on a GPU; adding into
    bins doesn't.
    """
    k_z, k_y, k_x = frequency_grid(shape)
    size = max(min(shape), 2)
    shell = np.rint(np.sqrt(k_z**2 + k_y**2 + k_x**2) * size).astype(np.int64).reshape(-1)
    half = np.where((k_x == 0) | (k_x == 0.5), 1.0, 2.0)
    mirrored = np.broadcast_to(half, (shape[0], shape[1], k_x.size)).reshape(-1)
    members = [np.flatnonzero(shell == s) for s in range(1, size // 2 + 1)]
    unused = np.flatnonzero((shell == 0) | (shell > size // 2))
    longest = max(1, *map(len, members))
    index = np.stack([np.concatenate([m, np.resize(unused, longest - len(m))]) for m in members])
    weights = np.stack([np.pad(mirrored[m], (0, longest - len(m))) for m in members])
    with torch.inference_mode(False):  # cached for calls that need gradients
        return (
            torch.from_numpy(index).to(device),
            torch.from_numpy(weights.astype(np.float32)).to(device),
            torch.from_numpy(weights.sum(axis=1).clip(min=1).astype(np.float32)).to(device),
        )


# -- Kullback-Leibler divergence between two images' grey-value histograms as a loss -----------

LOW: Final = -5.0
HIGH: Final = 5.0
"""Ends of the histogram (`LOW`, `HIGH`), in standard deviations; values beyond count in the
outermost bins."""
BINS: Final = 64
"""Number of bins between `LOW` and `HIGH`, each 0.16 standard deviations wide."""
UNIFORM: Final = 0.01
"""Share of a uniform distribution mixed into both histograms, so that empty bins stay finite."""
UNIT: Final = 2**30
"""Number of parts into which one voxel's count is divided."""


@at_least_single
def kl(image: Tensor, target: Tensor) -> Tensor:
    """Return KL(target || image) of soft grey-value histograms in nats; mean over images, channels.

    The places of voxels play no part, so combine it with a loss that compares them. A voxel counts
    in the two bins with the nearest centres, linearly (a triangular Parzen window), which makes the
    counts differentiable. Voxels outside `LOW` to `HIGH` get no gradient. The result is at most
    ln(`BINS` / `UNIFORM`) = 8.8. Source of the soft histogram: Ustinova and Lempitsky 2016
    (arXiv:1611.00822).
    """
    p, q = _distribution(target), _distribution(image)
    return (p * (p / q).log()).sum(dim=2).mean()


def _distribution(images: Tensor) -> Tensor:
    """Return the probability (B, C, `BINS`) of each bin; positive, sums to 1."""
    b, c = images.shape[:2]
    counts: Tensor = _SoftHistogram.apply(images.reshape(b * c, -1))  # type: ignore[no-untyped-call]
    return ((1 - UNIFORM) * counts + UNIFORM / BINS).view(b, c, BINS)


class _SoftHistogram(torch.autograd.Function):
    """Maps rows of values (R, N) to shares (R, `BINS`).

    Its gradient is written by hand because it needs only 2 bytes per voxel for the backward pass
    and gathers there; automatic differentiation would store several floats.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        position = (values - LOW) * (BINS / (HIGH - LOW)) - 0.5
        # NaN is not an index; it comes back below.
        clamped = position.nan_to_num(nan=0.0).clamp(0, BINS - 1)
        lower = clamped.floor().clamp(max=BINS - 2)
        # Integer parts of a voxel: their sums are the same in any order, also on a GPU.
        upper_part = ((clamped - lower) * UNIT).round().long()
        index = lower.long()
        counts = torch.zeros(len(values), BINS, dtype=torch.long, device=values.device)
        counts.scatter_add_(1, index, UNIT - upper_part).scatter_add_(1, index + 1, upper_part)
        ctx.save_for_backward(lower.to(torch.uint8), position == clamped)
        shares = (counts.double() / (UNIT * values.shape[1])).to(values.dtype)
        not_finite_shows = 0 * values.sum(dim=1, keepdim=True)
        return shares + not_finite_shows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        lower, inside = ctx.saved_tensors
        slopes = gradient.diff(dim=1) * (BINS / (HIGH - LOW) / lower.shape[1])
        result: Tensor = slopes.gather(1, lower.long()) * inside
        return result


# -- Structural similarity in three dimensions as a loss ---------------------------------------

SIGMA: Final = 1.5
"""Sigma of the Gaussian window, in voxels."""
WINDOW: Final = 11
"""Most voxels of the window along each axis: 3.5 sigma on either side."""
DATA_RANGE: Final = 6.0
"""Span of grey values of standardised data: three standard deviations on either side of 0."""


@at_least_single
def ssim(image: Tensor, target: Tensor, *, data_range: float = DATA_RANGE) -> Tensor:
    """Return 1 - mean structural similarity of images (B, C, Z, Y, X), within [0, 2].

    Grey values count from -data_range / 2 on, because the comparison of local means is made for
    values from 0 on and would jump where standardised values change their sign. The mean is over
    the positions at which the whole Gaussian window lies inside. Along an axis of fewer than 11
    voxels the window shrinks to the largest odd number that fits. Sources: Z. Wang et al., IEEE
    Trans. Image Process. 13, 600 (2004); as a loss: Zhao 2017.
    """
    x, y = image.flatten(0, 1), target.flatten(0, 1)
    moments = _windowed(torch.stack([x, y, x * x, y * y, x * y]))
    mean_x, mean_y, square_x, square_y, product = moments.unbind()
    variances = (square_x - mean_x.square()) + (square_y - mean_y.square())
    covariance = product - mean_x * mean_y
    mean_x, mean_y = mean_x + data_range / 2, mean_y + data_range / 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return 1 - (luminance * structure).mean()


def _windowed(maps: Tensor) -> Tensor:
    """Return `maps` (N, M, Z, Y, X) averaged in the Gaussian window wherever it fits.

    Each axis in turn takes a product with a banded matrix: on a CPU this is many times faster than
    a convolution with one channel, and on a GPU it avoids the lower precision of convolutions.
    """
    z, y, x = maps.shape[2:]
    maps = maps @ _band(x, maps).T
    maps = _band(y, maps) @ maps
    averaged: Tensor = _band(z, maps) @ maps.flatten(3)
    return averaged.view(*averaged.shape[:3], *maps.shape[3:])


def _band(size: int, like: Tensor) -> Tensor:
    """Return (size - window + 1, size): in each row the Gaussian window, one voxel further on."""
    window = min(WINDOW, size - 1 + size % 2)
    positions = torch.arange(size - window + 1, device=like.device, dtype=like.dtype)
    voxels = torch.arange(size, device=like.device, dtype=like.dtype)
    distance = voxels[None, :] - positions[:, None] - window // 2
    weights = torch.exp(-0.5 * (distance / SIGMA).square()) * (distance.abs() <= window // 2)
    return weights / weights.sum(dim=1, keepdim=True)


IMAGE: Final[Mapping[str, ImageFunction]] = {
    "l1": l1,
    "mse": mse,
    "smooth_l1": smooth_l1,
    "dice": dice,
    "ssim": ssim,
    "fsc": fsc,
    "kl": kl,
}
"""Image functions by name."""
