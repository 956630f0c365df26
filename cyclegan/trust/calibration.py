"""What the trust maps must know of a volume before the first tile: grey match, typical values.

Input and output are standardised each by its own domain and differ in sharpness, and every volume
and generator has its own noise. Both are measured on a few blocks spread over the volume; the
constants are the same for all tiles, so that the maps don't depend on the tiles.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cyclegan.enhance.grid import Grid, Size, TileOperator, Window
from cyclegan.enhance.tiling import Read, read_padded
from cyclegan.metrics.quality import AffineFit, affine_fit

logger = logging.getLogger(__name__)

BLURS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3)
"""Blurs of the input against the output, in voxels of the input, that are tried."""
BLOCKS = 8
"""Blocks that are looked at."""
SIDE = 64
"""Side of a block in voxels of the output, about; the inner half of it counts."""
TRUNCATE = 3.0
"""The low-pass ends after so many standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Constants of one volume that the maps rest on; the same for all of its tiles.

    The low-passed output, blurred by `blur` input voxels more, has the input's grey values after
    `slope * y + offset`; the cycled image after `cycle_slope * y + cycle_offset`. The last three
    are the root mean squares of the maps over sampled blocks: what is typical of this volume.
    """

    slope: float = 1.0
    offset: float = 0.0
    blur: float = 0.0
    cycle_slope: float = 1.0
    cycle_offset: float = 0.0
    consistency: float = 1.0
    cycle: float = 1.0
    disagreement: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Images:
    """What the maps of one window are made of, all on the input's grid."""

    coarse: Tensor
    """(1, C, z, y, x): the output averaged over blocks of voxels, not yet low-passed."""
    low: Tensor
    """(1, C, z, y, x): the input, low-passed."""
    cycled: Tensor
    """(1, C, z, y, x): G_B(G_A(input)), low-passed."""
    disagreement: Tensor
    """(1, 1, z, y, x)."""
    core: Window
    """Where a window's core lies, the part that its halo makes right."""

    def inner(self, image: Tensor) -> Tensor:
        """The core of one of the images."""
        return image[(..., *self.core)]


def smooth(image: Tensor, sigma: float) -> Tensor:
    """(1, C, z, y, x) filtered with a Gaussian of `sigma` voxels, cut off at 3 sigma.

    At its faces the image is continued by its last voxel.
    """
    radius = radius_of(sigma)
    if not radius:
        return image
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    weight = (kernel / kernel.sum()).to(image).reshape(1, 1, -1)
    for axis in (2, 3, 4):
        lines = image.movedim(axis, -1)
        padded = functional.pad(
            lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), "replicate"
        )
        image = functional.conv1d(padded, weight).reshape(lines.shape).movedim(-1, axis)
    return image


def radius_of(sigma: float) -> int:
    """Voxels on either side that `smooth` reads."""
    return math.ceil(TRUNCATE * sigma)


def sample_windows(
    operator: TileOperator, read: Read, shape: Size, count: int
) -> list[tuple[Tensor, Window]]:
    """Up to `count` windows (1, C, z, y, x) of a volume, and the inner part of each that counts.

    Their size is fixed, so that constants don't depend on the tile and cost little memory. A rim of
    a quarter of a side is left out: less than the networks' halo, but what lies farther away hardly
    matters to a mean.
    """
    factor = max(int(f) for f in operator.outputs.values())
    core = max(SIDE // (2 * factor) // operator.alignment, 1) * operator.alignment
    rim = max(core // 2 // operator.alignment, 1) * operator.alignment
    grid = Grid(
        shape=shape,
        region=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        core=(core, core, core),
        alignment=operator.alignment,
        halo_left=rim,
        halo_right=rim,
    )
    # In the middle of equal shares of the tiles, so that corners are not preferred.
    chosen = {(2 * i + 1) * len(grid) // (2 * count) for i in range(count)}
    return [
        (torch.from_numpy(read_padded(read, tile, shape))[None], grid.inner(tile, Fraction(1)))
        for tile in grid
        if tile.index in chosen
    ]


def match_grey(samples: Sequence[Images], sigma: float) -> Calibration:
    """Slopes, offsets and the blur with which outputs and cycled images come closest to inputs."""
    low = _joined([sample.inner(sample.low) for sample in samples])
    best: tuple[float, float, AffineFit] | None = None
    for blur in BLURS:
        width = math.hypot(sigma, blur)
        output = _joined([s.inner(smooth(s.coarse, width)) for s in samples])
        fit = affine_fit(output, low)
        error = float(np.square(fit(output) - low).mean())
        if best is None or error < best[0]:
            best = (error, blur, fit)
    assert best is not None
    _, blur, fit = best
    if fit.slope <= 0:
        logger.warning(
            "the enhanced volume is no brighter where the input is: contrast inverted or lost "
            "(slope %.3g); don't use this model",
            fit.slope,
        )
    cycle = affine_fit(_joined([sample.inner(sample.cycled) for sample in samples]), low)
    return Calibration(
        slope=fit.slope,
        offset=fit.offset,
        blur=blur,
        cycle_slope=cycle.slope,
        cycle_offset=cycle.offset,
    )


def _joined(images: Sequence[Tensor]) -> NDArray[np.float32]:
    flat = torch.cat([image.reshape(-1) for image in images])
    return flat.float().cpu().numpy().reshape(1, 1, -1)
