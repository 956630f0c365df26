"""Statistics, blocks and values: the output is right, and memory depends on the block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cyclegan.data import Volume, VolumeEntry
from cyclegan.data.statistics import moments
from cyclegan.errors import DataError, UsageError
from cyclegan.prepare import (
    PrepareResult,
    Settings,
    check_output,
    open_source,
    parse_roi,
    prepare_volume,
)
from cyclegan.prepare.region import Block, blocks, chunk_shape, resolve
from cyclegan.prepare.transform import Histogram

SHAPE = (11, 37, 70)


def volume(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape)


def prepared(
    array: np.ndarray, folder: Path, settings: Settings | None = None, name: str = "a"
) -> tuple[PrepareResult, np.ndarray, dict[str, object]]:
    np.save(folder / f"{name}.npy", array)
    output = folder / f"{name}.h5"
    source = open_source([folder / f"{name}.npy"])
    done = prepare_volume(source, output, settings or Settings(dtype="float32"), overwrite=True)
    with h5py.File(output) as handle:
        return done, handle["data"][:], dict(handle["data"].attrs)


# -- histograms -------------------------------------------------------------------------------


def test_percentiles_agree_with_numpy_to_a_hundredth_of_the_spread() -> None:
    values = volume(3, (20, 50, 50))
    histogram = Histogram.around(moments(values))
    histogram.add(values)
    assert histogram.counts.sum() == values.size
    for percent in (1, 50, 99):
        exact = np.percentile(values, percent)
        assert histogram.percentile(percent) == pytest.approx(exact, abs=values.std() / 100)


def test_one_outlier_does_not_coarsen_the_histogram() -> None:
    values = volume(3, (20, 50, 50))
    values[0, 0, 0] = 1e9
    histogram = Histogram.around(moments(values))
    histogram.add(values)
    assert histogram.counts.sum() == values.size
    assert histogram.percentile(50) == pytest.approx(np.median(values), rel=0.02 * values.std())


@pytest.mark.parametrize("value", [0.0, 7.0, -1e300])
def test_a_histogram_of_one_value_counts_it(value: float) -> None:
    values = np.full((2, 3, 4), value)
    histogram = Histogram.around(moments(values))
    histogram.add(values)
    assert histogram.counts[0] == values.size


# -- regions and blocks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "grain", "slab"),
    [
        (((0, 11), (0, 37), (0, 70)), (1, 1), 5_000),
        (((3, 10), (5, 30), (0, 70)), (4, 16), 10**9),
        (((3, 10), (5, 30), (0, 70)), (4, 16), 3_000),
        (((1, 100), (2, 90), (0, 70)), (32, 32), 10_000),
        (((0, 500), (0, 500), (0, 500)), (500, 500), 1_000),
    ],
)
def test_blocks_cover_every_voxel_once(region: tuple, grain: tuple, slab: int) -> None:
    (z, y, x) = region
    seen = np.zeros((z[1], y[1]), int)
    for block in blocks(region, grain, slab):
        seen[slice(*block.z), slice(*block.y)] += 1
        voxels = (block.z[1] - block.z[0]) * (block.y[1] - block.y[0]) * (x[1] - x[0])
        assert voxels <= max(8 * slab, grain[1] * (x[1] - x[0]))
    assert (seen[slice(*z), slice(*y)] == 1).all()
    assert seen.sum() == (z[1] - z[0]) * (y[1] - y[0])


def test_blocks_end_where_the_sources_chunks_end() -> None:
    found = blocks(((3, 100), (0, 64), (0, 64)), (16, 64), 2 * 16 * 64 * 64)
    assert [b.z for b in found] == [(3, 32), (32, 64), (64, 96), (96, 100)]
    found = blocks(((0, 16), (10, 64), (0, 64)), (16, 16), 16 * 16 * 64)
    assert found == [Block((0, 16), y) for y in ((10, 16), (16, 32), (32, 48), (48, 64))]


@pytest.mark.parametrize("n", [1, 17, 63, 64, 65, 100, 129, 2000])
def test_chunks_waste_little(n: int) -> None:
    (side, *_) = chunk_shape((n, n, n))
    assert side <= 64
    assert -(-n // side) * side <= max(n + 64 // 2, n * 1.05)


def test_a_region_of_interest_may_leave_ends_out() -> None:
    assert resolve(parse_roi("2:,:5,:"), (10, 20, 30), "a") == ((2, 10), (0, 5), (0, 30))


@pytest.mark.parametrize(
    "text", ["", "1:2", "1:2,3:4", "a:b,0:1,0:1", "5:2,:,:", "3:3,:,:", "-1:2,:,:"]
)
def test_a_region_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--roi"):
        parse_roi(text)


@pytest.mark.parametrize("text", ["0:11,:,:", ":,:,30:", ":,0:21,:"])
def test_a_region_beyond_the_volume_is_refused_naming_the_file(text: str) -> None:
    with pytest.raises(DataError, match=r"scan\.h5.*ends beyond"):
        resolve(parse_roi(text), (10, 20, 30), "scan.h5")


# -- what is written --------------------------------------------------------------------------


def test_values_are_standardised_over_the_region(tmp_path: Path) -> None:
    array = volume() * 500 + 30_000
    done, found, attributes = prepared(
        array, tmp_path, Settings(dtype="float32", roi=parse_roi("1:10,3:36,5:68"))
    )
    region = array[1:10, 3:36, 5:68]
    np.testing.assert_allclose(found, (region - region.mean()) / region.std(), atol=2e-6)
    assert attributes["mean"] == pytest.approx(region.mean(), rel=1e-13)
    assert attributes["std"] == pytest.approx(region.std(), rel=1e-13)
    assert attributes["mean"].dtype == attributes["std"].dtype == np.float64
    assert attributes["standardised"] and attributes["non_finite"] == 0
    assert attributes["roi"].tolist() == [[1, 10], [3, 36], [5, 68]]
    assert attributes["source"] == str(tmp_path / "a.npy")
    np.testing.assert_allclose(found * attributes["std"] + attributes["mean"], region, rtol=1e-6)
    assert done.shape == (9, 33, 63)


@pytest.mark.parametrize("slab", [20 * 70, 5 * 37 * 70, 10**9])
@pytest.mark.parametrize("compression", ["none", "gzip", "lz4"])
def test_neither_slabs_nor_compression_change_a_voxel(
    tmp_path: Path, slab: int, compression: str
) -> None:
    array = volume(shape=(70, 37, 70))
    _, expected, _ = prepared(array, tmp_path, Settings(dtype="float16"), "whole")
    settings = Settings(dtype="float16", slab_voxels=slab, compression=compression)
    _, found, _ = prepared(array, tmp_path, settings)
    np.testing.assert_array_equal(found, expected)
    assert sorted(p.name for p in tmp_path.glob("*part*")) == [
        "a.h5.part.json",
        "whole.h5.part.json",
    ]


def test_voxels_that_are_not_finite_become_the_mean(tmp_path: Path) -> None:
    array = volume()
    array[2, 3, 4:7] = np.nan, np.inf, -np.inf
    done, found, attributes = prepared(array, tmp_path)
    assert (found[2, 3, 4:7] == 0).all() and np.isfinite(found).all()
    assert done.statistics.non_finite == attributes["non_finite"] == 3
    kept = Settings(dtype="float32", standardise=False)
    _, found, attributes = prepared(array, tmp_path, kept, "kept")
    np.testing.assert_allclose(found[2, 3, 4:7], attributes["mean"], rtol=1e-6)


@pytest.mark.parametrize("value", [1e6, -1e12, 3e38])
def test_one_absurd_voxel_leaves_all_others_their_grey_levels(tmp_path: Path, value: float) -> None:
    array = volume()
    _, expected, _ = prepared(array, tmp_path)
    array[2, 3, 4] = value
    done, found, attributes = prepared(array, tmp_path, Settings(), "hot")
    rest = np.ones(array.shape, bool)
    rest[2, 3, 4] = False
    np.testing.assert_allclose(found[rest], expected[rest], atol=4e-3)
    assert len(np.unique(found)) > 5000
    assert done.statistics.extreme == attributes["extreme"] == 1
    again = Volume(VolumeEntry(path=done.output, dset="data")).scan.statistics
    assert (again.extreme, again.outliers) == (0, None)


def test_voxels_without_data_become_the_mean(tmp_path: Path) -> None:
    array = volume()
    array[:, 30:] = -9999
    done, found, attributes = prepared(array, tmp_path)
    np.testing.assert_allclose(found[:, :30].std(), 1, atol=1e-5)
    assert (found[:, 30:] == 0).all()
    assert done.statistics.without_data == attributes["without_data"] == array[:, 30:].size
    with_zeros = np.where(array == -9999, 0, array)
    done, found, _ = prepared(with_zeros, tmp_path, Settings(dtype="float32", no_data=0), "zeros")
    assert (found[:, 30:] == 0).all() and done.statistics.without_data == array[:, 30:].size


def test_what_is_frequent_belongs_to_the_image(tmp_path: Path) -> None:
    array = volume()
    array[:, :5, :20] = 1e4
    done, found, _ = prepared(array, tmp_path)
    assert done.statistics.extreme == 0
    np.testing.assert_allclose(found, (array - array.mean()) / array.std(), atol=1e-5)


def test_without_standardising_values_stay(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2000, SHAPE).astype(np.int16)
    settings = Settings(dtype="float16", standardise=False)
    done, found, attributes = prepared(array, tmp_path, settings)
    np.testing.assert_array_equal(found, array.astype(np.float16))
    assert not attributes["standardised"]
    assert attributes["mean"] == pytest.approx(array.mean())
    assert done.clipped == 0


def test_float16_never_overflows_to_infinity(tmp_path: Path) -> None:
    array = volume()
    array[0, 0, :2] = 1e5, -1e6
    settings = Settings(dtype="float16", standardise=False)
    done, found, _ = prepared(array, tmp_path, settings)
    assert found[0, 0, :2].tolist() == [65504.0, -65504.0]
    assert done.clipped == 2


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full(SHAPE, 7.0), "all voxels are 7"),
        (np.full(SHAPE, 0.1, np.float32), "all voxels are 0.1"),
        (np.full(SHAPE, np.nan), "none of its 28490 voxels is finite"),
        (volume() * 1e300, "too large to standardise"),
    ],
    ids=["constant", "constant float", "NaN", "huge"],
)
def test_what_has_no_spread_is_refused(tmp_path: Path, array: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepared(array, tmp_path)
    assert not (tmp_path / "a.h5").exists()
    assert not (tmp_path / "a.h5.part").exists()


def test_a_constant_volume_may_be_kept_as_it_is(tmp_path: Path) -> None:
    settings = Settings(dtype="float16", standardise=False)
    _, found, _ = prepared(np.full(SHAPE, 7, np.uint8), tmp_path, settings)
    assert (found == 7).all()


def test_the_file_is_chunked_says_its_voxel_size_and_opens_as_nxdata(tmp_path: Path) -> None:
    _, _, attributes = prepared(volume(), tmp_path, Settings(voxel_size_um=(2.0, 0.5, 0.5)))
    assert attributes["voxel_size_um"].tolist() == [2.0, 0.5, 0.5]
    with h5py.File(tmp_path / "a.h5") as handle:
        assert handle.attrs["NX_class"] == "NXdata"
        assert handle[handle.attrs["signal"]].chunks == (11, 37, 35)
        assert list(handle.attrs["axes"]) == ["z", "y", "x"]
        for name, length, step in zip("zyx", SHAPE, (2.0, 0.5, 0.5), strict=True):
            assert handle[name].attrs["units"] == "um"
            np.testing.assert_allclose(handle[name][:], np.arange(length) * step)


def test_the_output_is_not_an_input(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as handle:
        handle["data"] = volume()
    source = open_source([path])
    with pytest.raises(DataError, match="is also an input"):
        check_output(source, path, Settings(), overwrite=True)
    source.close()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", volume())
    source = open_source([tmp_path / "a.npy"])
    for name in ("b.h5", "b.png"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(DataError, match="already exists"):
            prepare_volume(source, tmp_path / "b.h5", Settings())
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


# Not getrusage: its peak begins with that of the process that started this one.
_PEAK = """
import re, sys
from pathlib import Path
from cyclegan.prepare import Settings, open_source, prepare_volume
source, output = Path(sys.argv[1]), Path(sys.argv[2])
prepare_volume(open_source([source]), output, Settings(slab_voxels=1 << 18))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_megabytes(source: Path) -> float:
    output = source.with_suffix(".out.h5")
    command = [sys.executable, "-c", _PEAK, str(source), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


@pytest.mark.parametrize("kind", ["npy", "h5", "tif"])
@pytest.mark.slow
def test_memory_follows_the_slab_and_not_the_volume(tmp_path: Path, kind: str) -> None:
    import tifffile

    peaks = []
    for depth in (8, 128):  # 4 MB and 67 MB
        path = tmp_path / f"{depth}.{kind}"
        shape = (depth, 256, 256)
        array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
        if kind == "npy":
            np.save(path, array)
        elif kind == "tif":
            tifffile.imwrite(path, array, photometric="minisblack")
        else:
            with h5py.File(path, "w") as handle:
                handle.create_dataset("data", data=array, chunks=(4, 128, 256), compression="gzip")
        peaks.append(peak_megabytes(path))
    assert peaks[1] - peaks[0] < 20, peaks


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_integers_beyond_double_precision_are_refused(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (8, 8, 8)).astype(dtype)
    np.save(tmp_path / "small.npy", array + 2**40)
    prepare_volume(open_source([tmp_path / "small.npy"]), tmp_path / "small.h5", Settings())
    np.save(tmp_path / "large.npy", array + 2**60)
    with pytest.raises(DataError, match=r"large\.npy: its u?int64 values lie around 1.153e\+18"):
        prepare_volume(open_source([tmp_path / "large.npy"]), tmp_path / "a.h5", Settings())
