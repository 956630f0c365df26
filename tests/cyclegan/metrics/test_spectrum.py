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
    low_pass_correlation,
    null_distance_db,
    radial_power,
    shell_sums,
    spectrum_distance_db,
)


def white(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, 1, *shape), generator=torch.Generator().manual_seed(seed))


def grid_of(shape: tuple[int, int, int], axis: int) -> torch.Tensor:
    lengths = [-1 if i == axis else 1 for i in range(3)]
    return torch.arange(shape[axis], dtype=torch.float32).reshape(lengths).expand(shape)


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 16, 20), (15, 17, 13)])
def test_white_noise_has_its_variance_as_power_at_every_frequency(
    shape: tuple[int, int, int],
) -> None:
    frequencies, power = radial_power(3.0 * white(24, *shape))
    assert frequencies[0] == pytest.approx(1 / min(shape))
    assert frequencies[-1] <= 0.5
    assert len(frequencies) == min(shape) // 2
    assert power.shape == (24, len(frequencies))
    mean = power.mean(dim=0)
    assert torch.allclose(mean[2:], torch.full_like(mean[2:], 9.0), rtol=0.12)
    assert float((power.mean(dim=0) / 9 - 1).abs().max()) < 0.35


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_shows_at_its_own_frequency_along_every_axis(axis: int) -> None:
    shape = (16, 16, 16)
    wave = torch.cos(2 * math.pi * grid_of(shape, axis) * 5 / 16)[None, None]
    frequencies, power = radial_power(wave)
    assert float(frequencies[power[0].argmax()]) == pytest.approx(5 / 16)
    assert float(power[0, frequencies < 3 / 16].max()) < 1e-6 * float(power.max())


@pytest.mark.parametrize(("axis", "place"), [(0, (5, 0)), (1, (0, 5)), (2, (0, 5))])
def test_cylindrical_bins_tell_the_rotation_axis_from_the_slice(
    axis: int, place: tuple[int, int]
) -> None:
    shape = (16, 16, 16)
    wave = torch.cos(2 * math.pi * grid_of(shape, axis) * 5 / 16)[None, None]
    k_z, k_r, power = cylindrical_power(wave)
    assert power.shape == (1, len(k_z), len(k_r))
    assert divmod(int(power[0].argmax()), len(k_r)) == place
    assert float(k_z[5]) == float(k_r[5]) == 5 / 16


@pytest.mark.parametrize("shape", [(8, 10, 12), (9, 11, 7)])
def test_the_cylindrical_power_sums_to_the_variance(shape: tuple[int, int, int]) -> None:
    index, bins = cylindrical_index(shape)
    assert index.shape == (shape[0], shape[1], shape[2] // 2 + 1)
    assert index.max() < bins[0] * bins[1]
    share = cylindrical_share(shape)
    # The same bins counted over the full spectrum; rfftn returns half of it.
    k_z, k_y, k_x = (np.fft.fftfreq(size) for size in shape)
    i_z = np.rint(np.abs(k_z) * shape[0])[:, None, None]
    i_r = np.rint(np.hypot(k_y[:, None], k_x[None, :]) * min(shape[1:]))[None]
    flat = (i_z * bins[1] + i_r).astype(np.int64).reshape(-1)
    full = np.bincount(flat, minlength=bins[0] * bins[1]).reshape(bins) / flat.size
    np.testing.assert_allclose(share, full, atol=1e-12)
    assert share.sum() == pytest.approx(1.0)
    _, _, power = cylindrical_power(2.0 * white(200, *shape))
    assert float((power.mean(dim=0).numpy() * share).sum()) == pytest.approx(4.0, rel=0.05)


def test_the_mean_of_a_volume_does_not_show_in_its_spectrum() -> None:
    noise = white(2, 16, 16, 16)
    torch.testing.assert_close(
        radial_power(noise + 50)[1], radial_power(noise)[1], rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("sigma", [0.2, 0.7, 2.0])
def test_the_gaussian_has_its_exact_transfer_function(sigma: float) -> None:
    # A cosine of the transform with mirrored ends is only scaled, by exp(-2 pi^2 sigma^2 k^2).
    z = (grid_of((16, 12, 10), 0) + 0.5) * math.pi * 3 / 16
    wave = torch.cos(z)[None, None]
    expected = math.exp(-2 * (math.pi * sigma * 3 / 32) ** 2)
    torch.testing.assert_close(gaussian_low_pass(wave, sigma), expected * wave, atol=1e-5, rtol=0)


def test_the_gaussian_agrees_with_scipy_and_keeps_the_mean() -> None:
    from scipy.ndimage import gaussian_filter

    noise = white(1, 20, 18, 16)
    expected = gaussian_filter(noise[0, 0].numpy(), 1.5, mode="reflect", truncate=6)
    filtered = gaussian_low_pass(noise, 1.5)
    torch.testing.assert_close(filtered[0, 0], torch.from_numpy(expected), atol=1e-4, rtol=0)
    assert float(filtered.mean()) == pytest.approx(float(noise.mean()), abs=1e-5)
    assert gaussian_low_pass(noise, 0.0) is noise


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_correlation_tells_upright_from_inverted_at_every_resolution(factor: int) -> None:
    size = 8 * factor
    fine = gaussian_low_pass(white(3, size, size, size), 2.0 * factor)
    fine = fine / fine.std()
    coarse = torch.nn.functional.avg_pool3d(fine, factor)
    noisy = coarse + white(3, 8, 8, 8, seed=1)
    upright = float(low_pass_correlation(noisy, fine))
    assert upright > 0.8
    assert float(low_pass_correlation(fine, noisy)) == pytest.approx(upright)
    assert float(low_pass_correlation(noisy, 5 - 3 * fine)) == pytest.approx(-upright, abs=1e-5)


def test_the_correlation_does_not_see_fine_texture() -> None:
    structure = gaussian_low_pass(white(2, 16, 16, 16), 3.0)
    structure = structure / structure.std()
    parity = sum(grid_of((16, 16, 16), axis) for axis in range(3)) % 2
    checkerboard = 2 * parity[None, None] - 1
    # Plain correlation is negative here: the texture is inverted and the structure is not.
    x, y = structure + 2 * checkerboard, structure - 2 * checkerboard
    assert float((x * y).mean()) < 0
    assert float(low_pass_correlation(x, y)) > 0.95


def test_the_correlation_of_a_constant_is_zero_and_of_nan_is_nan() -> None:
    noise = white(2, 8, 8, 8)
    assert float(low_pass_correlation(noise, torch.full_like(noise, 0.3))) == 0.0
    assert math.isnan(float(low_pass_correlation(noise, noise * math.nan)))


def test_the_distance_counts_decibels_and_its_null_shrinks_with_the_number_of_volumes() -> None:
    power = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    assert spectrum_distance_db(power, power, 0.0) == 0.0
    assert spectrum_distance_db(10 * power, power, 0.0) == pytest.approx(10.0)
    swapped = power * torch.tensor([10.0, 0.1, 1.0], dtype=torch.float64)
    assert spectrum_distance_db(swapped, power, 0.0) == pytest.approx(20 / 3)
    assert spectrum_distance_db(power * 0, power * 1e-9, 1.0) < 1e-7
    few, many = (null_distance_db(radial_power(white(n, 12, 12, 12))[1], 0.0, 0) for n in (4, 64))
    assert 2 < few / many < 8


def test_what_is_not_a_batch_of_volumes_is_refused() -> None:
    for bad in (torch.zeros(4, 4, 4), torch.zeros(1, 2, 4, 4, 4), torch.zeros(0, 1, 4, 4, 4)):
        with pytest.raises(DataError, match="shape"):
            radial_power(bad)
    with pytest.raises(DataError, match="2 with 3"):
        low_pass_correlation(white(2, 4, 4, 4), white(3, 4, 4, 4))


def test_shell_correlation_is_1_with_itself_filtered_and_about_0_with_other_noise() -> None:
    volumes = white(8, 16, 16, 16)
    filtered = 3 * gaussian_low_pass(volumes, 0.7)
    assert np.allclose(shell_sums(volumes, volumes).correlation(), 1)
    assert np.all(shell_sums(volumes, filtered).correlation()[1:] > 0.9)
    assert np.all(shell_sums(volumes, -filtered).correlation()[1:] < -0.9)
    other = shell_sums(volumes, white(8, 16, 16, 16, seed=1)).correlation()
    assert np.abs(other[3:]).max() < 0.15


def test_shell_correlation_tells_how_much_is_noise() -> None:
    signal, noise = white(12, 16, 16, 16), white(12, 16, 16, 16, seed=1)
    found = shell_sums(signal, signal + 2 * noise).correlation()
    assert np.allclose(found[2:], 1 / math.sqrt(5), atol=0.1)


def test_shell_correlation_of_chosen_volumes_and_of_nothing() -> None:
    volumes = white(4, 8, 8, 8)
    mixed = volumes.clone()
    mixed[2:] *= -1
    sums = shell_sums(volumes, mixed)
    assert np.allclose(sums.correlation([0, 1]), 1)
    assert np.allclose(sums.correlation([2, 3]), -1)
    assert np.all(shell_sums(volumes, torch.zeros_like(volumes)).correlation() == 0)
    with pytest.raises(DataError, match="give equal ones"):
        shell_sums(volumes, volumes[:2])


def test_a_filter_first_used_in_inference_mode_serves_a_training_afterwards() -> None:
    volumes = white(1, 10, 11, 13)
    with torch.inference_mode():
        expected = gaussian_low_pass(volumes, 0.731)
    trained = volumes.clone().requires_grad_()
    filtered = gaussian_low_pass(trained, 0.731)
    filtered.sum().backward()
    assert torch.equal(filtered, expected)
    # The filter's columns sum to 1: a constant stays as it is.
    assert trained.grad is not None
    assert torch.allclose(trained.grad, torch.ones_like(volumes), atol=1e-5)
