"""Agreement of images: equal ones agree everywhere, others as far as they share structure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter

from cyclegan.errors import DataError
from cyclegan.metrics.agreement import (
    HALF,
    ImageDifferences,
    differences,
    mean_power,
    same_images,
    shell_agreement,
)
from viz.pictures import difference_picture


def images(seed: int = 0, shape: tuple[int, ...] = (2, 24, 20, 22)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_an_image_agrees_with_itself_everywhere() -> None:
    one = images()
    found = differences([one, one.copy()]).of(0, 1)
    assert (found.mean, found.rms, found.largest) == (0, 0, 0)
    assert found.correlation == pytest.approx(1)
    curve = shell_agreement(one, one)
    assert curve is not None
    assert_allclose(curve.correlation, 1, rtol=1e-5)
    assert curve.resolution(HALF).frequency is None


def test_sums_over_parts_are_those_of_the_whole() -> None:
    first, second = images(1), 0.5 * images(1) + images(2) + 3
    found = ImageDifferences(2)
    for start in range(0, first.shape[1], 7):
        found.add([image[:, start : start + 7] for image in (first, second)])
    difference = second.astype(float) - first
    got = found.of(1, 0)
    assert got.voxels == first.size
    assert_allclose(got.correlation, np.corrcoef(first.ravel(), second.ravel())[0, 1], rtol=1e-9)
    assert_allclose(got.mean, difference.mean(), rtol=1e-9)
    assert_allclose(got.rms, math.sqrt(np.mean(difference**2)), rtol=1e-9)
    assert_allclose(got.largest, np.abs(difference).max(), rtol=1e-9)


def test_what_is_not_finite_in_one_image_counts_in_none() -> None:
    first, second = images(1), images(2)
    broken = first.copy()
    broken[0, :5] = np.nan
    whole = differences([first[:, 5:], second[:, 5:]]).of(0, 1)
    with_nan = ImageDifferences(2)
    with_nan.add([broken[0], second[0]])
    with_nan.add([broken[1, 5:], second[1, 5:]])
    assert with_nan.of(0, 1).rms == pytest.approx(whole.rms)
    assert shell_agreement(broken, second) is not None  # of the patch without gaps
    nothing = np.full((1, 9, 9, 9), np.nan)
    with pytest.raises(DataError, match="no voxel is finite"):
        differences([nothing, nothing]).of(0, 1)
    assert shell_agreement(nothing, nothing) is None


def test_a_constant_image_correlates_with_nothing() -> None:
    assert differences([np.ones((1, 9, 9, 9)), images(0, (1, 9, 9, 9))]).of(0, 1).correlation == 0


def test_two_images_stop_agreeing_where_their_own_inventions_prevail() -> None:
    truth = gaussian_filter(images(0, (48, 48, 48)), 1.2) * 10
    runs = [truth + 0.6 * images(seed, truth.shape) for seed in (1, 2)]
    curve = shell_agreement(runs[0][None], runs[1][None])
    alone = shell_agreement(images(3, (1, 48, 48, 48)), images(4, (1, 48, 48, 48)))
    assert curve is not None
    assert alone is not None
    assert curve.correlation[:4].min() > 0.9
    assert 2.5 < curve.resolution(HALF).voxels < 10
    assert math.isinf(alone.resolution(HALF).voxels)


def test_small_blocks_have_no_shells_and_parts_must_match() -> None:
    assert shell_agreement(images(0, (1, 4, 9, 9)), images(1, (1, 4, 9, 9))) is None
    assert mean_power(images(0, (1, 4, 9, 9))) is None
    with pytest.raises(DataError, match="one shape"):
        ImageDifferences(2).add([np.ones((2, 2)), np.ones((2, 3))])


def test_white_noise_has_the_power_of_its_variance() -> None:
    curve = mean_power(2 * images(0, (4, 24, 24, 24)))
    assert curve is not None
    assert_allclose(curve[1][2:].mean(), 4, rtol=0.1)


def test_equal_images_are_found() -> None:
    a, b = images(0), images(1)
    assert same_images([a, b, a.copy(), b[:1], b]) == [0, 1, 0, 3, 1]


def test_pictures_of_differences_are_white_red_and_blue() -> None:
    first, second = np.zeros((2, 2)), np.array([[0.0, 9], [-9, np.nan]])
    picture = difference_picture(first, second, 3.0, pixels=4)
    assert picture.shape == (4, 4, 3)
    assert tuple(picture[0, 0]) == (255, 255, 255)
    red, blue = picture[0, 3].astype(int), picture[3, 0].astype(int)
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert len(set(picture[3, 3].tolist())) == 1  # grey
