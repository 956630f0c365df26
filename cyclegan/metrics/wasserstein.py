"""Sliced Wasserstein distance between the textures of two sets of volumes.

A set is the cloud of its small cubes of voxels. Two clouds are projected onto random directions;
along one direction the Wasserstein distance is the mean distance of equal quantiles, and the sliced
distance is the mean over directions. Each volume is split into octaves first (a Laplacian pyramid
without decimation), and each octave is measured in units of the reference's own spread there.
Otherwise the coarse structure, which has nearly all the variance, would hide the fine one.

Unlike a power spectrum, this distance sees the distribution of grey values: a material of two
phases with sharp walls and a Gaussian random field may have the same spectrum.

Sources: Rabin 2011 (sliced Wasserstein distance), Karras 2018 (on the levels of a pyramid).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import NULL_SPLITS, gaussian_low_pass

SIDE = 5
"""Voxels along each side of a cube."""
CUBES = 6144
"""Number of cubes taken from a set, equally many from each volume."""
DIRECTIONS = 32
"""Number of random directions for each octave."""
QUANTILES = 128
"""Number of quantiles along each direction."""
EDGES = (1.0, 2.0)
"""Widths (sigma) in voxels of the Gaussians that separate the octaves."""
FLOOR = 0.1
"""Smallest spread of an octave, as a share of the reference's whole spread: a fainter octave counts
as this strong, because such faint texture hardly shows."""
_STREAM = 5_120_771_000
"""Offset of seeds, so that directions share no random numbers with anything else."""


class PatchDistance:
    """Distance of sets of volumes to a reference set.

    Args:
        reference: (M, 1, Z, Y, X), M >= 2, at least 5 voxels along each axis.
        seed: seed of cubes and directions; the global random state is never touched.

    `null` is the distance of two sets of M volumes of the reference's kind by chance. It is
    measured between disjoint halves, whose distance is sqrt(2) times that of whole sets.
    """

    def __init__(self, reference: Tensor, seed: int = 0) -> None:
        if reference.dim() != 5 or len(reference) < 2 or min(reference.shape[2:]) < SIDE:
            raise DataError(
                f"the reference has shape {tuple(reference.shape)}; it must be (M, 1, Z, Y, X) with"
                f" at least 2 volumes of {SIDE} voxels along each axis"
            )
        generator = torch.Generator().manual_seed(_STREAM + seed)
        self._seed = seed
        drawn = torch.randn((len(EDGES) + 1, SIDE**3, DIRECTIONS), generator=generator)
        self._directions = (drawn / drawn.norm(dim=1, keepdim=True)).to(reference.device)
        total = float(reference.float().std())
        self._scales = [max(float(o.std()), FLOOR * total, 1e-30) for o in octaves(reference)]
        projected = self._projections(reference)
        self._reference = _quantiles(projected.flatten(1, 2))
        self.null = self._null(projected, generator)

    def __call__(self, volumes: Tensor) -> float:
        """Return the mean over octaves, in units of the reference's spread; 0 for the reference.

        `volumes` is (N, 1, Z, Y, X), finite, with the reference's resolution and any N and size.
        """
        return float(self.distance(volumes))

    def distance(self, volumes: Tensor) -> Tensor:
        """Return the same as a 0-dimensional tensor on the device, without waiting for it."""
        quantiles = _quantiles(self._projections(volumes).flatten(1, 2))
        return (quantiles - self._reference).abs().mean()

    def _projections(self, volumes: Tensor) -> Tensor:
        """Return every cube's place along every direction, (octaves, N, cubes, directions)."""
        index = _cubes(self._seed, len(volumes), tuple(volumes.shape[2:]), volumes.device)
        count = index.shape[1] // SIDE**3
        rows = []
        with torch.autocast(volumes.device.type, enabled=False):
            for octave, scale, directions in zip(
                octaves(volumes), self._scales, self._directions, strict=True
            ):
                cubes = octave.flatten(1).gather(1, index).reshape(len(volumes), count, -1)
                rows.append(cubes / scale @ directions)
        return torch.stack(rows)

    def _null(self, projected: Tensor, generator: torch.Generator) -> float:
        half = projected.shape[1] // 2
        distances = []
        for _ in range(NULL_SPLITS):
            order = torch.randperm(projected.shape[1], generator=generator)
            first, second = (
                _quantiles(projected[:, part].flatten(1, 2))
                for part in (order[:half], order[half : 2 * half])
            )
            distances.append(float((first - second).abs().mean()))
        return sum(distances) / len(distances) / math.sqrt(2)


@functools.lru_cache(maxsize=8)
def _cubes(seed: int, number: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the places of all voxels of the cubes in `number` volumes, (number, cubes * SIDE^3).

    They stay on `device`, because a report would wait for every copy.
    """
    count = max(CUBES // number, 1)
    generator = torch.Generator().manual_seed(_STREAM + seed)
    z, y, x = (torch.randint(n - SIDE + 1, (number, count), generator=generator) for n in shape)
    offsets = torch.cartesian_prod(*[torch.arange(SIDE)] * 3)
    height, width = shape[1:]
    place = ((z[..., None] + offsets[:, 0]) * height + y[..., None] + offsets[:, 1]) * width
    with torch.inference_mode(False):  # a cached tensor must serve later trainings, too
        return (place + x[..., None] + offsets[:, 2]).flatten(1).to(device)


def octaves(volumes: Tensor) -> list[Tensor]:
    """Split `volumes` (N, 1, Z, Y, X) into bands that add up to them, the finest first."""
    bands, rest = [], volumes.float()
    for sigma in EDGES:
        low = gaussian_low_pass(volumes, sigma)
        bands.append(rest - low)
        rest = low
    return [*bands, rest]


def _quantiles(projected: Tensor) -> Tensor:
    """Return Q quantiles (octaves, Q, directions) of (octaves, cubes, directions).

    They lie at the middles of Q equal parts.
    """
    ordered = projected.sort(dim=1).values
    below, above, share = _places(ordered.shape[1], ordered.dtype, ordered.device)
    return torch.lerp(ordered[:, below], ordered[:, above], share)


@functools.lru_cache(maxsize=8)
def _places(length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the neighbours of each quantile among `length` ordered values, and the share."""
    last = length - 1
    place = ((torch.arange(QUANTILES) + 0.5) / QUANTILES * length - 0.5).clamp(0, last)
    below = place.floor().long()
    share = (place - below)[None, :, None].to(device, dtype)
    above = (below + 1).clamp(max=last)
    return below.to(device), above.to(device), share
