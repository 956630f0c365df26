"""Power spectra of volumes, Gaussian low-pass filtering, and the low-pass correlation.

Frequencies are in cycles per voxel (0.5 is Nyquist). The power is a density: white noise of
variance v has power v at every frequency, whatever the volume's size. There are two binnings:
radial, |k|, for comparing textures, and cylindrical, (k_z, k_r) with k_r^2 = k_y^2 + k_x^2, because
Z is the rotation axis and the noise of a tomogram is coloured within a slice and nearly white
between slices.

Nothing here touches the global random state, and the same input gives the same numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from cyclegan.errors import DataError

LOW_PASS_SIGMA = 1.0
"""Sigma of the Gaussian of the low-pass correlation, in voxels of the coarser volume."""
NULL_SPLITS = 8
"""Number of random halvings of real B that measure how far sets differ by chance."""


def radial_power(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Return radially binned power spectra, one row per volume.

    `volumes` is (N, 1, Z, Y, X). Returns the frequencies (K,), equally spaced up to Nyquist of the
    shortest axis (bin 0, the mean, is left out), and the powers (N, K); average over the rows for
    the spectrum of a set. Both are float64 on the CPU.

    Source: windowed periodogram (P. Welch, IEEE Trans. Audio Electroacoust. 15, 1967) with a
    separable Hann window and each volume's windowed mean subtracted.
    """
    shape = _spatial_shape(volumes)
    frequencies = torch.arange(1, min(shape) // 2 + 1, dtype=torch.float64) / min(shape)
    return frequencies, radial_rows(volumes).cpu()


def radial_rows(volumes: Tensor) -> Tensor:
    """Return the powers (N, K) of `radial_power`, float64, on the device; does not wait for it."""
    return _in_shells(_periodogram(volumes), _spatial_shape(volumes))


@dataclass(frozen=True)
class ShellSums:
    """Sums that make up a Fourier shell correlation, one row per volume, all (N, K).

    `cross` is the real part of the cross power of two sets of volumes; `first` and `second` are
    their powers.
    """

    cross: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Tensor) -> ShellSums:
        """Return the sums of `shell_rows`, once these are on the host."""
        return cls(*rows.numpy())

    def correlation(self, chosen: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return (K,), in -1 to 1, over all or the `chosen` volumes; 0 where a power is 0."""
        rows = slice(None) if chosen is None else np.asarray(chosen)
        cross, first, second = (
            sums[rows].sum(axis=0) for sums in (self.cross, self.first, self.second)
        )
        norm = np.sqrt(first * second)
        return np.asarray(np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0))


def shell_sums(first: Tensor, second: Tensor) -> ShellSums:
    """Return cross power and powers of pairs of volumes, both (N, 1, Z, Y, X), in radial bins.

    They are windowed and binned as in `radial_power`. `cyclegan.metrics.correlation` has the
    Fourier shell correlation of two whole volumes, with its criteria.
    """
    return ShellSums.of(shell_rows(first, second).cpu())


def shell_rows(first: Tensor, second: Tensor) -> Tensor:
    """Return the sums of `shell_sums`, (3, N, K), float64, on the device; does not wait for it."""
    shape = _spatial_shape(first)
    if first.shape != second.shape:
        raise DataError(
            f"shell correlation can't compare shapes {tuple(first.shape)} and"
            f" {tuple(second.shape)}; give equal ones"
        )
    a, b = _windowed_spectrum(first), _windowed_spectrum(second)
    cross = a.real * b.real + a.imag * b.imag
    powers = (values.real**2 + values.imag**2 for values in (a, b))
    return torch.stack([_in_shells(values, shape) for values in (cross, *powers)])


def cylindrical_power(volumes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return power spectra binned over (k_z, k_r), one plane per volume.

    `volumes` is (N, 1, Z, Y, X). Returns |k_z| (Kz,), k_r (Kr,), which reaches into the corners of
    the slice's spectrum, and the powers (N, Kz, Kr), all float64 on the CPU. `cylindrical_index`
    gives the bin of each frequency. They are estimated as in `radial_power`.
    """
    shape = _spatial_shape(volumes)
    index, (n_z, n_r) = cylindrical_index(shape)
    power = _binned(_periodogram(volumes), shape, index, n_z * n_r).reshape(-1, n_z, n_r)
    k_z = torch.arange(n_z, dtype=torch.float64) / shape[0]
    k_r = torch.arange(n_r, dtype=torch.float64) / min(shape[1:])
    return k_z, k_r, torch.from_numpy(power)


def cylindrical_index(shape: Sequence[int]) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the flat bin number of every frequency of `rfftn`, and the number of bins (Kz, Kr).

    `shape` is the volume's (Z, Y, X); the index has the shape (Z, Y, X // 2 + 1).
    """
    z, y, x = shape
    k_z, k_y, k_x = frequency_grid(shape)
    i_z = np.rint(np.abs(k_z) * z).astype(np.int64)
    i_r = np.rint(np.sqrt(k_y**2 + k_x**2) * min(y, x)).astype(np.int64)
    n_z, n_r = int(i_z.max()) + 1, int(i_r.max()) + 1
    return i_z * n_r + i_r, (n_z, n_r)


def cylindrical_share(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the share (Kz, Kr) of all modes in each bin; sum(share * power) is the variance."""
    index, bins = cylindrical_index(shape)
    modes = np.bincount(index.reshape(-1), _half_weights(shape).reshape(-1), bins[0] * bins[1])
    return np.asarray(modes / modes.sum(), dtype=np.float64).reshape(bins)


def frequency_grid(
    shape: Sequence[int],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return k_z, k_y and k_x of `rfftn` for a (Z, Y, X) volume, shaped so that they broadcast."""
    z, y, x = shape
    k_z, k_y, k_x = np.fft.fftfreq(z), np.fft.fftfreq(y), np.fft.rfftfreq(x)
    return (
        k_z[:, None, None].astype(np.float64),
        k_y[None, :, None].astype(np.float64),
        k_x[None, None, :].astype(np.float64),
    )


def gaussian_low_pass(volumes: Tensor, sigma: float) -> Tensor:
    """Filter `volumes` (N, 1, Z, Y, X) with a Gaussian of `sigma` voxels, mirrored at the faces.

    The transfer function is exactly exp(-2 pi^2 sigma^2 k^2), even for a sigma far below a voxel,
    because it is applied to the cosine transform (DCT-II), whose boundary is the mirror.
    """
    _spatial_shape(volumes)
    if sigma <= 0:
        return volumes
    result = volumes.float()
    # A caller's autocast would do these products in half precision.
    with torch.autocast(volumes.device.type, enabled=False):
        for axis in (2, 3, 4):
            matrix = _gaussian_matrix(result.shape[axis], sigma, result.device)
            result = (result.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return result


def low_pass_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return Pearson's correlation of `x` and `y` at low frequencies, averaged over the batch.

    `x` and `y` are (N, 1, Z, Y, X) with the same N and any resolutions. Both are averaged down to
    their common coarse grid and smoothed there with a Gaussian of `LOW_PASS_SIGMA` voxels, so that
    noise hardly counts. About 1: same structure and contrast; about -1: contrast inverted; a
    constant volume counts as 0; non-finite voxels give NaN. The result is a 0-dimensional tensor on
    the inputs' device, so that a caller in a training loop decides when to wait for it.
    """
    shape_x, shape_y = _spatial_shape(x), _spatial_shape(y)
    if x.shape[0] != y.shape[0]:
        raise DataError(
            f"low-pass correlation can't pair {x.shape[0]} with {y.shape[0]} volumes; give as many"
        )
    depth, height, width = (min(pair) for pair in zip(shape_x, shape_y, strict=True))
    low_x = _centred_low(x, (depth, height, width))
    low_y = _centred_low(y, (depth, height, width))
    norms = low_x.norm(dim=1) * low_y.norm(dim=1)
    return torch.mean((low_x * low_y).sum(dim=1) / norms.clamp_min(1e-30))


def _centred_low(volumes: Tensor, coarse: tuple[int, int, int]) -> Tensor:
    """Return (N, voxels): each volume on the coarse grid, smoothed and centred; 0 if constant."""
    grid = functional.adaptive_avg_pool3d(volumes.float(), coarse)
    low = gaussian_low_pass(grid, LOW_PASS_SIGMA).flatten(1).double()
    centred = low - low.mean(dim=1, keepdim=True)
    # Single-precision filtering leaves a constant volume with rounding noise that would correlate.
    varies = centred.norm(dim=1, keepdim=True) >= 1e-5 * low.norm(dim=1, keepdim=True)
    return torch.where(varies | ~low.isfinite(), centred, torch.zeros_like(centred))


def _in_shells(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the means (N, K) of values (N, Z, Y, X // 2 + 1) in radial bins, float64.

    They stay on the values' device. Sums on a GPU have the same order every time, unlike those of
    `bincount` there.
    """
    if _is_on_host(values):
        index, bins = _radial_index(shape)
        return torch.from_numpy(_binned(values, shape, index, bins + 1)[:, 1:bins])
    places, weights = _shells(tuple(shape), values.device)
    # One volume at a time: the rows of all of them would take much memory.
    rows = [(one.reshape(-1)[places].double() * weights).sum(dim=1) for one in values]
    return torch.stack(rows)


def _is_on_host(values: Tensor) -> bool:
    return values.device.type == "cpu"


@functools.lru_cache(maxsize=4)
def _shells(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the frequencies of each radial bin, and their weights in its mean, both (K, L).

    L is the largest number of frequencies in a bin; places that a bin does not need weigh 0.
    """
    index, bins = _radial_index(shape)
    flat, modes = index.reshape(-1), _half_weights(shape).reshape(-1)
    members = [np.flatnonzero(flat == number) for number in range(1, bins)]
    places = np.zeros((len(members), max(map(len, members))), dtype=np.int64)
    weights = np.zeros(places.shape)
    for row, found in enumerate(members):
        places[row, : len(found)] = found
        weights[row, : len(found)] = modes[found] / max(modes[found].sum(), 1.0)
    with torch.inference_mode(False):  # so that trainings may use the cached tensors, too
        return torch.from_numpy(places).to(device), torch.from_numpy(weights).to(device)


def spectrum_distance_db(power: Tensor, reference: Tensor, floor: float) -> float:
    """Return the mean over bins (K,) of |10 log10 ratio| of two powers, each plus `floor`."""
    return float((10 * torch.log10((power + floor) / (reference + floor))).abs().mean())


def null_distance_db(rows: Tensor, floor: float, seed: int) -> float:
    """Return the distance by chance of the spectra of two sets of M volumes of the same kind.

    `rows` is (M, K). It is measured between disjoint halves, whose difference is sqrt(2) times that
    of whole sets.
    """
    generator = torch.Generator().manual_seed(seed)
    half = len(rows) // 2
    distances = []
    for _ in range(NULL_SPLITS):
        order = torch.randperm(len(rows), generator=generator)
        first, second = rows[order[:half]].mean(dim=0), rows[order[half:]].mean(dim=0)
        distances.append(spectrum_distance_db(first, second, floor))
    return sum(distances) / len(distances) / math.sqrt(2)


def _spatial_shape(volumes: Tensor) -> tuple[int, int, int]:
    if volumes.dim() != 5 or volumes.shape[1] != 1 or volumes.numel() == 0:
        raise DataError(
            f"volumes have shape {tuple(volumes.shape)}; it must be (N, 1, Z, Y, X), with no 0"
        )
    z, y, x = volumes.shape[2:]
    return z, y, x


def _radial_index(shape: Sequence[int]) -> tuple[NDArray[np.int64], int]:
    """Return the radial bin of every frequency of `rfftn`, and K + 1, the number of bins.

    Frequencies beyond Nyquist are in bin K + 1.
    """
    size = min(shape)
    k_z, k_y, k_x = frequency_grid(shape)
    index = np.rint(np.sqrt(k_z**2 + k_y**2 + k_x**2) * size).astype(np.int64)
    bins = size // 2 + 1
    return np.minimum(index, bins), bins


def _windowed_spectrum(volumes: Tensor) -> Tensor:
    """Return the spectrum (N, Z, Y, X // 2 + 1) of windowed, mean-free volumes.

    Its squared modulus is a density.
    """
    volumes = volumes[:, 0].float()
    window = torch.ones((), device=volumes.device)
    for axis in range(3):
        line = torch.hann_window(volumes.shape[axis + 1], device=volumes.device)
        window = window * line.reshape([-1 if axis == i else 1 for i in range(3)])
    # Subtracting the windowed mean makes the mean's bin exactly 0, so it leaks into no other.
    mean = (volumes * window).sum(dim=(1, 2, 3), keepdim=True) / window.sum()
    spectrum: Tensor = torch.fft.rfftn((volumes - mean) * window, dim=(1, 2, 3))
    return spectrum / (window**2).sum().sqrt()


def _periodogram(volumes: Tensor) -> Tensor:
    """Return the squared modulus (N, Z, Y, X // 2 + 1) of `_windowed_spectrum`, a density."""
    spectrum = _windowed_spectrum(volumes)
    power: Tensor = spectrum.real**2 + spectrum.imag**2
    return power


def _half_weights(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return (Z, Y, X // 2 + 1): modes of the full spectrum behind each mode of `rfftn`."""
    z, y, x = shape
    weights = np.full((z, y, x // 2 + 1), 2.0)
    weights[..., 0] = 1.0
    if x % 2 == 0:
        weights[..., -1] = 1.0
    return weights


def _binned(
    values: Tensor, shape: Sequence[int], index: NDArray[np.int64], bins: int
) -> NDArray[np.float64]:
    """Return the mean (N, bins) of values (N, Z, Y, X // 2 + 1) of every frequency of `rfftn`.

    They are binned on the CPU, because adding with atomics on a GPU is not repeatable.
    """
    weights = _half_weights(shape).reshape(-1)
    flat = index.reshape(-1)
    modes = np.bincount(flat, weights, minlength=bins)
    rows = values.cpu().double().numpy().reshape(len(values), -1) * weights
    sums = np.stack([np.bincount(flat, row, minlength=bins) for row in rows])
    return np.asarray(sums / np.maximum(modes, 1.0), dtype=np.float64)


@functools.lru_cache(maxsize=64)
def _gaussian_matrix(size: int, sigma: float, device: torch.device) -> Tensor:
    """Return the symmetric matrix (size, size), float32, that filters a line with a Gaussian.

    It stays on `device`, because a training step that filters would wait for every copy.
    """
    # A cached matrix made in inference mode would be of no use to a later training step.
    with torch.inference_mode(False):
        k = torch.arange(size, dtype=torch.float64)
        cosines = torch.cos(math.pi / size * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2 / size)
        cosines[0] /= math.sqrt(2)
        transfer = torch.exp(-2 * math.pi**2 * sigma**2 * (k / (2 * size)) ** 2)
        matrix = cosines.T @ (transfer[:, None] * cosines)
        return matrix.to(device, torch.float32)
