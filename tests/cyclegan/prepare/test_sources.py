"""Every format gives the same voxels; anything that is not a volume is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from cyclegan.errors import DataError, UsageError
from cyclegan.prepare import (
    WHOLE,
    Settings,
    Source,
    group_inputs,
    open_source,
    parse_roi,
    parse_voxel_size,
    prepare_volume,
    voxel_size_text,
)

SHAPE = (5, 12, 17)
WINDOW = (slice(1, 4), slice(2, 11), slice(3, 17))
DTYPES = ["u1", "<u2", ">u2", "<i2", ">i4", "<f2", "<f4", ">f4", "<f8", ">f8"]


def volume(dtype: str = "<u2") -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 120, SHAPE)
    return values.astype(np.dtype(dtype))


def check(source: Source, expected: np.ndarray) -> None:
    assert source.shape == expected.shape
    region = source.region(WHOLE)
    whole = source.read(tuple(slice(*limits) for limits in region))
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(source.read(WINDOW), expected[WINDOW])
    source.close()


def hdf5(path: Path, content: dict[str, Any], **attributes: Any) -> Path:
    with h5py.File(path, "w") as handle:
        for name, value in content.items():
            handle[name] = value
        handle.attrs.update(attributes)
    return path


# -- NPY --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_npy_is_read_in_any_dtype_byte_order_and_memory_order(
    tmp_path: Path, dtype: str, order: Any
) -> None:
    np.save(tmp_path / "a.npy", np.asarray(volume(dtype), order=order))
    check(open_source([tmp_path / "a.npy"]), volume(dtype))


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_channel_is_chosen(tmp_path: Path, order: Any) -> None:
    array = np.stack([volume(), volume() + 1, volume() + 2])
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    for channel in range(3):
        check(open_source([tmp_path / "a.npy"], channel=channel), array[channel])
    with pytest.raises(DataError, match="3 channels; choose one with --channel"):
        open_source([tmp_path / "a.npy"])
    with pytest.raises(DataError, match="--channel 3: it has 3"):
        open_source([tmp_path / "a.npy"], channel=3)


def test_leading_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", volume()[None, None])
    check(open_source([tmp_path / "a.npy"]), volume())


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4)), "axes Z, Y, X"),
        (np.zeros((2, 2, 3, 4, 4)), "axes Z, Y, X"),
        (np.zeros((0, 4, 4)), "axes Z, Y, X"),
        (np.zeros((4, 4, 4), complex), "complex128"),
        (np.zeros((4, 4, 4), bool), "bool"),
        (np.array([{}]), "not a complete NPY file"),
    ],
)
def test_arrays_that_are_no_volume_are_refused(
    tmp_path: Path, array: np.ndarray, said: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy.*{said}"):
        open_source([tmp_path / "a.npy"])


def test_a_truncated_npy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, volume())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.npy"):
        open_source([path])


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"II*\0", b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["a.dat", "a.h5"])
def test_rubbish_is_refused_naming_the_file(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        open_source([tmp_path / name])


# -- HDF5 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_hdf5_is_read_in_any_dtype(tmp_path: Path, dtype: str) -> None:
    check(open_source([hdf5(tmp_path / "a.h5", {"x/y": volume(dtype)})]), volume(dtype))


@pytest.mark.parametrize("kind", ["lz4", "blosc", "gzip"])
def test_hdf5_is_read_by_its_chunks(tmp_path: Path, kind: str) -> None:
    filters = {"lz4": hdf5plugin.LZ4(), "blosc": hdf5plugin.Blosc(), "gzip": {"compression": 4}}
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        handle.create_dataset("v", data=volume(), chunks=(2, 6, 17), **filters[kind])
    source = open_source([tmp_path / "a.h5"])
    assert source.grain == (2, 6)
    check(source, volume())


def test_a_channel_of_hdf5_is_chosen(tmp_path: Path) -> None:
    array = np.stack([volume(), volume() + 1])
    path = hdf5(tmp_path / "a.h5", {"v": array})
    check(open_source([path], channel=1), array[1])


def nexus(path: Path) -> Path:
    with h5py.File(path, "w") as handle:
        handle["entry/data/volume"] = volume()
        handle["entry/data/other"] = volume() + 1
        handle.attrs["default"] = "entry"
        handle["entry"].attrs["default"] = "data"
        handle["entry/data"].attrs["signal"] = "volume"
    return path


def test_default_and_signal_of_nexus_are_followed(tmp_path: Path) -> None:
    path = nexus(tmp_path / "a.nxs")
    check(open_source([path]), volume())
    check(open_source([path], dataset="entry/data/other"), volume() + 1)
    check(open_source([path], dataset="entry"), volume())
    check(open_source([path], dataset="/entry/data"), volume())


def test_several_defaults_are_listed_not_guessed(tmp_path: Path) -> None:
    path = nexus(tmp_path / "a.nxs")
    with h5py.File(path, "a") as handle:
        del handle.attrs["default"]
        handle["more/volume"] = volume()
        handle["more"].attrs["signal"] = "volume"
        handle["entry"].attrs["signal"] = "data/volume"
    with pytest.raises(DataError, match=r"several volumes; name one with --dataset: .*more/volume"):
        open_source([path])


def test_leading_axes_of_hdf5_of_length_one_are_dropped(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", {"v": volume()[None, None, None]})
    check(open_source([path]), volume())


def test_several_candidates_are_listed_once_each(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", {"b": volume(), "c/d": volume(), "flat": np.zeros((3, 3))})
    with h5py.File(path, "a") as handle:
        handle["soft"] = h5py.SoftLink("/c/d")
        handle["loop"] = h5py.SoftLink("/")
    with pytest.raises(
        DataError, match=r"several volumes; name one with --dataset: b, (c/d|soft)$"
    ):
        open_source([path])


def test_soft_and_external_links_are_followed(tmp_path: Path) -> None:
    hdf5(tmp_path / "raw.h5", {"deep/volume": volume()})
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as handle:
        handle["link"] = h5py.ExternalLink("raw.h5", "/deep/volume")
        handle["soft"] = h5py.SoftLink("/link")
    source = open_source([path])
    assert {p.name for p in source.files} == {"a.h5", "raw.h5"}
    check(source, volume())
    check(open_source([path], dataset="soft"), volume())
    with h5py.File(path, "a") as handle:
        handle.attrs["signal"] = "link"
        handle["other"] = volume() + 1
    check(open_source([path]), volume())
    opened = {p.resolve().name for p in Path("/proc/self/fd").iterdir() if p.is_symlink()}
    assert not opened & {"a.h5", "raw.h5"}


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as handle:
        handle["far"] = h5py.ExternalLink("gone.h5", "/v")
        handle["near"] = h5py.SoftLink("/gone")
    with pytest.raises(DataError, match=r"'far' is an external link to '/v' in 'gone\.h5'"):
        open_source([path], dataset="far")
    with pytest.raises(DataError, match=r"'near' is a soft link to '/gone', which leads nowhere"):
        open_source([path], dataset="near")
    with pytest.raises(DataError, match="no dataset of three or more axes"):
        open_source([path])


def test_a_virtual_dataset_is_read_and_its_missing_file_is_not_read_as_zeros(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.h5"
    layout = h5py.VirtualLayout((10, *SHAPE[1:]), "<u2")
    for i in range(2):
        hdf5(tmp_path / f"raw{i}.h5", {"v": volume() + i})
        layout[5 * i : 5 * i + 5] = h5py.VirtualSource(f"raw{i}.h5", "v", SHAPE)
    with h5py.File(path, "w") as handle:
        handle.create_virtual_dataset("v", layout)
    source = open_source([path])
    assert {p.name for p in source.files} == {"a.h5", "raw0.h5", "raw1.h5"}
    check(source, np.concatenate([volume(), volume() + 1]))
    (tmp_path / "raw1.h5").unlink()
    source = open_source([path])
    with pytest.raises(DataError, match=r"1 sources of .* the first is raw1\.h5"):
        source.region(WHOLE)
    with pytest.raises(DataError, match=r"the first is raw1\.h5"):
        prepare_volume(source, tmp_path / "out.h5", Settings())
    assert not (tmp_path / "out.h5").exists()
    region = source.region(parse_roi("0:5,:,:"))
    np.testing.assert_array_equal(source.read(tuple(slice(*r) for r in region)), volume())
    source.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "no dataset 'nope'; datasets found: b"),
        ("group", "'group' is a group that names no default image; datasets found: b"),
    ],
)
def test_a_wrong_name_is_answered_with_those_there_are(
    tmp_path: Path, name: str, said: str
) -> None:
    path = hdf5(tmp_path / "a.h5", {"b": volume(), "group/flat": np.zeros(3)})
    with pytest.raises(DataError, match=said):
        open_source([path], dataset=name)


def test_a_truncated_hdf5_is_refused(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", {"b": volume()})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.h5: not a readable HDF5 file"):
        open_source([path])


def test_a_damaged_chunk_is_a_line_that_names_file_and_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as handle:
        made = handle.create_dataset("v", data=volume(), chunks=SHAPE, compression="gzip")
        handle.flush()
        place = made.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)
    source = open_source([path])
    with pytest.raises(DataError, match=r"a\.h5:v: reading failed"):
        source.read(WINDOW)
    source.close()


# -- voxel size -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "1,2", "nan", "inf", "1,2,3,4", "1,0,1"])
def test_a_voxel_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--voxel-size"):
        parse_voxel_size(text)


def test_a_voxel_size_is_one_length_or_three() -> None:
    assert parse_voxel_size("0.8") == (0.8, 0.8, 0.8)
    assert parse_voxel_size("1.6, 0.8,0.8") == (1.6, 0.8, 0.8)
    assert voxel_size_text((0.8, 0.8, 0.8)) == "0.8 um"
    assert voxel_size_text((1.6, 0.8, 0.8)) == "1.6 x 0.8 x 0.8 um (z, y, x)"


def test_hdf5_says_its_voxel_size(tmp_path: Path) -> None:
    source = open_source([hdf5(tmp_path / "a.h5", {"v": volume()}, voxel_size_um=[2.0, 0.5, 0.5])])
    assert source.voxel_size_um == (2.0, 0.5, 0.5)
    assert not source.notes
    source.close()


def test_a_voxel_size_without_unit_is_not_believed_and_said(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", {"v": volume()}, pixel_size=0.5)
    source = open_source([path])
    assert source.voxel_size_um is None
    assert "no unit of length" in source.notes[0]
    source.close()


# -- which inputs are one volume --------------------------------------------------------------


def test_inputs_that_are_not_there_or_named_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match="b: no such file or folder"):
        group_inputs([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UsageError, match="named twice"):
        group_inputs([tmp_path / "a", tmp_path / ".." / tmp_path.name / "a"])


def test_a_folder_without_volume_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="a folder with neither TIFF"):
        open_source([tmp_path])
