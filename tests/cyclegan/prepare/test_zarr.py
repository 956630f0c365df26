"""Zarr arrays, v2 and v3, and OME-Zarr images."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from cyclegan.errors import CycleGANError, DataError
from cyclegan.prepare import WHOLE, Source, open_source

SHAPE = (10, 12, 17)


def volume(dtype: str = "u2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 120, SHAPE).astype(dtype)


def save(path: Path, array: np.ndarray, **options: Any) -> Any:
    options = {"chunks": (4, 6, 17), **options}
    made = zarr.create_array(str(path), shape=array.shape, dtype=array.dtype, **options)
    made[...] = array
    return made


def check(source: Source, expected: np.ndarray) -> None:
    window = (slice(1, 9), slice(2, 11), slice(3, 17))
    assert source.shape == expected.shape
    np.testing.assert_array_equal(source.read(window), expected[window])


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i2", "f2", "f4", "f8"])
@pytest.mark.parametrize("options", [{"zarr_format": 2}, {"zarr_format": 3}], ids=str)
def test_both_formats_are_read_by_their_chunks(
    tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    save(tmp_path / "a.zarr", volume(dtype), **options)
    source = open_source([tmp_path / "a.zarr"])
    assert source.grain == (4, 6)
    check(source, volume(dtype))


def test_shards_are_read(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr", volume(), chunks=(2, 6, 17), shards=(4, 12, 17))
    check(open_source([tmp_path / "a.zarr"]), volume())


def test_an_array_of_a_group_is_named_or_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.open_group(str(path), mode="w").create_group("scan")
    save(path / "scan" / "one", volume())
    check(open_source([path]), volume())
    save(path / "two", volume() + 1)
    check(open_source([path], dataset="two"), volume() + 1)
    with pytest.raises(DataError, match="name one of its arrays with --dataset: scan/one, two"):
        open_source([path])
    with pytest.raises(DataError, match="no array 'three'; arrays found: scan/one, two"):
        open_source([path], dataset="three")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_is_read_at_full_resolution_with_its_voxel_size(
    tmp_path: Path, version: str
) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    for name, array in (("full", volume()), ("half", volume()[::2, ::2, ::2])):
        made = group.create_array(name, shape=(1, *array.shape), chunks=(1, 4, 6, 17), dtype="u2")
        made[...] = array[None]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    scale = {"type": "scale", "scale": [1, 2000, 500, 500]}
    datasets = [{"path": n, "coordinateTransformations": [scale]} for n in ("full", "half")]
    content = [{"axes": axes, "datasets": datasets}]
    group.attrs.update(
        {"multiscales": content} if version == "0.4" else {"ome": {"multiscales": content}}
    )
    source = open_source([path])
    check(source, volume())
    assert source.voxel_size_um == pytest.approx((2.0, 0.5, 0.5))


@pytest.mark.parametrize("content", ["", "{", "{}", '{"zarr_format": 9}'])
def test_damaged_descriptions_are_one_line(tmp_path: Path, content: str) -> None:
    save(tmp_path / "a.zarr", volume())
    (tmp_path / "a.zarr" / "zarr.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.zarr: not a readable Zarr array"):
        open_source([tmp_path / "a.zarr"])


def test_a_damaged_chunk_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr", volume())
    for chunk in (tmp_path / "a.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"a\.zarr: reading failed"):
        open_source([tmp_path / "a.zarr"]).read((slice(0, 4), slice(0, 4), slice(0, 4)))


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.zarr", volume())
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(CycleGANError, match=r"pip install 'cyclegan3d\[zarr\]'"):
        open_source([tmp_path / "a.zarr"])
    shutil.rmtree(tmp_path / "a.zarr")


# -- chunks that are not there --------------------------------------------------------------------


def noise(shape: tuple[int, int, int] = (16, 16, 16)) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 200, shape).astype("u2")


def masked(fill: int = 0) -> np.ndarray:
    """A cylinder in a background of the fill value, as reconstruction programs write it."""
    y, x = np.mgrid[:48, :48] - 23.5
    return np.where(y**2 + x**2 < 22**2, noise((16, 48, 48)), np.uint16(fill))


STORES: list[dict[str, Any]] = [
    {"zarr_format": 2},
    {"zarr_format": 3},
    {"zarr_format": 3, "shards": (8, 8, 8)},
]


def check_holes(path: Path, region: Any = WHOLE, **options: Any) -> tuple[str, ...]:
    source = open_source([path])
    source.check_holes(source.region(region), **{"fill_missing": False, **options})
    return source.notes


@pytest.mark.parametrize("options", STORES, ids=str)
def test_chunks_lost_from_the_data_are_refused_and_background_that_was_left_out_is_not(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    save(tmp_path / "whole.zarr", noise(), chunks=(4, 4, 4), **options)
    assert check_holes(tmp_path / "whole.zarr") == ()
    save(tmp_path / "masked.zarr", masked(), chunks=(4, 4, 4), **options)
    (note,) = check_holes(tmp_path / "masked.zarr")
    assert "of 576 chunks" in note and "are read as the fill value 0" in note
    damaged = noise()
    damaged[4:8, 8:12, 0:4] = 0  # zarr leaves it out: as if it had been lost
    save(tmp_path / "lost.zarr", damaged, chunks=(4, 4, 4), **options)
    said = r"lost.zarr: 1 of 64 chunks \(1.6 %\).*the one at \[4, 8, 0\].*--roi.*--fill-missing"
    with pytest.raises(DataError, match=said):
        check_holes(tmp_path / "lost.zarr")
    assert check_holes(tmp_path / "lost.zarr", ((8, None), (None, None), (None, None))) == ()
    (note,) = check_holes(tmp_path / "lost.zarr", fill_missing=True)
    assert "1 of 64 chunks" in note


@pytest.mark.parametrize("options", STORES[:2], ids=str)
def test_an_interrupted_copy_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    save(tmp_path / "a.zarr", noise(), chunks=(4, 4, 4), **options)
    chunks = [p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file() and p.name[-1].isdigit()]
    assert len(chunks) == 64
    for path in sorted(chunks)[40:]:
        path.unlink()
    with pytest.raises(DataError, match="24 of 64 chunks"):
        check_holes(tmp_path / "a.zarr")
    for path in sorted(chunks)[:40]:
        path.unlink()
    with pytest.raises(DataError, match="none of its 64 chunks"):
        check_holes(tmp_path / "a.zarr")


def test_a_chunk_of_one_channel_is_that_of_no_other(tmp_path: Path) -> None:
    array = np.stack([noise(), noise()])
    array[1, 4:8, 4:8, 4:8] = 0
    save(tmp_path / "a.zarr", array, chunks=(1, 4, 4, 4), shards=(2, 8, 8, 8))
    for channel, expected in ((0, None), (1, DataError)):
        source = open_source([tmp_path / "a.zarr"], channel=channel)
        with pytest.raises(expected) if expected else contextlib.nullcontext():
            source.check_holes(source.region(WHOLE), fill_missing=False)


def test_a_hole_in_an_hdf5_dataset_is_refused_too(tmp_path: Path) -> None:
    for name, rows in (("lost.h5", 8), ("whole.h5", 16)):
        with h5py.File(tmp_path / name, "w") as handle:
            made = handle.create_dataset("data", (16, 16, 16), "u2", chunks=(4, 4, 4))
            made[:rows] = noise()[:rows]
    assert check_holes(tmp_path / "whole.h5") == ()
    with pytest.raises(DataError, match=r"lost.h5:data: 32 of 64 chunks \(50 %\)"):
        check_holes(tmp_path / "lost.h5")
