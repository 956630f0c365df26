"""Statistics equal NumPy's in float64 over finite voxels; each non-empty chunk is read once."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import Volume, VolumeEntry
from cyclegan.data import region as regions
from cyclegan.data.blocks import BlockGrid, spread
from cyclegan.data.statistics import Moments, ValidRange, constant, merged, moments

Noise = Callable[..., np.ndarray]
ROI = ((3, 29), (1, 30), (0, 27))
INSIDE = (slice(3, 29), slice(1, 30), slice(0, 27))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a small volume has many."""
    monkeypatch.setattr("cyclegan.data.blocks._BLOCK_BYTES", 4_000)
    monkeypatch.setattr("cyclegan.data.statistics._PIECE", 700)


@pytest.mark.parametrize(
    ("dtype", "mean", "std"),
    [
        ("f4", 0, 1),
        ("f4", 30_000, 5),
        ("u2", 30_000, 5),
        ("f2", 100, 3),
        (">f8", 1e9, 1e-2),
        ("i4", 2_000_000_000, 20),
        ("i1", 5, 30),
    ],
)
@pytest.mark.parametrize("chunks", [None, (7, 5, 9), (1, 32, 32), (32, 32, 32)])
def test_statistics_are_those_of_numpy(
    write: Any, dtype: str, mean: float, std: float, chunks: Any
) -> None:
    array = np.random.default_rng(0).normal(mean, std, (32, 32, 32)).astype(dtype)
    found = Volume(write(array, roi=ROI, chunks=chunks)).statistics
    exact = array[INSIDE].astype(np.float64) - mean
    assert found.count == exact.size
    assert found.non_finite == 0
    # The precision of the mean in float64 limits that of the deviation.
    rounding = 2 * np.finfo(np.float64).eps * abs(mean) / std
    assert found.mean - mean == pytest.approx(exact.mean(), abs=(1e-9 + 2 * rounding) * std)
    assert found.std == pytest.approx(exact.std(), rel=1e-9 + rounding)


def test_non_finite_voxels_are_counted_and_left_out(write: Any) -> None:
    array = np.random.default_rng(0).normal(300, 20, (32, 32, 32)).astype(np.float32)
    array[10:12] = np.nan
    array[5, 5, 5], array[6, 6, 6], array[0, 0, 0] = np.inf, -np.inf, np.nan
    found = Volume(write(array, roi=ROI, chunks=(5, 6, 7))).statistics
    inside = array[INSIDE].astype(np.float64)
    kept = inside[np.isfinite(inside)]
    assert found.count == kept.size
    assert found.non_finite == inside.size - kept.size == 2 * 29 * 27 + 2
    assert found.mean == pytest.approx(kept.mean(), rel=1e-12)
    assert found.std == pytest.approx(kept.std(), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e9])
def test_a_large_offset_costs_no_digits(offset: float) -> None:
    array = np.random.default_rng(0).normal(2, 3, (11, 37, 70))
    found = merged(moments(part) for part in np.array_split(array + offset, 4))
    assert found.mean == pytest.approx(offset + float(array.mean()), rel=1e-14, abs=1e-12)
    assert found.std == pytest.approx(float((array + offset - offset).std()), rel=1e-8)


def test_counts_around_60000_have_their_exact_spread() -> None:
    counts = np.random.default_rng(1).integers(59_990, 60_010, (11, 37, 70)).astype(np.uint16)
    exact = float(counts.astype(np.longdouble).std())
    assert moments(counts).std == pytest.approx(exact, rel=1e-13)


def test_extrema_are_those_of_the_finite_voxels() -> None:
    found = moments(np.array([np.nan, 3, -np.inf, -2, np.inf, 7], ">f4"))
    assert (found.minimum, found.maximum) == (-2, 7)
    assert (found.count, found.non_finite) == (3, 3)


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_moments_restored_from_json_go_on_bit_for_bit(parts: int) -> None:
    arrays = np.random.default_rng(0).normal(7, 2, (6, 1000))
    before = merged(map(moments, arrays[:parts]))
    restored = Moments(**json.loads(json.dumps(asdict(before))))
    assert restored == before
    assert restored + moments(arrays[5]) == before + moments(arrays[5])


def test_values_too_large_for_a_deviation_give_none_that_is_finite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = moments(np.array([-1e308, 1e308, 1.5e308]))
    assert not np.isfinite(found.std)


def test_a_no_data_value_is_compared_as_the_type_of_the_voxels_holds_it() -> None:
    array = np.array([1, 2, -9999.1, np.inf], "f4")
    found = moments(array, ValidRange(no_data=-9999.1))
    assert (found.count, found.without_data, found.non_finite) == (2, 1, 1)
    with warnings.catch_warnings(action="error"):
        found = moments(array, ValidRange(no_data=1e300))
    assert (found.count, found.without_data, found.non_finite) == (3, 0, 1)


def test_moments_merge_in_any_grouping() -> None:
    array = np.random.default_rng(0).normal(7, 2, 1000)
    parts = [moments(part) for part in np.split(array, [1, 17, 400])]
    for found in (merged(parts), merged(reversed(parts)), moments(array)):
        assert found.mean == pytest.approx(array.mean(), rel=1e-12)
        assert found.std == pytest.approx(array.std(), rel=1e-12)
        assert (found.minimum, found.maximum) == (array.min(), array.max())
    assert merged([]) == Moments()
    assert Moments() + parts[0] == parts[0]


def test_a_constant_has_no_deviation_at_all() -> None:
    assert moments(np.full((50, 50), 0.1, np.float32)).m2 == 0
    whole = merged([moments(np.full(333, 0.1)), moments(np.full(999, 0.1)), constant(0.1, 50)])
    assert whole.std == 0
    assert whole.count == 1382


@pytest.mark.parametrize("chunks", [None, (7, 5, 9), (1, 32, 32), (3, 32, 4)])
def test_blocks_cover_the_region_once_and_share_no_chunk(write: Any, chunks: Any) -> None:
    source = write(np.zeros((32, 32, 32), np.float32), chunks=chunks)
    with h5py.File(source.path) as handle:
        dataset = handle["data"]
        start, shape = (3, 1, 0), (26, 29, 27)
        grid = BlockGrid(dataset, start, shape)
        seen = np.zeros(dataset.shape, int)
        owners: dict[tuple[int, ...], int] = {}
        for index in range(len(grid)):
            window = grid.window(index)
            assert grid.voxels(index) == seen[window].size > 0
            seen[window] += 1
            if chunks:
                first = [w.start // c for w, c in zip(window, chunks, strict=True)]
                last = [(w.stop - 1) // c for w, c in zip(window, chunks, strict=True)]
                for place in np.ndindex(*(b - a + 1 for a, b in zip(first, last, strict=True))):
                    chunk = tuple(int(a + p) for a, p in zip(first, place, strict=True))
                    assert owners.setdefault(chunk, index) == index
    assert len(grid) > 3
    assert (seen[INSIDE] == 1).all()
    assert seen.sum() == seen[INSIDE].size


def sparse(path: Path, fill: float, **options: Any) -> VolumeEntry:
    with h5py.File(path, "w") as handle:
        data = handle.create_dataset(
            "data", (40, 40, 40), "f4", chunks=(8, 8, 8), fillvalue=fill, **options
        )
        random = np.random.default_rng(0)
        for z, y, x in ((0, 0, 0), (8, 16, 24), (32, 32, 32)):
            data[z : z + 8, y : y + 8, x : x + 8] = random.normal(5, 2, (8, 8, 8))
    roi = ((2, 39), None, None)
    return VolumeEntry(path=path, dset="data", roi=roi, fill_missing=True)


@pytest.mark.parametrize("fill", [0.0, -3.0, np.nan])
@pytest.mark.parametrize("memory", [0, 1e9])
def test_chunks_never_written_count_as_fill_value_unread(
    tmp_path: Path, budget: Any, monkeypatch: pytest.MonkeyPatch, fill: float, memory: float
) -> None:
    read = 0
    original = regions.Region._read

    def counting(self: Any, dataset: Any, window: Any) -> Any:
        nonlocal read
        part = original(self, dataset, window)
        read += part.size
        return part

    monkeypatch.setattr(regions.Region, "_read", counting)
    source = sparse(tmp_path / "v.h5", fill, compression="gzip")
    volume = Volume(source, budget=budget(memory), standardise="never")
    with h5py.File(source.path) as handle:
        exact = handle["data"][2:39].astype(np.float64)
    kept = exact[np.isfinite(exact)]
    assert volume.statistics.count == kept.size
    assert volume.statistics.non_finite == exact.size - kept.size
    assert volume.statistics.mean == pytest.approx(kept.mean(), rel=1e-9)
    assert volume.statistics.std == pytest.approx(kept.std(), rel=1e-9)
    assert read <= 3 * 1024
    expected = np.where(np.isfinite(exact), exact, volume.statistics.mean)
    found = volume.read((0, 0, 0), (37, 40, 40))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_very_large_regions_are_measured_on_a_sample_and_that_is_said(
    write: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, budget: Any
) -> None:
    array = np.random.default_rng(0).normal(100, 10, (64, 64, 64)).astype(np.float32)
    array[32:] += 20
    monkeypatch.setattr(regions, "MEASURED_VOXELS", array.size // 8)
    caplog.set_level(logging.INFO)
    lazy = Volume(write(array, name="a.h5", chunks=(8, 8, 8)))
    assert "2.62e+05 voxels, in blocks from all over the region" in caplog.text
    held = Volume(write(array, name="b.h5", chunks=(8, 8, 8)), budget=budget(1e9))
    assert held.statistics == lazy.statistics
    assert lazy.statistics.count == array.size
    assert lazy.statistics.mean == pytest.approx(110, abs=0.5)
    assert lazy.statistics.std == pytest.approx(np.hypot(10, 10), rel=0.02)


def test_a_sample_is_spread_evenly_and_hits_no_row_only() -> None:
    items = np.arange(6400)
    chosen = spread(items, 100)
    assert (chosen // 64 == np.arange(100)).all()
    assert len(set((chosen % 64).tolist())) > 30
    np.testing.assert_array_equal(spread(items, 100), chosen)
    assert spread(items, 6400) is items
