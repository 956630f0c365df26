"""Fourier shell correlation and noise power spectra: how fine, and how noisy, a volume is.

Two volumes of the same object with independent noise agree where there is signal, and not where
there is only noise. Their correlation on spherical shells of spatial frequency is the Fourier shell
correlation (FSC); the frequency up to which it exceeds a criterion is the resolution.

Frequencies are in cycles per voxel (0.5 is Nyquist), as in `cyclegan.metrics.spectrum`. All arrays
are (Z, Y, X) with cubic voxels; the axes may differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import frequency_grid, radial_power

Array = NDArray[np.float64]
Place = tuple[int, int, int]

ONE_SEVENTH = 1 / 7
"""Fixed criterion: two halves at FSC 1/7 make a whole that correlates with the truth at 0.5."""
SHORTEST = 8
"""Fewest voxels of the shortest axis that give enough shells."""


@dataclass(frozen=True)
class Resolution:
    """Frequency at which the FSC first falls below a criterion.

    `frequency` is in cycles per voxel; None if the FSC stays above the criterion up to Nyquist, so
    that the voxels limit the resolution.
    """

    frequency: float | None

    @property
    def voxels(self) -> float:
        """Full period in voxels; 2 at Nyquist, infinite if nothing correlates."""
        if self.frequency is None:
            return 2.0
        return 1 / self.frequency if self.frequency > 0 else math.inf


@dataclass(frozen=True)
class ShellCorrelation:
    """An FSC curve with one value per shell; all arrays are (K,).

    `frequencies` are in cycles per voxel, without 0; `correlation` is within [-1, 1]; `independent`
    is the number of independent complex coefficients of each shell, on which the spread of the
    correlation by chance depends.
    """

    frequencies: Array
    correlation: Array
    independent: Array

    @property
    def half_bit(self) -> Array:
        """The half-bit criterion: half a bit of information per coefficient of the whole volume.

        Source: M. van Heel, M. Schatz, J. Struct. Biol. 151, 250 (2005).
        """
        root = np.sqrt(np.maximum(self.independent, 1e-12))
        return np.asarray((0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root))

    def resolution(self, criterion: ArrayLike = ONE_SEVENTH) -> Resolution:
        """Return the first crossing of a constant or a curve (K,), linear between shells."""
        above = self.correlation - np.broadcast_to(criterion, self.correlation.shape)
        below = np.flatnonzero(~(above > 0))
        if not below.size:
            return Resolution(None)
        i = int(below[0])
        if i == 0:
            # Not even the coarsest shell correlates.
            return Resolution(0.0)
        share = above[i - 1] / (above[i - 1] - above[i])
        step = self.frequencies[i] - self.frequencies[i - 1]
        return Resolution(float(self.frequencies[i - 1] + share * step))


def fourier_shell_correlation(
    first: ArrayLike, second: ArrayLike, *, window: bool = True
) -> ShellCorrelation:
    """Return the FSC of two volumes (Z, Y, X) of one shape.

    Shells are one bin of the shortest axis wide. `window` multiplies both by a Hann window first;
    without it, opposite faces that differ correlate along the axes. Raises `DataError` for
    different shapes, fewer than 8 voxels along an axis, or voxels that are not finite. A shell
    without power in either volume counts as 0.

    Source: G. Harauz, M. van Heel, Optik 73, 146 (1986).
    """
    a, b = _checked(first, "first"), _checked(second, "second")
    if a.shape != b.shape:
        raise DataError(
            f"Fourier shell correlation can't compare shapes {a.shape} and {b.shape}; give two "
            "volumes of the same region and resolution"
        )
    weights = _hann(a.shape) if window else np.ones(())
    spectrum_a, spectrum_b = (_spectrum(volume, weights) for volume in (a, b))
    size = min(a.shape)
    k_z, k_y, k_x = frequency_grid(a.shape)
    shell = np.rint(np.sqrt(k_z**2 + k_y**2 + k_x**2) * size).astype(np.int64).reshape(-1)
    modes = _modes(a.shape).reshape(-1)
    bins = size // 2 + 1

    def summed(values: Array) -> Array:
        sums = np.bincount(shell, values.reshape(-1) * modes, minlength=bins)
        return np.asarray(sums[1:bins], dtype=np.float64)

    cross = summed((spectrum_a * spectrum_b.conj()).real)
    norm = np.sqrt(summed(np.abs(spectrum_a) ** 2) * summed(np.abs(spectrum_b) ** 2))
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    count = np.bincount(shell, modes, minlength=bins)[1:bins]
    # Coefficients at k and -k count as one. A window correlates neighbours, and those along two of
    # three dimensions lie on the same shell.
    share = 1.0
    if window:
        share = float((weights**2).mean() ** 2 / (weights**4).mean()) ** (2 / 3)
    return ShellCorrelation(
        frequencies=np.arange(1, bins) / size,
        correlation=np.asarray(correlation.clip(-1, 1)),
        independent=np.asarray(count / 2 * share),
    )


def noise_power_of_halves(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    """Return frequencies (K,) and the radial noise power (K,) of the mean of two halves.

    The signal cancels in the halves' difference, whose power is four times that of the noise in
    their mean. Faults that both halves share, such as rings, cancel as well.
    """
    a, b = _checked(first, "first"), _checked(second, "second")
    if a.shape != b.shape:
        raise DataError(f"the halves have shapes {a.shape} and {b.shape}; give equal shapes")
    frequencies, power = radial_power(_batch([a - b]))
    return frequencies.numpy(), power[0].numpy() / 4


def noise_power_of_flat_parts(blocks: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """Return frequencies (K,) and the radial noise power (K,) of blocks without structure.

    A plane is subtracted from each block, because slopes (cupping) are not noise. Any structure in
    the blocks counts as noise, so this is an upper bound. `flat_places` finds such blocks.
    """
    flat = [_without_plane(_checked(block, "block")) for block in blocks]
    frequencies, power = radial_power(_batch(flat))
    return frequencies.numpy(), power.mean(dim=0).numpy()


def flat_places(volume: ArrayLike, side: int, count: int) -> list[Place]:
    """Return the origins of the `count` most homogeneous blocks of `side` voxels, none overlapping.

    They are judged by the variance of the volume averaged over 4^3 voxels, in which noise hardly
    counts; the variance itself would favour places where the noise happens to be low.
    """
    array = _checked(volume, "volume")
    if min(array.shape) < side or side < SHORTEST:
        raise DataError(
            f"blocks have {side} voxels and the volume {array.shape}; a block must have at least "
            f"{SHORTEST} voxels and fit into the volume"
        )
    from scipy.ndimage import uniform_filter

    low = uniform_filter(array, 4)
    grid = [range(0, length - side + 1, side) for length in array.shape]
    found = [
        (float(low[z : z + side, y : y + side, x : x + side].var()), (z, y, x))
        for z in grid[0]
        for y in grid[1]
        for x in grid[2]
    ]
    return [place for _, place in sorted(found)[:count]]


def _spectrum(volume: Array, weights: Array) -> NDArray[np.complex128]:
    # Subtracting the weighted mean keeps it out of the coarsest shells.
    total = weights.sum() if weights.ndim else 1.0
    mean = (volume * weights).sum() / total if weights.ndim else volume.mean()
    spectrum: NDArray[np.complex128] = np.fft.rfftn((volume - mean) * weights)
    return spectrum


def _hann(shape: Sequence[int]) -> Array:
    # Periodic, and shifted by half a voxel, so that no voxel has weight 0.
    z, y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    return np.asarray(z[:, None, None] * y[None, :, None] * x[None, None, :])


def _modes(shape: Sequence[int]) -> Array:
    """Return (Z, Y, X // 2 + 1): coefficients of the full spectrum behind each of `rfftn`."""
    z, y, x = shape
    modes = np.full((z, y, x // 2 + 1), 2.0)
    modes[..., 0] = 1.0
    if x % 2 == 0:
        modes[..., -1] = 1.0
    return modes


def _without_plane(block: Array) -> Array:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in block.shape), indexing="ij")
    design = np.stack([np.ones(block.size), *(axis.reshape(-1) for axis in axes)], axis=1)
    # The columns are orthogonal on a regular grid.
    weights = (design.T @ block.reshape(-1)) / (design**2).sum(axis=0)
    return np.asarray(block - (design @ weights).reshape(block.shape))


def _batch(volumes: Sequence[Array]) -> torch.Tensor:
    return torch.from_numpy(np.stack(volumes)[:, None])


def _checked(volume: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(volume, dtype=np.float64)
    if array.ndim != 3 or min(array.shape) < SHORTEST:
        raise DataError(
            f"the {name} volume has shape {array.shape}; a volume (Z, Y, X) of at least {SHORTEST} "
            "voxels an axis is needed"
        )
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise DataError(f"the {name} volume has {bad} voxels that are not finite; crop them")
    return array
