"""Calibration of the trust maps for one volume: match of grey values, and typical values.

Input and output are each standardised by their own domain and differ in sharpness, and every volume
and generator has its own noise. All of this is measured on a few blocks spread over the volume
before the first tile; the constants are the same for all tiles, so the maps don't depend on them.
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
"""Blurs of the input relative to the output that the calibration tries, in voxels of the input."""
BLOCKS = 8
"""Number of blocks that the calibration measures."""
SIDE = 64
"""Approximate side of a block in voxels of the output; its inner half counts."""
TRUNCATE = 3.0
"""Radius of the low-pass, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Constants of the maps of one volume; the same for all of its tiles.

    `slope * y + offset` gives the low-passed output y, blurred by `blur` more input voxels, the
    input's grey values; `cycle_slope * y + cycle_offset` does so for the cycled image. The last
    three are the root mean squares of the maps over sampled blocks, which are typical of this
    volume.
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
    """The images from which the maps of one window are computed, all on the input's grid."""

    coarse: Tensor
    """(1, C, z, y, x): the output averaged over blocks of voxels, not yet low-passed."""
    low: Tensor
    """(1, C, z, y, x): the input, low-passed."""
    cycled: Tensor
    """(1, C, z, y, x): G_B(G_A(input)), low-passed."""
    disagreement: Tensor
    """(1, 1, z, y, x): the map of the same name."""
    core: Window
    """Position of the window's core, the part that is exact thanks to the halo around it."""

    def inner(self, image: Tensor) -> Tensor:
        """Return the core of one of the images."""
        return image[(..., *self.core)]


def smooth(image: Tensor, sigma: float) -> Tensor:
    """Return (1, C, z, y, x) filtered with a Gaussian of `sigma` voxels, cut off at 3 sigma.

    Beyond its faces the image is continued with its outermost voxels.
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
    """Return the number of voxels on either side that `smooth` reads."""
    return math.ceil(TRUNCATE * sigma)


def sample_windows(
    operator: TileOperator, read: Read, shape: Size, count: int
) -> list[tuple[Tensor, Window]]:
    """Return up to `count` windows (1, C, z, y, x) of a volume, each with its inner part.

    Only the inner part counts. The size is fixed, so that the constants don't depend on the tiles
    and cost little memory. The rim left out is a quarter of a side: less than the networks' halo,
    but voxels farther away hardly matter to a mean.
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
    # The middle tiles of equal shares of all tiles, so that corners are not preferred.
    chosen = {(2 * i + 1) * len(grid) // (2 * count) for i in range(count)}
    return [
        (torch.from_numpy(read_padded(read, tile, shape))[None], grid.inner(tile, Fraction(1)))
        for tile in grid
        if tile.index in chosen
    ]


def match_grey(samples: Sequence[Images], sigma: float) -> Calibration:
    """Return the slopes, offsets and blur that best match outputs and cycled images to inputs."""
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
            "the enhanced volume is not brighter where the input is: contrast inverted or lost "
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
