"""Fourier shell correlation and noise power: known answers, and an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cyclegan.errors import DataError
from cyclegan.metrics.correlation import (
    ShellCorrelation,
    flat_places,
    fourier_shell_correlation,
    noise_power_of_flat_parts,
    noise_power_of_halves,
)

SHAPES = [(16, 16, 16), (12, 18, 25), (15, 9, 22)]


def noise(seed: int, shape: tuple[int, ...] = (32, 32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def direct(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute it shell by shell over the full spectrum, as in the definition."""
    size = min(a.shape)
    grid = np.meshgrid(*(np.fft.fftfreq(n) for n in a.shape), indexing="ij")
    shell = np.rint(np.sqrt(sum(k**2 for k in grid)) * size)
    first, second = np.fft.fftn(a - a.mean()), np.fft.fftn(b - b.mean())
    values = []
    for k in range(1, size // 2 + 1):
        f, g = first[shell == k], second[shell == k]
        values.append((f @ g.conj()).real / np.linalg.norm(f) / np.linalg.norm(g))
    return np.array(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_correlation_of_the_full_spectra_on_shells(shape: tuple[int, ...]) -> None:
    a = gaussian_filter(noise(0, shape), 1)
    b = a + 0.3 * noise(1, shape)
    curve = fourier_shell_correlation(a, b, window=False)
    np.testing.assert_allclose(curve.correlation, direct(a, b), atol=1e-12)
    np.testing.assert_allclose(curve.frequencies, np.arange(1, min(shape) // 2 + 1) / min(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [True, False])
def test_a_volume_correlates_with_itself_whatever_its_grey_values(
    shape: tuple[int, ...], window: bool
) -> None:
    volume = noise(0, shape)
    curve = fourier_shell_correlation(volume, 3 * volume + 7, window=window)
    np.testing.assert_allclose(curve.correlation, 1, atol=1e-9)
    assert curve.resolution().frequency is None
    assert curve.resolution(curve.half_bit).voxels == 2.0
    inverted = fourier_shell_correlation(volume, -volume, window=window)
    np.testing.assert_allclose(inverted.correlation, -1, atol=1e-9)


@pytest.mark.parametrize("window", [True, False])
def test_independent_noise_correlates_by_chance_only_and_as_often_as_said(window: bool) -> None:
    curves = [
        fourier_shell_correlation(noise(2 * i), noise(2 * i + 1), window=window) for i in range(12)
    ]
    values = np.stack([curve.correlation for curve in curves])
    assert np.abs(values[:, 4:]).max() < 0.35
    assert np.abs(values.mean(axis=0)[4:]).max() < 0.1
    # The variance of a correlation of n complex coefficients is 1 / (2 n).
    predicted = 1 / (2 * curves[0].independent[4:])
    ratio = values[:, 4:].var(axis=0).mean() / predicted.mean()
    assert 0.6 < ratio < 1.6
    assert curves[0].resolution(curves[0].half_bit).voxels > 4


def test_the_resolution_is_where_signal_drowns_in_noise() -> None:
    """A signal with a Gaussian spectrum in white noise has a known FSC, SNR / (SNR + 1)."""
    shape, sigma, level = (64, 64, 64), 1.5, 0.05
    signal = gaussian_filter(noise(0, shape), sigma, mode="wrap")
    halves = [signal + level * noise(seed, shape) for seed in (1, 2)]
    curve = fourier_shell_correlation(*halves)
    ratio = np.exp(-4 * np.pi**2 * sigma**2 * curve.frequencies**2) / level**2
    np.testing.assert_allclose(curve.correlation[3:], (ratio / (1 + ratio))[3:], atol=0.12)
    # SNR = 1/6 where the FSC is 1/7.
    expected = math.sqrt(math.log(6 / level**2) / (4 * math.pi**2 * sigma**2))
    assert curve.resolution().frequency == pytest.approx(expected, rel=0.06)
    assert curve.resolution().voxels == pytest.approx(1 / expected, rel=0.06)


def test_the_first_crossing_counts_and_lies_between_the_shells() -> None:
    curve = ShellCorrelation(
        np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 0.6, 0.2, 0.9]), np.full(4, 1e9)
    )
    assert curve.resolution(0.5).frequency == pytest.approx(0.225)
    nothing = ShellCorrelation(curve.frequencies, np.zeros(4), curve.independent)
    assert nothing.resolution().voxels == math.inf
    # With many coefficients the half-bit criterion is that of the ratio alone.
    np.testing.assert_allclose(curve.half_bit, 0.2071 / 1.2071, rtol=1e-3)
    few = ShellCorrelation(curve.frequencies, curve.correlation, np.ones(4))
    np.testing.assert_allclose(few.half_bit, 1.0, rtol=1e-3)


@pytest.fixture(scope="module")
def halves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Even and odd angles of one scan of a small phantom, and the whole scan."""
    from cyclegan.simulate import ScanSettings, fibre_composite, scan

    sample = fibre_composite((24, 64, 64), 0)
    settings = ScanSettings(angles=60, photons=3000)
    even, odd, both = (scan(sample, settings, 3, half=half) for half in ("even", "odd", "all"))
    return even, odd, both


def test_halves_of_a_scan_agree_on_fibres_and_not_on_noise(
    halves: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    even, odd, _ = halves
    curve = fourier_shell_correlation(even, odd)
    # Fibres are 8.75 voxels wide.
    assert curve.correlation[curve.frequencies < 0.1].mean() > 0.7
    assert abs(curve.correlation[curve.frequencies > 0.4].mean()) < 0.2
    assert 2.2 < curve.resolution().voxels < 9


def test_the_noise_of_halves_is_that_of_their_mean() -> None:
    signal = gaussian_filter(noise(0), 2) * 20
    frequencies, power = noise_power_of_halves(signal + noise(1), signal + noise(2))
    assert len(frequencies) == len(power) == 16
    np.testing.assert_allclose(power[4:], 0.5, rtol=0.25)


def test_flat_parts_are_found_and_show_the_noise() -> None:
    volume = noise(0, (24, 48, 48))
    volume[:, :, 24:] += 3 * np.sin(np.arange(24) / 2)  # structure in one half only
    volume += np.arange(48)[None, :, None] / 20  # a slope is no structure
    places = flat_places(volume, 12, 4)
    assert len(set(places)) == 4
    assert all(x < 24 for _, _, x in places)
    blocks = [volume[z : z + 12, y : y + 12, x : x + 12] for z, y, x in places]
    _, power = noise_power_of_flat_parts(blocks)
    assert power[2:].mean() == pytest.approx(1, rel=0.2)


def test_volumes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="same region"):
        fourier_shell_correlation(noise(0), noise(0, (32, 32, 30)))
    with pytest.raises(DataError, match="at least 8"):
        fourier_shell_correlation(noise(0, (4, 32, 32)), noise(0, (4, 32, 32)))
    with pytest.raises(DataError, match="not finite"):
        fourier_shell_correlation(np.full((8, 8, 8), np.nan), noise(0, (8, 8, 8)))
    with pytest.raises(DataError, match="fit in"):
        flat_places(noise(0), 40, 1)
