"""The part of the score that sees checkerboards: planted patterns, and harmless structure."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from cyclegan.metrics.spectrum import gaussian_low_pass, radial_power
from cyclegan.score import CHECKERBOARD_WEIGHT, Score
from cyclegan.score.checkerboard import Checkerboard

SIZE, COUNT = 32, 8
DIRECTIONS = [axes for axes in itertools.product((0, 1), repeat=3) if any(axes)]
"""Axes, of Z, Y and X, along which a pattern alternates."""


def white(seed: int, size: int = SIZE, count: int = COUNT) -> Tensor:
    return torch.randn((count, 1, size, size, size), generator=torch.Generator().manual_seed(seed))


def texture(seed: int, size: int = SIZE) -> Tensor:
    """A random field with a little noise, as real B; standard deviation about 1."""
    smooth = gaussian_low_pass(white(seed, size), 1.5)
    return smooth / smooth.std() + 0.1 * white(seed + 1, size)


def walls(seed: int, size: int = SIZE) -> Tensor:
    """Two materials with walls of a voxel or two, standard deviation about 1."""
    return torch.tanh(4 * gaussian_low_pass(white(seed, size), 2.0) / 0.05)


KINDS = {"texture": texture, "walls": walls}


def along(axis: int, size: int = SIZE) -> Tensor:
    return torch.arange(size).reshape([-1 if i == axis else 1 for i in range(3)])


def board(axes: tuple[int, ...], size: int = SIZE) -> Tensor:
    """1 and -1 in turn along the chosen axes."""
    place = sum(chosen * along(axis, size) for axis, chosen in enumerate(axes))
    return (1.0 - 2.0 * (place % 2)).expand(size, size, size)


@functools.cache
def judge(kind: str) -> Checkerboard:
    return Checkerboard(KINDS[kind](100), 1)


def amplitude(kind: str, fake: Tensor) -> float:
    return judge(kind).parts(fake)["checkerboard"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", DIRECTIONS)
def test_a_planted_pattern_is_measured_in_every_direction(kind: str, axes: tuple[int, ...]) -> None:
    clean = KINDS[kind](200)
    found = [
        amplitude(kind, clean + planted * judge(kind).std * board(axes))
        for planted in (0.0, 0.005, 0.01, 0.05, 0.1)
    ]
    assert found[0] < 0.001
    assert found == sorted(found)
    assert found[1] == pytest.approx(0.005, abs=0.002)
    assert found[2] == pytest.approx(0.01, abs=0.0015)
    assert found[3:] == pytest.approx([0.05, 0.1], rel=0.03)


def test_all_seven_directions_together_add_up_by_energy() -> None:
    pattern = 0.02 * sum(board(axes) for axes in DIRECTIONS)
    found = amplitude("texture", texture(200) + judge("texture").std * pattern)
    assert found == pytest.approx(0.02 * math.sqrt(7), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_whose_sign_differs_from_region_to_region_counts_all_the_same(kind: str) -> None:
    clean = KINDS[kind](200)
    for axes in DIRECTIONS:
        signs = torch.sign(gaussian_low_pass(white(300), 10.0))
        patterns = (0.02 * signs * board(axes), 0.05 * signs * board(axes))
        faint, strong = (amplitude(kind, clean + pattern) for pattern in patterns)
        assert 0.008 < faint < 0.02
        assert 0.025 < strong < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", DIRECTIONS)
def test_a_pattern_as_strong_as_the_grey_value_has_no_mean_and_counts_too(
    kind: str, axes: tuple[int, ...]
) -> None:
    clean = KINDS[kind](200)
    faint, strong = (amplitude(kind, clean * (1 + part * board(axes))) for part in (0.01, 0.05))
    assert 0.004 < faint < 0.01
    assert 0.02 < strong < 0.05


def test_what_has_no_pattern_has_no_checkerboard() -> None:
    for seed in range(200, 280, 10):
        assert amplitude("texture", texture(seed)) < 0.001
        assert amplitude("walls", walls(seed)) < 0.003
        for kind, make in KINDS.items():
            for sigma in (0.6, 1.0, 2.0):
                assert amplitude(kind, gaussian_low_pass(make(seed), sigma)) < 0.001
            assert amplitude(kind, make(seed) + 0.5 * white(seed + 5)) < 0.005


def test_walls_along_the_grid_are_no_checkerboard() -> None:
    """Slabs and blocks with faces along the voxel planes, at any place."""
    random = torch.Generator().manual_seed(5)
    volumes = torch.zeros((COUNT, 1, SIZE, SIZE, SIZE))
    for volume in volumes[:, 0]:
        for _ in range(12):
            z, y, x = torch.randint(SIZE - 4, (3,), generator=random).tolist()
            depth, height, width = torch.randint(4, SIZE, (3,), generator=random).tolist()
            volume[z : z + depth, y : y + height, x : x + width] += 1.0
    halves = volumes.roll(1, dims=0), volumes.flip((2, 3))
    assert Checkerboard(halves[1] / volumes.std(), 1).parts(halves[0] / volumes.std())[
        "checkerboard"
    ] == pytest.approx(0.0, abs=0.01)


def test_a_transposed_convolution_shows_where_its_kernel_covers_voxels_unevenly() -> None:
    """Its input has a mean of 0, and so has its pattern."""
    layer = nn.ConvTranspose3d(1, 1, 3, stride=2, padding=1, output_padding=1, bias=False)
    nn.init.constant_(layer.weight, 0.3)
    coarse = nn.functional.avg_pool3d(texture(200), 2)
    with torch.no_grad():
        uneven = layer(coarse)
    even = nn.functional.interpolate(coarse, scale_factor=2, mode="trilinear")
    assert amplitude("texture", uneven) > 0.1
    assert amplitude("texture", even) < 0.001


def test_it_counts_in_units_of_real_b_whatever_that_is() -> None:
    pattern = 0.02 * board((1, 0, 1))
    fake = texture(200) + pattern
    once = Checkerboard(texture(100), 1).parts(fake)["checkerboard"]
    scaled = Checkerboard(3 * texture(100) + 7, 1).parts(3 * fake + 2)["checkerboard"]
    assert scaled == pytest.approx(once, rel=1e-3)
    assert once > 0.015


def test_a_pattern_that_real_b_has_is_no_fault() -> None:
    pattern = 0.03 * board((1, 1, 1))
    own = Checkerboard(texture(100) + pattern, 1)
    assert own.parts(texture(200) + pattern)["checkerboard"] < 0.004
    assert own.parts(texture(200) + 2 * pattern)["checkerboard"] > 0.04


def test_period_4_counts_at_four_times_the_resolution_only() -> None:
    turn = math.pi / 2 * along(1) + 0.4
    pattern = 0.03 * (math.sqrt(2) * torch.cos(turn)).expand(SIZE, SIZE, SIZE)
    fake = texture(200) + pattern
    found = {
        factor: Checkerboard(texture(100), factor).parts(fake)["checkerboard"]
        for factor in (1, 2, 4)
    }
    assert found[4] == pytest.approx(0.03, rel=0.2)
    assert found[1] == found[2] < 0.002
    short = Checkerboard(texture(100), 4).parts(texture(200) + 0.02 * board((1, 1, 1)))
    assert short["checkerboard"] == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("size", "factor"), [(8, 1), (9, 1), (20, 1), (16, 2), (32, 4), (36, 4)])
def test_the_smallest_and_odd_patches_show_a_strong_pattern_and_no_other(
    size: int, factor: int
) -> None:
    real, fake = texture(100, size), texture(200, size)
    part = Checkerboard(real[:4], factor)
    pattern = 0.2 * board((1, 1, 1), size)
    assert part.parts(fake[:4] + pattern)["checkerboard"] == pytest.approx(0.2, rel=0.1)
    assert part.parts(fake[:4])["checkerboard"] < 0.05
    assert Checkerboard(real[:2], factor).parts(fake[:2] + pattern)["checkerboard"] > 0.1


def scanned(seed: int) -> Tensor:
    noisy = texture(seed) + 0.8 * white(seed + 7)
    return noisy / noisy.std()


@functools.cache
def score() -> Score:
    return Score(scanned(400), texture(100))


def smooth(patches: Tensor) -> Tensor:
    return 1.5 * gaussian_low_pass(patches, 1.0)


def test_a_pattern_costs_its_weight_and_a_gaussian_filter_keeps_its_score() -> None:
    clean = score()(smooth)
    kept = clean.value + CHECKERBOARD_WEIGHT * clean.parts["checkerboard"]
    assert clean.value == pytest.approx(kept, abs=0.02)
    costs = [
        clean.value - score()(lambda x, a=a: smooth(x) + a * board((1, 1, 1))).value
        for a in (0.01, 0.03, 0.09)
    ]
    assert 0.3 < costs[0] < 0.5
    assert 1.0 < costs[1] < 1.5
    assert 3.0 < costs[2] < 5.0


def test_no_other_part_sees_a_faint_pattern() -> None:
    spoiled = score()(lambda x: smooth(x) + 0.01 * board((1, 1, 1)))
    clean = score()(smooth)
    for name, weight in (("pseudo_pair_gain_db", 1), ("sliced_wasserstein", 5)):
        assert abs(spoiled.parts[name] - clean.parts[name]) * weight < 0.05
    assert spoiled.metrics()["score/checkerboard"] > 0.008


@pytest.mark.parametrize("axes", DIRECTIONS)
def test_the_radial_spectrum_hardly_sees_it_at_all(axes: tuple[int, ...]) -> None:
    """The reason for this part: the mean over a shell hides a peak at one frequency."""
    clean = texture(200)
    spoiled = clean + 0.03 * board(axes)
    power = [10 * torch.log10(radial_power(v)[1].mean(dim=0) + 1e-2) for v in (clean, spoiled)]
    assert float((power[1] - power[0]).abs().mean()) < 0.15


def test_the_same_volumes_give_the_same_number_and_leave_the_random_state() -> None:
    fake = texture(200) + 0.01 * board((1, 0, 0))
    state = torch.get_rng_state()
    assert Checkerboard(texture(100), 1).parts(fake) == Checkerboard(texture(100), 1).parts(fake)
    assert torch.equal(torch.get_rng_state(), state)
