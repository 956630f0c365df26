from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from viz.pictures import CYCLES, captioned, comparison, grey_window, six_images, to_uint8

NAMES = [name for row in CYCLES for name in row]


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cycle(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(noise((2, 1, *(shape_a if name[-1] == "A" else shape_b)), i))
        for i, name in enumerate(NAMES)
    }


def cell(picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return the part of a six-image picture that shows `name`."""
    row, column = next((r, names.index(name)) for r, names in enumerate(CYCLES) if name in names)
    # A frame of 4 pixels, 4 between the rows, 16 between the columns.
    height, width = (picture.shape[0] - 12) // 2, (picture.shape[1] - 40) // 3
    y, x = 4 + row * (height + 4), 4 + column * (width + 16)
    return picture[y : y + height, x : x + width]


def brightness(picture: NDArray[np.uint8]) -> float:
    """Return the mean grey without the paper."""
    return float(picture[picture < 255].mean())


def test_the_window_is_mapped_to_all_grey_values() -> None:
    values = np.array([[-9.0, -1.0, 0.0, 1.0, 9.0, np.nan, np.inf, -np.inf]])
    assert to_uint8(values, (-1.0, 1.0)).tolist() == [[0, 0, 128, 255, 255, 0, 255, 0]]
    assert to_uint8(np.zeros((2, 2)), (0.0, 0.0)).dtype == np.uint8


def test_the_window_ignores_outliers_and_what_is_not_finite() -> None:
    image = noise((50, 50, 50))
    low, high = grey_window(image)
    image[0, 0, :3] = [1e9, np.nan, -np.inf]
    assert grey_window(image) == pytest.approx((low, high), abs=0.01)
    assert (low, high) == pytest.approx((-2.576, 2.576), abs=0.05)  # a normal distribution's
    assert grey_window(np.full((2, 2), np.nan)) == (0.0, 1.0)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_small_patches_are_enlarged_and_about_square(size: int) -> None:
    picture = six_images(cycle((size,) * 3, (size,) * 3))
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert 3 * 256 <= picture.shape[1] <= 3 * 256 + 64
    assert 0.9 < picture.shape[0] / picture.shape[1] < 1.1


def test_images_of_a_domain_share_the_window_of_its_real_one() -> None:
    images = cycle((32, 32, 32), (32, 32, 32))
    before = six_images(images)
    images["fake_B"] = images["fake_B"] + 1.0
    images["rec_A"] = images["rec_A"] - 1.0
    after = six_images(images)
    assert brightness(cell(after, "fake_B")) > brightness(cell(before, "fake_B")) + 20
    assert brightness(cell(after, "rec_A")) < brightness(cell(before, "rec_A")) - 20
    for name in ("real_A", "real_B", "fake_A", "rec_B"):
        assert np.array_equal(cell(after, name), cell(before, name)), name
    # Another unit in one domain changes nothing visible in either.
    scaled = {n: image * 100 + 7 if n[-1] == "B" else image for n, image in images.items()}
    assert np.abs(six_images(scaled).astype(int) - after.astype(int)).max() <= 1


def test_slices_are_the_central_ones_of_the_first_patch() -> None:
    images = cycle((32, 32, 32), (32, 32, 32))
    before = six_images(images)
    changed = {name: image.clone() for name, image in images.items()}
    changed["fake_B"][1] += 100  # the second patch
    changed["fake_B"][0, 0, 3, 4, 5] += 100  # a voxel in none of the central slices
    assert np.array_equal(six_images(changed), before)
    for voxel in [(16, 4, 5), (3, 16, 5), (3, 4, 16)]:
        changed = {name: image.clone() for name, image in images.items()}
        changed["fake_B"][(0, 0, *voxel)] += 100
        after = six_images(changed)
        assert not np.array_equal(cell(after, "fake_B"), cell(before, "fake_B"))
        assert np.array_equal(cell(after, "rec_A"), cell(before, "rec_A"))


@pytest.mark.parametrize("factor", [2, 4])
def test_super_resolution_shows_both_domains_at_one_extent(factor: int) -> None:
    images = cycle((16, 16, 16), (16 * factor,) * 3)
    # The same object in both: each coarse voxel is a block of fine ones.
    coarse = images["real_A"]
    images["real_B"] = torch.repeat_interleave(coarse, factor, 2)
    images["real_B"] = torch.repeat_interleave(images["real_B"], factor, 3)
    images["real_B"] = torch.repeat_interleave(images["real_B"], factor, 4)
    picture = six_images(images)
    a, b = cell(picture, "real_A"), cell(picture, "real_B")
    inside = (slice(60, 250), slice(30, 250))  # the xy slice without title and label
    difference = np.abs(a[inside].astype(int) - b[inside].astype(int))
    assert difference.max() <= 1


def test_voxels_that_are_not_finite_are_red() -> None:
    images = cycle((16, 16, 16), (16, 16, 16))
    red = np.array([255, 0, 0])
    assert not (six_images(images) == red).all(axis=2).any()
    images["fake_A"][0, 0, 8, 12, 12] = torch.nan
    picture = six_images(images)
    assert (cell(picture, "fake_A") == red).all(axis=2).sum() >= 256
    images["real_A"][:] = torch.nan  # no values to choose a window from
    six_images(images)


def test_flat_patches_keep_their_shape() -> None:
    picture = six_images(cycle((16, 64, 64), (16, 64, 64)))
    assert 2 * (256 + 32) < picture.shape[0] < 2 * (256 + 32) + 64


def test_columns_share_a_window_and_an_extent(tmp_path: Path) -> None:
    slow = noise((40, 60, 60))
    columns = {"input": slow[::2, ::2, ::2], "brighter": slow + 0.5, "slow scan": slow}
    picture = comparison(columns, captions={"input": "20.7 dB"}, pixels=120)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == pytest.approx(3 * 120 + 16, abs=4)
    assert picture.shape[0] == pytest.approx(120 + 80 + 40 + 12, abs=4)
    thirds = np.array_split(picture, 3, axis=1)
    assert brightness(thirds[1]) > brightness(thirds[2]) + 10
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["data"] = slow
        read = comparison(
            {**columns, "slow scan": file["data"]}, captions={"input": "20.7 dB"}, pixels=120
        )
    assert np.array_equal(read, picture)


def test_a_large_volume_shows_its_centre_voxel_by_voxel() -> None:
    volume = np.zeros((100, 200, 200), np.float32)
    volume[50, 75:125, 75:125] = noise((50, 50))
    whole = comparison({"a": volume}, window=(-2, 2), pixels=50)
    cut = comparison({"a": volume[25:75, 75:125, 75:125]}, window=(-2, 2), pixels=50)
    assert np.array_equal(whole, cut)
    coarse = comparison({"a": volume[::2, ::2, ::2], "b": volume}, window=(-2, 2), pixels=50)
    assert coarse.shape == comparison({"a": volume, "b": volume}, window=(-2, 2), pixels=50).shape


def test_captions_stand_above_and_leave_the_pictures_as_they_are() -> None:
    one = np.full((50, 200, 3), 77, np.uint8)
    other = np.full((40, 100, 3), 99, np.uint8)
    picture = captioned({"before\nwhy": one, "after": other})
    assert picture.shape[1] == pytest.approx(300, abs=30)
    assert (picture == 77).all(axis=2).sum() >= one[..., 0].size
    assert (picture == 99).all(axis=2).sum() >= other[..., 0].size
    assert (picture[:25, :200] < 50).any()  # the caption
    assert (picture[:, 200:] < 50).any()
    assert not np.array_equal(captioned({"a": one}), captioned({"b": one}))
