import math

import pytest
import torch
from torch import Tensor

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import gaussian_low_pass, radial_power, spectrum_distance_db
from cyclegan.metrics.wasserstein import PatchDistance, octaves


def white(count: int, size: int, seed: int) -> Tensor:
    return torch.randn((count, 1, size, size, size), generator=torch.Generator().manual_seed(seed))


def material(seed: int, count: int = 8, size: int = 32) -> Tensor:
    """Two periodic phases with walls about one voxel thick, and some noise."""
    axes = (2, 3, 4)
    k = [torch.fft.fftfreq(size), torch.fft.fftfreq(size), torch.fft.rfftfreq(size)]
    squared = k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2
    spectrum = torch.fft.rfftn(white(count, size, seed), dim=axes)
    smooth = torch.fft.irfftn(spectrum * torch.exp(-80 * squared), (size,) * 3, dim=axes)
    walls = torch.tanh(4 * smooth / smooth.std()) + 0.15 * white(count, size, seed + 1)
    return walls / walls.std()


def same_spectrum(volumes: Tensor, seed: int) -> Tensor:
    """Random fields that share only the power spectrum with `volumes`."""
    axes = (2, 3, 4)
    amplitude = torch.fft.rfftn(volumes, dim=axes).abs().square().mean(dim=0).sqrt()
    noise = torch.fft.rfftn(white(len(volumes), volumes.shape[-1], seed), dim=axes)
    field = torch.fft.irfftn(noise / noise.abs() * amplitude, volumes.shape[2:], dim=axes)
    return field * (volumes.std() / field.std())


@pytest.fixture(scope="module")
def distance() -> PatchDistance:
    return PatchDistance(material(10))


def test_the_reference_lies_at_no_distance_and_another_set_of_its_kind_at_about_the_null(
    distance: PatchDistance,
) -> None:
    assert distance(material(10)) == 0.0
    others = [distance(material(seed)) for seed in (20, 30, 40)]
    assert distance.null > 0
    for other in others:
        assert 0.4 * distance.null < other < 2 * distance.null


def checkerboard(size: int) -> Tensor:
    n = torch.arange(size)
    return 1.0 - 2.0 * ((n[:, None, None] + n[:, None] + n) % 2)


WORSE = {
    "noise": lambda x: x + 0.4 * white(len(x), x.shape[-1], 99),
    "blur": lambda x: gaussian_low_pass(x, 1.5),
    "checkerboard": lambda x: x + 0.3 * checkerboard(x.shape[-1]),
    "contrast": lambda x: 1.3 * x,
    "drift": lambda x: x + 0.3,
    "flat": torch.zeros_like,
}


@pytest.mark.parametrize("fault", WORSE)
def test_every_fault_of_texture_lies_further_away(distance: PatchDistance, fault: str) -> None:
    assert distance(WORSE[fault](material(20))) > distance(material(20)) + distance.null


def test_what_has_the_same_spectrum_but_no_walls_is_told_apart(distance: PatchDistance) -> None:
    real, invented = material(20), same_spectrum(material(20), 5)
    powers = [radial_power(volumes)[1].mean(dim=0) for volumes in (real, invented)]
    assert spectrum_distance_db(*powers, floor=1e-2) < 0.6
    assert distance(invented) > 1.7 * distance(real)
    assert distance(invented) > 1.5 * distance.null


def test_the_distance_of_two_constants_is_their_difference() -> None:
    # Along a direction of length 1 a constant cube c lies at c times the sum of its coordinates.
    reference = material(10)
    distance = PatchDistance(reference)
    low, middle, high = (distance(torch.full_like(reference, c)) for c in (1.0, 2.0, 3.0))
    assert high - middle == pytest.approx(middle - low, rel=0.05)


def test_sets_of_other_numbers_and_sizes_compare(distance: PatchDistance) -> None:
    for count, size in ((3, 32), (8, 24), (13, 20)):
        assert distance(material(20, count, size)) < 3 * distance.null


def test_the_same_numbers_every_time_and_no_trace() -> None:
    state = torch.get_rng_state()
    first, second = (PatchDistance(material(10), seed=4) for _ in range(2))
    assert first.null == second.null
    assert first(material(20)) == second(material(20)) == first(material(20))
    assert PatchDistance(material(10), seed=5)(material(20)) != first(material(20))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_octave_that_is_empty_in_the_reference_does_not_blow_up() -> None:
    smooth = gaussian_low_pass(white(4, 16, 1), 4.0)
    assert math.isfinite(PatchDistance(smooth)(white(4, 16, 2)))
    assert PatchDistance(torch.zeros(4, 1, 8, 8, 8))(torch.zeros(4, 1, 8, 8, 8)) == 0.0


def test_octaves_add_up_to_the_volume() -> None:
    volumes = material(10)
    assert torch.allclose(torch.stack(octaves(volumes)).sum(dim=0), volumes, atol=1e-5)


def test_a_reference_that_is_too_small_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2"):
        PatchDistance(white(1, 16, 0))
    with pytest.raises(DataError, match="5 voxels"):
        PatchDistance(white(4, 4, 0))
