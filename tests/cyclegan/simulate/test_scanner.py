"""The scanner has the right geometry, noise and borders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.transform import iradon, radon

from cyclegan.errors import ConfigError, DataError, UsageError
from cyclegan.simulate import ScanSettings, scan
from cyclegan.simulate.scanner import detector_pixels, project, splat_matrix

IDEAL = ScanSettings(angles=120, photons=1e13, psf_pixels=0, read_noise=0, crop=0)
NOISY = ScanSettings(angles=40, photons=2_000, flats=200, psf_pixels=0, read_noise=0, crop=4)


def discs(size: int, seed: int = 0) -> np.ndarray:
    """Overlapping soft discs inside the inscribed circle: (size, size), about 0.01 per voxel."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.zeros((size, size))
    for _ in range(20):
        radius, far, turn = random.uniform((2, 0, 0), (size / 10, size / 3, 2 * np.pi))
        away = np.hypot(y - far * np.sin(turn), x - far * np.cos(turn))
        image += np.clip(0.5 + radius - away, 0, 1) * random.uniform(0.002, 0.01)
    return image.astype(np.float32)


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    return float(10 * np.log10(np.ptp(reference) ** 2 / np.mean((image - reference) ** 2)))


def test_agrees_with_an_independent_projector_and_reconstruction() -> None:
    image = discs(81)
    degrees = np.arange(120) * 1.5
    expected = iradon(radon(image, degrees, circle=True), degrees, filter_name="hann", circle=True)
    y, x = np.mgrid[:81, :81] - 40
    inside = np.hypot(y, x) < 38
    found = scan(image[None], IDEAL, 0)[0]
    assert psnr(found[inside], expected[inside]) > 45
    assert psnr(found[:, ::-1][inside], expected[inside]) < 25


def test_every_angle_sees_the_whole_square() -> None:
    volume = np.random.default_rng(0).random((1, 30, 30)).astype(np.float32)
    angles = np.linspace(0, np.pi, 19)
    lines = project(volume.reshape(1, -1).T.copy(), angles, detector_pixels(30))
    assert np.allclose(lines.sum(axis=1)[:, 0], volume.sum(), rtol=1e-5)


def test_the_square_is_reconstructed_into_its_corners() -> None:
    square = np.full((1, 48, 48), 0.01, np.float32)
    found = scan(square, replace(IDEAL, crop=4), 0)[0]
    assert found.shape == (40, 40)
    assert np.abs(found[:6, :6] / 0.01 - 1).max() < 0.05
    assert found.mean() == pytest.approx(0.01, rel=5e-3)


def test_a_short_detector_is_refused() -> None:
    with pytest.raises(DataError, match="too short"):
        splat_matrix(30, np.array([np.pi / 4]), 40, 1.0)


@pytest.mark.parametrize("binning", [2, 4])
def test_binning_shrinks_all_axes_and_stays_aligned(binning: int) -> None:
    random = np.random.default_rng(3)
    volume = np.repeat(np.stack([discs(64, 1), discs(64, 2)]), binning, axis=0)
    volume = volume + 0.005 * random.random((len(volume), 1, 1), dtype=np.float32)
    found = scan(volume, replace(IDEAL, binning=binning, crop=8), 0)
    assert found.shape == (2, 48 // binning, 48 // binning)
    fine = volume[:, 8:-8, 8:-8]
    side = 48 // binning
    coarse = fine.reshape(2, binning, side, binning, side, binning).mean(axis=(1, 3, 5))
    right = np.corrcoef(found.ravel(), coarse.ravel())[0, 1]
    assert right > 0.9
    for axis in (0, 1, 2):
        assert np.corrcoef(np.roll(found, 1, axis).ravel(), coarse.ravel())[0, 1] < right - 0.05
    # Photons are summed, not attenuations, so a coarse pixel across an edge reads a little less.
    assert found.mean() == pytest.approx(coarse.mean(), rel=0.04)


def noise(settings: ScanSettings, attenuation: float = 0.01) -> float:
    """Standard deviation of a scan of uniform matter."""
    square = np.full((6, 48, 48), attenuation, np.float32)
    difference = scan(square, settings, 1) - scan(square, settings, 2)
    return float(difference.std() / np.sqrt(2))


def test_noise_halves_with_four_times_the_photons() -> None:
    assert noise(NOISY) / noise(replace(NOISY, photons=8_000)) == pytest.approx(2, rel=0.06)


def test_noise_is_that_of_the_theory() -> None:
    # The variance of filtered back-projection through matter that absorbs equally everywhere is
    # pi^2 / angles * sum(kernel^2) / counts; the sum for ramp x Hann is read off a single spike.
    from cyclegan.simulate.scanner import ramp_filter

    spike = np.zeros((1, 129, 1), np.float32)
    spike[0, 64] = 1
    power = float((ramp_filter(spike) ** 2).sum())
    # Nearly empty: every pixel counts as many photons, whatever the ray's length. Linear
    # interpolation between two bins takes some noise away, correlated as it is: at most a third.
    expected = np.pi * np.sqrt(power / NOISY.angles / NOISY.photons)
    assert 0.75 * expected < noise(NOISY, 1e-6) < 1.0 * expected


def test_read_noise_and_few_flats_add_noise_and_blur_takes_it_away() -> None:
    plain = noise(NOISY)
    assert noise(replace(NOISY, read_noise=40)) > 1.2 * plain
    assert noise(replace(NOISY, psf_pixels=0.6)) < 0.8 * plain


def test_few_flats_make_rings() -> None:
    square = np.full((12, 49, 49), 1e-6, np.float32)
    y, x = np.mgrid[:49, :49] - 24
    radius = np.hypot(y, x).round().astype(int)

    def rings(flats: int) -> float:
        image = scan(square, replace(NOISY, photons=1e5, flats=flats, crop=0), 1)
        flat = image.reshape(12, -1)
        means = [flat[:, radius.ravel() == r].mean(axis=1) for r in range(4, 22)]
        return float(np.std(means))

    assert rings(2) > 4 * rings(2_000)


def test_a_seed_fixes_the_scan() -> None:
    volume = np.stack([discs(40)] * 2)
    first = scan(volume, NOISY, 5)
    assert first.dtype == np.float32
    assert np.array_equal(first, scan(volume, NOISY, 5))
    assert not np.array_equal(first, scan(volume, NOISY, 6))


def test_halves_are_independent_parts_of_one_scan() -> None:
    volume = np.full((4, 48, 48), 0.01, np.float32)

    def halves(settings: ScanSettings) -> list[np.ndarray]:
        return [scan(volume, settings, 5, half=half) for half in ("even", "odd", "all")]

    even, odd, whole = halves(replace(NOISY, flats=100_000))
    assert np.allclose((even + odd) / 2, whole, atol=0.05 * whole.std())
    even, odd, _ = halves(replace(NOISY, flats=4))
    # The mean over slices is structure (edges, too few angles); the rest is noise.
    noise_even, noise_odd = even - even.mean(axis=0), odd - odd.mean(axis=0)
    assert abs(np.corrcoef(noise_even.ravel(), noise_odd.ravel())[0, 1]) < 0.08


def test_an_opaque_sample_stays_finite() -> None:
    volume = np.full((2, 32, 32), 5.0, np.float32)
    assert np.isfinite(scan(volume, NOISY, 0)).all()


@pytest.mark.parametrize(
    ("shape", "binning", "words"),
    [
        ((4, 40, 44), 1, "Y = X"),
        ((40, 40), 1, "Y = X"),
        ((4, 42, 42), 4, "multiple"),
        ((5, 40, 40), 2, "multiple"),
        ((0, 40, 40), 1, "multiple"),
        ((4, 8, 8), 1, "vanish"),
    ],
)
def test_maps_that_cannot_be_scanned(shape: tuple[int, ...], binning: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        scan(np.zeros(shape), replace(NOISY, binning=binning), 0)


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        scan(np.full((2, 40, 40), np.nan), NOISY, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"angles": 1},
        {"photons": 0},
        {"photons": float("nan")},
        {"binning": 0},
        {"flats": 1},
        {"psf_pixels": -1},
        {"read_noise": float("inf")},
        {"crop": -1},
        {"binning": 4, "crop": 6},
    ],
)
def test_settings_that_make_no_scan(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(change))):
        replace(NOISY, **change)  # type: ignore[arg-type]


def test_an_unknown_half_is_refused() -> None:
    with pytest.raises(UsageError, match="both"):
        scan(np.zeros((1, 40, 40)), NOISY, 0, half="both")  # type: ignore[arg-type]
