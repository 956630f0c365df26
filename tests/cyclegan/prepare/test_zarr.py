"""Zarr arrays, v2 and v3, and OME-Zarr images."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cyclegan.errors import CycleGANError, DataError
from cyclegan.prepare import Source, open_source

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
