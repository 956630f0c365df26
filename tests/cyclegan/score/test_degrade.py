import math

import numpy as np
import pytest
import torch

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import (
    cylindrical_index,
    cylindrical_power,
    cylindrical_share,
    gaussian_low_pass,
)
from cyclegan.score.degrade import (
    Degradation,
    _fit_noise,
    best_gaussian_mse,
    fit_degradation,
    fitted_mse,
    to_coarse,
    to_fine,
)

Shape = tuple[int, int, int]
SIZE = 24


def white(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn((count, 1, size, size, size), generator=torch.Generator().manual_seed(seed))


def blobs(count: int, size: int, sigma: float, seed: int) -> torch.Tensor:
    """Two materials with blurred borders, standard deviation 1."""
    field = gaussian_low_pass(white(count, size, seed), sigma)
    field = torch.tanh(3 * field / field.std())
    return field / field.std()


def ramp_power(size: int) -> np.ndarray:
    """(Kz, Kr): Hann-filtered ramp within a slice, white between slices."""
    _, (n_z, n_r) = cylindrical_index((size, size, size))
    k_r = np.minimum(np.arange(n_r) / size, 0.5)
    return np.broadcast_to(0.02 + k_r * np.cos(np.pi * k_r) ** 2, (n_z, n_r)).copy()


def coloured(count: int, size: int, std: float, seed: int) -> torch.Tensor:
    """Noise with the spectrum of `ramp_power`, made here by numpy's full transform."""
    k = np.fft.fftfreq(size)
    k_r = np.minimum(np.hypot(k[:, None], k[None, :]), 0.5)
    amplitude = np.sqrt(0.02 + k_r * np.cos(np.pi * k_r) ** 2)
    slices = np.fft.fft2(white(count, size, seed).double().numpy())
    noise = torch.from_numpy(np.fft.ifft2(slices * amplitude).real).float()
    return noise * std / noise.std()


def domains(factor: int, gain: float, sigma: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unpaired patches of both domains; A is gain * blurred structure + noise of variance."""
    coarse = 16 if factor == 4 else SIZE
    size = factor * coarse
    real_B = blobs(12, size, 1.8 * factor, seed)
    other = blobs(12, size, 1.8 * factor, seed + 1)
    signal = gain * gaussian_low_pass(to_coarse(other, factor), sigma)
    noise = coloured(12, coarse, math.sqrt(1 - float(signal.var())), seed + 2)
    return signal + noise, real_B


@pytest.mark.parametrize(("factor", "sigma"), [(1, 0.0), (1, 0.8), (2, 0.6), (4, 0.6)])
def test_the_fit_recovers_gain_blur_and_noise_from_unpaired_patches(
    factor: int, sigma: float
) -> None:
    for seed in (10, 20):
        real_A, real_B = domains(factor, 0.8, sigma, seed)
        fit = fit_degradation(real_A, real_B, factor)
        assert fit.gain == pytest.approx(0.8, rel=0.12)
        # The effect of the blur on the finest structures, about 6 voxels wide.
        transfer, true_transfer = (
            math.exp(-2 * (math.pi * v / 6) ** 2) for v in (fit.sigma, sigma)
        )
        assert transfer == pytest.approx(true_transfer, abs=0.15)
        signal = 0.8 * gaussian_low_pass(to_coarse(real_B, factor), sigma)
        true_std = math.sqrt(1 - float(signal.var()))
        assert fit.noise_std == pytest.approx(true_std, rel=0.08)
        assert float(fit.apply(real_B, seed=0).std()) == pytest.approx(1.0, rel=0.05)


def test_the_noise_spectrum_is_coloured_within_the_slice_and_white_between() -> None:
    real_A, real_B = domains(1, 0.8, 0.5, seed=30)
    fit = fit_degradation(real_A, real_B)
    noise = real_A - 0.8 * gaussian_low_pass(blobs(12, SIZE, 1.8, 31), 0.5)
    truth = cylindrical_power(noise)[2].mean(dim=0)
    decibels = 10 * torch.log10(fit.noise_power / truth)
    # Single bins are uncertain where structure and noise meet, none where there is only noise.
    assert float(decibels[:, 6:13].abs().mean()) < 0.5
    assert float(decibels[:, 6:13].abs().max()) < 3.0
    assert 0.5 < float(fit.noise_power[:5, 1:4].mean() / truth[:5, 1:4].mean()) < 2.0


@pytest.mark.parametrize(("gain", "sigma"), [(1.4, 0.0), (0.5, 0.0), (1.4, 1.0)])
def test_the_noise_is_what_the_signal_leaves(gain: float, sigma: float) -> None:
    real_B = blobs(12, SIZE, 1.8, seed=80)
    real_A = gain * gaussian_low_pass(real_B, sigma) + 0.5 * white(12, SIZE, seed=81)
    noise = _fit_noise(real_A, real_B, gain, sigma)
    assert float((noise * cylindrical_share((SIZE,) * 3)).sum()) == pytest.approx(0.25, rel=0.1)


def test_drawn_noise_has_the_power_asked_for() -> None:
    power = ramp_power(SIZE)
    model = Degradation(1.0, 0.0, 1, (SIZE, SIZE, SIZE), torch.from_numpy(power))
    noise = model.noise(40, seed=3)
    assert float(noise.std()) == pytest.approx(model.noise_std, rel=0.02)
    measured = cylindrical_power(noise)[2].mean(dim=0).numpy()
    inner = (slice(0, SIZE // 2), slice(3, SIZE // 2))
    assert np.abs(np.log(measured[inner] / power[inner])).mean() < 0.08


@pytest.mark.parametrize("shape", [(12, 16, 20), (9, 11, 13)])
def test_volumes_need_not_be_cubes(shape: Shape) -> None:
    generator = torch.Generator().manual_seed(1)
    real_A = torch.randn((4, 1, *shape), generator=generator)
    real_B = gaussian_low_pass(torch.randn((4, 1, *shape), generator=generator), 1.0)
    pseudo = fit_degradation(real_A, real_B / real_B.std()).apply(real_B, seed=0)
    assert pseudo.shape == real_A.shape
    assert bool(pseudo.isfinite().all())


def test_the_degradation_repeats_by_seed_and_leaves_the_global_state() -> None:
    real_A, real_B = domains(1, 0.8, 0.5, seed=40)
    before = torch.get_rng_state()
    first, second = (fit_degradation(real_A, real_B).apply(real_B, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, fit_degradation(real_A, real_B).apply(real_B, seed=6))


def test_equal_domains_fit_a_degradation_that_does_nothing() -> None:
    real_B = blobs(8, SIZE, 1.8, seed=50)
    fit = fit_degradation(real_B, real_B)
    assert fit.gain == pytest.approx(1.0, abs=0.02)
    assert fit.sigma <= 0.1
    assert fit.noise_std < 0.1


@pytest.mark.parametrize("factor", [2, 4])
def test_going_fine_and_back_keeps_the_place(factor: int) -> None:
    smooth = gaussian_low_pass(white(1, 16, seed=1), 3.0)
    back = to_coarse(to_fine(smooth, factor), factor)
    assert float((back - smooth)[..., 1:-1, 1:-1, 1:-1].abs().max()) < 0.1 * float(smooth.std())


def test_the_best_gaussian_is_the_best_on_a_fine_grid_and_gets_a_free_fit() -> None:
    truth = blobs(4, SIZE, 1.8, seed=60)
    noisy = truth + white(4, SIZE, seed=61)
    mse, sigma = best_gaussian_mse(noisy, truth, rim=2)
    inside = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    for other in (0.0, 0.5 * sigma, 0.8 * sigma, 1.3 * sigma, 2 * sigma):
        assert mse <= fitted_mse(gaussian_low_pass(noisy, other)[inside], truth[inside]) + 1e-3
    assert best_gaussian_mse(7 - 3 * noisy, truth, rim=2) == (pytest.approx(mse, rel=1e-4), sigma)
    doubled = best_gaussian_mse(noisy, truth, rim=2, voxel=0.5)
    assert doubled[1] < 2 * sigma


def test_patches_that_do_not_fit_are_refused() -> None:
    fine = blobs(2, 16, 1.8, seed=70)
    with pytest.raises(DataError, match="2 times"):
        fit_degradation(fine, fine, 2)
    with pytest.raises(DataError, match="at least 2"):
        fit_degradation(fine[:1], fine)
    with pytest.raises(DataError, match="patches of B are constant"):
        fit_degradation(fine, torch.ones_like(fine))
