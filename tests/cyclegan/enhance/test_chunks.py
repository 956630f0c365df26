"""Chunks that are encoded outside of HDF5 are those that HDF5 reads, and would have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cyclegan.enhance.chunks import COMPRESSIONS, FILTERS, blocks_of, encode

SIDE = 32
noise = np.random.default_rng(0).normal(size=(SIDE,) * 3)


def images() -> dict[str, np.ndarray]:
    masked = np.where(np.indices(noise.shape).sum(0) < SIDE, 0.0, noise)
    bits = np.random.default_rng(1).integers(0, 2**32, noise.shape, dtype=np.uint32)
    found = {
        "smooth": gaussian_filter(noise, 1.5),
        "noise": noise,
        "masked": masked,
        "empty": np.zeros_like(noise),
        "constant": np.full_like(noise, -1.7),
        "uint8 grey values": (noise * 40).round(),
        "extremes": np.where(noise > 0, 3e38, 1e-45),
    }
    # NaN is no number that equals itself; everything else must come back.
    bits &= np.uint32(0xBFFFFFFF)
    return {name: a.astype(np.float32) for name, a in found.items()} | {
        "random bits": bits.view(np.float32)
    }


IMAGES = images()


def written(array: np.ndarray, chunks: tuple[int, ...], compression: Any, path: Path) -> Any:
    """Return what HDF5 reads of a dataset whose chunks we encoded."""
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            "data", array.shape, np.float32, chunks=chunks, **FILTERS[compression]
        )
        for first, block in blocks_of(array, chunks):
            mask, data = encode(block, chunks, compression)
            made.id.write_direct_chunk(first, data, filter_mask=mask)
    with h5py.File(path) as file:
        return file["data"][...]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", IMAGES)
def test_hdf5_reads_the_same_voxels(tmp_path: Path, name: str, compression: Any) -> None:
    array = IMAGES[name]
    for chunks in ((16, 16, 16), (32, 32, 32), (7, 32, 5)):
        found = written(array, chunks, compression, tmp_path / "x.h5")
        np.testing.assert_array_equal(found, array)
    series = np.stack([array[:9, :20, :11]] * 2)
    found = written(series, (1, 4, 8, 3), compression, tmp_path / "x.h5")
    np.testing.assert_array_equal(found, series)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", IMAGES)
def test_its_bytes_are_those_of_hdf5_or_hardly_more(name: str, compression: Any) -> None:
    array = IMAGES[name]
    for chunks, part in (((32, 32, 32), array), ((16, 32, 16), array[:16, :30, :9])):
        with h5py.File("x", "w", driver="core", backing_store=False) as file:
            made = file.create_dataset(
                "data",
                part.shape,
                np.float32,
                chunks=chunks,
                maxshape=(None,) * 3,
                **FILTERS[compression],
            )
            made[...] = part
            file.flush()
            expected_mask, expected = made.id.read_direct_chunk((0, 0, 0))
        mask, data = encode(part, chunks, compression)
        if compression == "gzip":
            # Patterns other than runs are not searched for; images have none.
            assert len(data) <= 1.01 * len(expected) + 0.03 * array.nbytes
        else:
            assert (mask, data) == (expected_mask, bytes(expected))


def test_a_chunk_of_many_megabytes_keeps_its_checksum(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(127, 131, 64)).astype(np.float32)
    found = written(array, array.shape, "none", tmp_path / "x.h5")
    np.testing.assert_array_equal(found, array)


def test_an_image_is_compressed_faster_than_by_hdf5_and_not_larger() -> None:
    """Three times, to be sure on a busy machine; it was about ten times on a quiet one."""
    import time

    array = gaussian_filter(np.random.default_rng(0).normal(size=(64,) * 3), 1).astype(np.float32)

    def ours() -> int:
        return len(encode(array, array.shape, "gzip")[1])

    def hdf5s() -> int:
        with h5py.File("x", "w", driver="core", backing_store=False) as file:
            made = file.create_dataset("d", data=array, chunks=array.shape, **FILTERS["gzip"])
            file.flush()
            return int(made.id.get_storage_size())

    def seconds(work: Any) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    assert ours() <= hdf5s()
    assert 3 * seconds(ours) < seconds(hdf5s)
