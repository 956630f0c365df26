"""Volumes: standardised, finite, shared in memory, with the voxel size of the file."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import (
    MemoryBudget,
    PatchSampler,
    Standardise,
    Statistics,
    Volume,
    VolumeEntry,
    open_volumes,
)
from cyclegan.data.statistics import pooled
from cyclegan.errors import DataError

Noise = Callable[..., np.ndarray]
Whole = Callable[[Volume], np.ndarray]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# -- standardisation --------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize(
    ("dtype", "mean", "std", "tolerance"),
    [("f4", 30_000, 5, 1e-3), ("u2", 30_000, 50, 2e-6), ("i4", 2e9, 20, 2e-6), ("f2", 9, 2, 2e-6)],
)
def test_a_raw_volume_is_standardised_on_load_and_can_be_scaled_back(
    write: Any,
    whole: Whole,
    budget: Any,
    caplog: pytest.LogCaptureFixture,
    memory: float,
    dtype: str,
    mean: float,
    std: float,
    tolerance: float,
) -> None:
    array = np.random.default_rng(0).normal(mean, std, (12, 12, 12)).astype(dtype)
    volume = Volume(write(array), budget=budget(memory))
    found = whole(volume).astype(np.float64)
    exact = array.astype(np.float64)
    np.testing.assert_allclose(
        found[0], (exact - exact.mean()) / exact.std(), atol=tolerance, rtol=2e-6
    )
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found[0] * volume.std + volume.mean, exact, rtol=1e-6)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"is standardised on load: it has mean {volume.mean:.6g}" in record.message


@pytest.mark.parametrize(
    ("mean", "std", "mode", "changed", "warned"),
    [
        (0.0, 1.0, "auto", False, False),
        (0.09, 1.09, "auto", False, False),
        (0.11, 1.0, "auto", True, False),
        (0.0, 1.11, "auto", True, False),
        (0.0, 0.89, "auto", True, False),
        (0.09, 1.0, "always", True, False),
        (0.09, 1.0, "never", False, False),
        (0.2, 1.0, "never", False, True),
    ],
)
def test_what_is_standardised_and_what_is_told(
    write: Any,
    noise: Noise,
    whole: Whole,
    caplog: pytest.LogCaptureFixture,
    mean: float,
    std: float,
    mode: Standardise,
    changed: bool,
    warned: bool,
) -> None:
    array = noise(12, 12, 12) * np.float32(std) + np.float32(mean)
    volume = Volume(write(array), standardise=mode)
    assert volume.statistics.mean == pytest.approx(mean, abs=1e-5)
    if changed:
        assert (volume.mean, volume.std) == (volume.statistics.mean, volume.statistics.std)
        assert whole(volume).mean() == pytest.approx(0, abs=1e-5)
    else:
        assert (volume.mean, volume.std) == (0, 1)
        np.testing.assert_array_equal(whole(volume)[0], array)
    assert ("is standardised on load" in caplog.text) == changed
    assert ("does not look standardised" in caplog.text) == warned


@pytest.mark.parametrize("memory", [0, 1e9])
def test_given_statistics_are_used_and_nothing_is_measured(
    write: Any, noise: Noise, whole: Whole, budget: Any, memory: float
) -> None:
    array = noise(6, 6, 6)
    array[1, 1, 1] = np.nan
    given = Statistics(count=1000, non_finite=0, mean=10.0, std=4.0)
    (volume,) = open_volumes([write(array)], statistics=[given], budget=budget(memory))
    assert volume.statistics is given
    assert (volume.mean, volume.std) == (10, 4)
    expected = np.where(np.isfinite(array), (array - 10) / 4, 0)
    np.testing.assert_allclose(whole(volume)[0], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(DataError, match="statistics of 2 volumes for 1"):
        open_volumes([volume.entry], statistics=[given, given])


def test_a_line_is_told_once_for_a_volume_that_is_opened_often(
    write: Any, noise: Noise, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(noise(6, 6, 6) + 500)
    for _ in range(3):
        Volume(source)
    assert len(caplog.records) == 1


# -- non-finite voxels ------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize("mode", ["auto", "never"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_non_finite_voxels_are_replaced_by_the_mean_and_told_once(
    write: Any,
    whole: Whole,
    budget: Any,
    caplog: pytest.LogCaptureFixture,
    memory: float,
    mode: Standardise,
    dtype: str,
) -> None:
    array = np.random.default_rng(0).normal(50, 10, (8, 8, 8)).astype(dtype)
    array[0, 0, :2], array[4, 4, 4] = np.nan, np.inf
    volume = Volume(write(array), standardise=mode, budget=budget(memory))
    bad = ~np.isfinite(array)
    found = whole(volume)[0]
    mean = array[~bad].astype(np.float64).mean()
    np.testing.assert_allclose(found[bad], 0 if mode == "auto" else mean, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(
        found[~bad], (array[~bad].astype(np.float64) - volume.mean) / volume.std, atol=1e-5
    )
    assert caplog.text.count("3 of 512 voxels (0.0059 of them) are NaN or infinite") == 1


@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize("value", [1e6, -1e12, 3e38])
def test_one_absurd_voxel_changes_no_other(
    write: Any,
    whole: Whole,
    budget: Any,
    caplog: pytest.LogCaptureFixture,
    memory: float,
    value: float,
) -> None:
    array = np.random.default_rng(0).normal(50, 10, (24, 24, 24)).astype("f4")
    before = whole(Volume(write(array), budget=budget(memory)))
    array[3, 4, 5] = value
    volume = Volume(write(array, name="hot.h5"), budget=budget(memory))
    after = whole(volume)
    rest = np.ones(array.shape, bool)
    rest[3, 4, 5] = False
    np.testing.assert_allclose(after[0][rest], before[0][rest], atol=1e-3)
    assert 45 < abs(float(after[0, 3, 4, 5])) < 55  # clipped, and still the most extreme one
    assert volume.statistics.extreme == 1
    assert "1 of 13824 voxels (7.2e-05 of them) lie extremely far from all others" in caplog.text
    towards = "(up to" if value > 0 else "(down to"
    assert f"{towards} {value:.5g}); they are clipped there" in caplog.text


@pytest.mark.parametrize("named", [None, -9999.0])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_voxels_without_data_get_the_mean(
    write: Any, whole: Whole, caplog: pytest.LogCaptureFixture, dtype: str, named: float | None
) -> None:
    array = np.random.default_rng(0).normal(50, 10, (24, 24, 24)).astype(dtype)
    expected = (array - array[:-2].mean()) / array[:-2].std()
    array[-2:] = -9999
    entry = write(array)
    volume = Volume(VolumeEntry(path=entry.path, dset=entry.dset, no_data=named))
    np.testing.assert_allclose(whole(volume)[0, :-2], expected[:-2], atol=1e-5)
    assert (whole(volume)[0, -2:] == 0).all()
    assert volume.statistics.without_data == 2 * 24 * 24
    assert "1152 of 13824 voxels (0.083 of them) are -9999, taken for no data" in caplog.text


def test_what_is_frequent_belongs_to_the_image(write: Any, whole: Whole) -> None:
    array = np.random.default_rng(0).normal(0, 1, (24, 24, 24)).astype("f4")
    array[:, :5, :5] = 1000  # a wire, or what saturates the detector
    volume = Volume(write(array))
    assert (volume.statistics.extreme, volume.statistics.without_data) == (0, 0)
    exact = array.astype(np.float64)
    np.testing.assert_allclose(whole(volume)[0], (exact - exact.mean()) / exact.std(), atol=1e-5)


def test_the_values_that_count_are_stored_with_the_grey_scale(write: Any) -> None:
    array = np.random.default_rng(0).normal(50, 10, (24, 24, 24)).astype("f4")
    array[0, 0, 0], array[-1] = 1e9, -9999
    found = Volume(write(array)).statistics
    again = Statistics.from_plain(found.to_plain())
    assert (again, again.valid, again.extreme, again.without_data) == (found, found.valid, 1, 576)
    earlier = {name: found.to_plain()[name] for name in ("count", "non_finite", "mean", "std")}
    assert Statistics.from_plain(earlier).valid.high == np.inf


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "none of the 64 voxels is finite"),
        (3.5, "all 64 finite voxels are 3.5"),
        (1e200, "too large"),
    ],
)
@pytest.mark.parametrize("memory", [0, 1e9])
def test_volumes_without_anything_to_learn_are_refused(
    write: Any, budget: Any, value: float, words: str, memory: float
) -> None:
    array = np.full((4, 4, 4), value)
    if value > 1e100:
        array[0] *= -1
    shared = budget(memory)
    with pytest.raises(DataError, match=words):
        Volume(write(array), standardise="never", budget=shared)
    gc.collect()
    assert shared.free == memory


def test_a_region_that_was_never_written_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as handle:
        handle.create_dataset("chunked", (8, 8, 8), "f4", chunks=(4, 4, 4))
        handle.create_dataset("contiguous", (8, 8, 8), "f4")
    constant = "all 512 finite voxels are 0; take another region"
    for name, accepted, fault in (
        ("chunked", False, "none of its 8 chunks was ever written; copy it again"),
        ("chunked", True, constant),
        ("contiguous", False, constant),
    ):
        with pytest.raises(DataError, match=fault):
            Volume(VolumeEntry(path=tmp_path / "v.h5", dset=name, fill_missing=accepted))


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "size"), [((0, 0, 5), (2, 2, 2)), ((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (0, 2, 2))]
)
@pytest.mark.parametrize("memory", [0, 1e9])
def test_reading_outside_is_an_error_not_a_smaller_patch(
    write: Any, noise: Noise, budget: Any, memory: float, origin: Any, size: Any
) -> None:
    volume = Volume(write(noise(6, 6, 6)), budget=budget(memory))
    with pytest.raises(ValueError, match="lie outside"):
        volume.read(origin, size)


# -- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "nbytes"), [("f2", 2), ("u1", 1), (">u2", 2), ("f4", 4), ("f8", 8), ("i8", 8)]
)
def test_volumes_are_held_in_the_files_own_numbers(write: Any, dtype: str, nbytes: int) -> None:
    array = np.random.default_rng(0).normal(50, 9, (10, 10, 10)).astype(dtype)
    budget = MemoryBudget(10_000)
    volume = Volume(write(array), budget=budget)
    assert volume.in_memory
    assert budget.free == 10_000 - 1000 * nbytes
    volume.close()
    assert budget.free == 10_000


def test_the_budget_is_shared_and_given_back(write: Any, noise: Noise) -> None:
    sources = [write(noise(10, 10, 10, seed=i), name=f"{i}.h5") for i in range(3)]
    budget = MemoryBudget(9_000)
    volumes = open_volumes(sources, budget=budget)
    assert [v.in_memory for v in volumes] == [True, True, False]
    assert budget.free == 1_000
    del volumes
    gc.collect()
    assert budget.free == 9_000


def test_a_region_opened_twice_is_in_memory_once(
    tmp_path: Path, write: Any, noise: Noise, whole: Whole
) -> None:
    array = noise(10, 10, 10)
    source = write(array)
    (tmp_path / "link.h5").symlink_to(source.path)
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["data"] = h5py.ExternalLink("v.h5", "/data")
    budget = MemoryBudget(5_000)
    names = ("v.h5", "link.h5", "other.h5")
    volumes = open_volumes(
        [VolumeEntry(path=tmp_path / name, dset="data") for name in names], budget=budget
    )
    assert all(v.in_memory for v in volumes)
    assert budget.free == 1_000
    volumes[0].close()
    np.testing.assert_array_equal(whole(volumes[1])[0], array)
    assert budget.free == 1_000
    volumes[1].close()
    volumes[2].close()
    assert budget.free == 5_000


def test_a_file_written_anew_is_read_anew(write: Any, noise: Noise, whole: Whole) -> None:
    source = write(noise(6, 6, 6))
    first = Volume(source, budget=MemoryBudget(1e9))
    other = noise(6, 6, 6, seed=1) + 70
    source.path.unlink()
    again = Volume(write(other), budget=MemoryBudget(1e9))
    assert again.statistics.mean == pytest.approx(70, abs=0.01)
    assert first.statistics.mean == pytest.approx(0, abs=0.01)
    os.utime(source.path, (1, 1))
    assert not np.shares_memory(whole(first), whole(again))


@pytest.mark.parametrize(
    ("chunks", "memory", "warned"),
    [((1, 64, 64), 0, True), ((1, 64, 64), 1e9, False), ((8, 8, 8), 0, False), (None, 0, False)],
)
def test_a_layout_that_wastes_decompression_is_told_once(
    write: Any,
    noise: Noise,
    budget: Any,
    caplog: pytest.LogCaptureFixture,
    chunks: Any,
    memory: float,
    warned: bool,
) -> None:
    options = {"compression": "gzip"} if chunks else {}
    volume = Volume(write(noise(8, 64, 64), chunks=chunks, **options), budget=budget(memory))
    sampler = PatchSampler([volume], (8, 8, 8), seed=(0,))
    sampler.draw(3)
    found = [r.message for r in caplog.records if "cyclegan prepare" in r.message]
    assert len(found) == warned
    assert not found or "decompresses about 79 times" in found[0]


def test_a_check_loads_nothing_and_warns_of_what_a_training_would_suffer_from(
    write: Any, noise: Noise, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(noise(8, 64, 64), chunks=(8, 64, 64), compression="gzip")
    for memory, warned in ((1.0, False), (1e-9, True)):
        caplog.clear()
        checking = MemoryBudget(memory * 1e9, loads=False)
        volume = Volume(source, budget=checking)
        volume.expect_patches((8, 8, 8))
        assert not volume.in_memory
        volume.close()
        assert ("cyclegan prepare" in caplog.text) == warned


def test_the_chunk_cache_fits_the_chunks_of_a_patch_up_to_a_limit(write: Any, noise: Noise) -> None:
    volume = Volume(write(noise(20, 20, 20), chunks=(4, 5, 6), compression="gzip"))
    volume.expect_patches((8, 8, 8))
    dataset = volume._region._open_dataset()
    # A patch of 8 touches at most 3 chunks of 4, 3 of 5 and 3 of 6.
    assert dataset.id.get_access_plist().get_chunk_cache()[1] == 27 * 4 * 5 * 6 * 4
    volume.expect_patches((20, 2, 2))
    dataset = None
    dataset = volume._region._open_dataset()
    assert dataset.id.get_access_plist().get_chunk_cache()[1] == 6 * 2 * 2 * 4 * 5 * 6 * 4


def test_a_volume_knows_its_voxel_size(write: Any, noise: Noise) -> None:
    source = write(noise(4, 4, 4), dset="entry/data")
    assert Volume(source).voxel_size_um is None
    with h5py.File(source.path, "a") as handle:
        handle["entry"].attrs.update(voxel_size=[2e-3, 1e-3, 1e-3], voxel_size_units="mm")
    assert Volume(source).voxel_size_um == (2, 1, 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_holes_are_refused_until_the_entry_accepts_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, channels: int
) -> None:
    lead = (channels,) if channels > 1 else ()
    with h5py.File(tmp_path / "half.h5", "w") as handle:
        chunks = (*(1 for _ in lead), 2, 8, 8)
        made = handle.create_dataset("data", (*lead, 8, 8, 8), "f4", chunks=chunks)
        made[..., :4, :, :] = np.random.default_rng(0).normal(size=(*lead, 4, 8, 8))
        if lead:  # the first channel is complete
            made[0] = np.random.default_rng(1).normal(size=(8, 8, 8))
    entry = VolumeEntry(path=tmp_path / "half.h5", dset="data")
    missing = "2 of 4 chunks (50 %)" if channels == 1 else "2 of 8 chunks (25 %)"
    with pytest.raises(DataError, match=r"half.h5:data: 2 of 4 chunks \(50 %\)") as refused:
        Volume(entry, channels=channels)
    assert all(way in str(refused.value) for way in ("ROI0", '"fill_missing": true'))
    whole = Volume(replace(entry, roi=((0, 4), None, None)), channels=channels)
    assert (whole.shape, "chunks" in caplog.text) == ((4, 8, 8), False)
    volume = Volume(replace(entry, fill_missing=True), channels=channels)
    assert caplog.text.count(missing) == 1
    assert volume.part(((5, 8), None, None)).shape == (3, 8, 8)  # not judged again by itself


def test_chunks_left_out_of_an_empty_background_are_no_holes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(tmp_path / "sparse.h5", "w") as handle:
        made = handle.create_dataset("data", (8, 8, 8), "f4", chunks=(2, 8, 8))
        made[2:6] = 0
        made[3:5] = np.random.default_rng(0).normal(5, 1, (2, 8, 8))
    Volume(VolumeEntry(path=tmp_path / "sparse.h5", dset="data"))
    assert caplog.text.count("2 of 4 chunks (50 %)") == 1


@pytest.mark.parametrize("share", [0.002, 0.05])
def test_extreme_voxels_that_count_are_named_with_values_share_and_way_out(
    write: Any, noise: Noise, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    array = noise(24, 24, 24)
    many = np.random.default_rng(1).random(array.shape) < share
    array[many] = np.random.default_rng(2).uniform(1e6, 2e6, int(many.sum()))
    volume = Volume(write(array))
    found = volume.statistics
    assert found.mean == pytest.approx(float(array.astype(np.float64).mean()))  # they count
    assert found.outliers is not None
    assert (found.extreme, found.outliers.count) == (0, int(many.sum()))
    (text,) = (r.getMessage() for r in caplog.records if "extremely far" in r.getMessage())
    assert f"{int(many.sum())} of {array.size} voxels ({many.mean():.2g} of them)" in text
    assert f"(up to {array.max():.5g})" in text and "below" not in text
    assert all(way in text for way in ("--no-data", "no_data", "--roi", "ROI0"))
    assert Statistics.from_plain(found.to_plain()).outliers == found.outliers
    together = pooled([found, found]).outliers
    assert together is not None and together.count == 2 * found.outliers.count


def test_integers_beyond_double_precision_are_refused(write: Any) -> None:
    array = np.random.default_rng(0).integers(0, 100, (8, 8, 8))
    Volume(write(array + 2**40, name="small.h5"))
    with pytest.raises(DataError, match=r"large.h5:data: its int64 values lie around 1.153e\+18"):
        Volume(write(array + 2**60, name="large.h5"))
