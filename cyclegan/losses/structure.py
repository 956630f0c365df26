"""Structural similarity in three dimensions as a loss."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cyclegan.losses.precision import at_least_single

SIGMA: Final = 1.5
"""Of the Gaussian window, in voxels."""
WINDOW: Final = 11
"""Voxels along each axis that the window has at most: 3.5 sigma on either side."""
DATA_RANGE: Final = 6.0
"""Span of grey values of standardised data: three standard deviations on either side of 0."""


@at_least_single
def ssim(image: Tensor, target: Tensor, *, data_range: float = DATA_RANGE) -> Tensor:
    """1 - mean structural similarity of images (B, C, Z, Y, X), within [0, 2].

    Grey values are taken from -data_range / 2 on, because the comparison of local means is made
    for values from 0 on and would jump where standardised ones change their sign. The mean runs
    over the positions at which the whole Gaussian window lies inside. Along an axis of fewer than
    11 voxels the window shrinks to the largest odd number that fits. Sources: Z. Wang et al., IEEE
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
    """`maps` (N, M, Z, Y, X) averaged in the Gaussian window wherever it fits.

    One axis at a time, each as a product with a banded matrix: on a CPU many times faster than a
    convolution with one channel, and on a GPU not subject to its convolutions' lower precision.
    """
    z, y, x = maps.shape[2:]
    maps = maps @ _band(x, maps).T
    maps = _band(y, maps) @ maps
    averaged: Tensor = _band(z, maps) @ maps.flatten(3)
    return averaged.view(*averaged.shape[:3], *maps.shape[3:])


def _band(size: int, like: Tensor) -> Tensor:
    """(size - window + 1, size): each row the Gaussian window, one voxel further along the axis."""
    window = min(WINDOW, size - 1 + size % 2)
    positions = torch.arange(size - window + 1, device=like.device, dtype=like.dtype)
    voxels = torch.arange(size, device=like.device, dtype=like.dtype)
    distance = voxels[None, :] - positions[:, None] - window // 2
    weights = torch.exp(-0.5 * (distance / SIGMA).square()) * (distance.abs() <= window // 2)
    return weights / weights.sum(dim=1, keepdim=True)
