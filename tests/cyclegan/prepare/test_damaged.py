"""Damaged files of all formats: either the voxels are read, or one line names the file."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from cyclegan.data import Volume, VolumeEntry
from cyclegan.errors import CycleGANError, DataError
from cyclegan.prepare import WHOLE, group_inputs, open_source

SHAPE = (6, 8, 10)
CASES = 80
SECONDS, MEGABYTES = 20, 400


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype("u2")


def tiff(**options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, volume(), **options)


def npy(order: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, np.asarray(volume(), order=order))


def hdf5(libver: Any, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w", libver=libver) as handle:
            made = handle.create_dataset("data", data=volume(), **options)
            made.attrs.update(units="1/cm", voxel_size=2.0, voxel_size_units="um")

    return write


def zarr_array(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        chunks = {"chunks": (2, 4, 10), "shape": SHAPE, "dtype": "u2"}
        zarr.create_array(str(path), **chunks, **options)[...] = volume()

    return write


WRITERS: dict[str, Callable[[Path], None]] = {
    "plain.tif": tiff(photometric="minisblack"),
    "zlib.tif": tiff(photometric="minisblack", compression="zlib", predictor=True),
    "imagej.tif": tiff(imagej=True),
    "ome.ome.tif": tiff(photometric="minisblack", metadata={"axes": "ZYX"}),
    "c.npy": npy("C"),
    "fortran.npy": npy("F"),
    "contiguous.h5": hdf5("earliest"),
    "chunks.h5": hdf5("earliest", chunks=(2, 4, 5), compression="gzip", fletcher32=True),
    "latest.h5": hdf5("latest", chunks=(2, 4, 5)),
    "v2.zarr": zarr_array(zarr_format=2),
    "v3.zarr": zarr_array(zarr_format=3),
    "shards.zarr": zarr_array(zarr_format=3, shards=(4, 8, 10)),
}


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Return the content cut off, or with some bytes changed, often in its header."""
    changed = bytearray(content)
    kind = random.integers(4)
    if kind == 0:
        return content[: random.integers(len(content) + 1)]
    reach = min(len(content), 600) if kind == 1 else len(content)
    for place in random.integers(reach, size=random.integers(1, 4)):
        changed[place] = random.choice([0, 1, 127, 128, 255]) if kind < 3 else changed[place] ^ 16
    return bytes(changed)


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*arguments: Any) -> None:
        raise TimeoutError("this file makes it hang")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(path: Path) -> None:
    """Read a corner, and everything if the file still has its small shape."""
    for group in group_inputs([path]):
        with contextlib.closing(open_source(group)) as source:
            region = source.region(WHOLE)
            source.check_holes(region, fill_missing=True)
            source.read((slice(0, 1), slice(0, 1), slice(0, 1)))
            if source.shape == SHAPE:
                source.read((slice(0, 6), slice(0, 8), slice(0, 10)))


def train_on(path: Path) -> None:
    region = ((0, 6), (0, 8), (0, 10))
    Volume(VolumeEntry(path=path, dset="data", roi=region)).close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    read(path)
    files = sorted(p for p in [path, *path.rglob("*")] if p.is_file())
    contents = {file: file.read_bytes() for file in files}
    random = np.random.default_rng(len(name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(CASES):
        file = files[random.integers(len(files))]
        file.write_bytes(damaged(contents[file], random))
        for use in (read, train_on) if path.suffix == ".h5" else (read,):
            try:
                with within(SECONDS):
                    use(path)
            except CycleGANError as error:
                refused += 1
                assert name in str(error) and "\n" not in str(error)
        file.write_bytes(contents[file])
    assert refused > CASES // 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES * 1024


@pytest.mark.parametrize(
    "shape", ["(-1, 8, 10)", "(6, -8, -10)", "(99999999999999999999, 8, 10)", "(6, 8, 1e9)", "(6"]
)
def test_impossible_shapes_of_npy_files(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00v\x00" + header.encode() + volume().tobytes()
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy: not a complete NPY file of numbers"):
        open_source([tmp_path / "a.npy"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [-6, 8, 10]),
        ("shape", [10**15, 10**9, 10**9]),
        ("shape", [6, 8, 10**12]),
        ("chunks", [0, 8, 10]),
        ("chunks", [-2, 8, 10]),
        ("chunks", [1, 1]),
        ("dtype", "|O"),
        ("fill_value", "x"),
        ("compressor", {"id": "none such"}),
    ],
)
def test_impossible_descriptions_of_zarr_arrays(tmp_path: Path, key: str, value: Any) -> None:
    WRITERS["v2.zarr"](tmp_path / "a.zarr")
    file = tmp_path / "a.zarr" / ".zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(DataError, match=r"a\.zarr: .*(not a readable|damaged)"):
        read(tmp_path / "a.zarr")


def test_a_page_that_claims_more_pixels_than_it_stores(tmp_path: Path) -> None:
    for name, options in (("plain", {}), ("zlib", {"compression": "zlib"})):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, volume()[0], metadata=None, **options)
        with tifffile.TiffFile(path, mode="r+") as opened:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                opened.pages.first.tags[tag].overwrite(60_000)
        with pytest.raises(DataError, match=rf"{name}\.tif: damaged: .* bytes of pixels"):
            open_source([path])


# -- names, links and formats that are not read ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loop.h5", "a symbolic link that leads back to itself"),
        ("away.h5", "but a symbolic link to gone.h5, which is not there"),
        ("n" * 256 + ".h5", "its name is too long"),
        ("none.h5", "no such file"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    (tmp_path / "away.h5").symlink_to("gone.h5")
    with pytest.raises(DataError, match=said):
        group_inputs([tmp_path / name])
    with pytest.raises(DataError, match=said):
        Volume(VolumeEntry(path=tmp_path / name, dset="data"))
    with pytest.raises(DataError, match="null byte"):
        Volume(VolumeEntry(path=tmp_path / "a\0.h5", dset="data"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.raw", r"np.save\('a.npy', np.memmap\('a.raw', '<u2', 'r', shape=\(Z, Y, X\)\)\)"),
        ("a.VOL", r"np.memmap\('a.VOL'"),
        ("a.nii.gz", r"np.save\('a.npy', .*nibabel.load\('a.nii.gz'\)"),
        ("a.mrc", r"mrcfile.mmap\('a.mrc'\)"),
        ("a.mhd", r"s.ReadImage\('a.mhd'\)"),
        ("a.dcm", "save it as a TIFF stack"),
        ("a.npz", r"np.load\('a.npz'\)"),
        ("a.unknown", "neither HDF5 .NeXus., TIFF, NPY nor a Zarr folder$"),
    ],
)
def test_other_formats_get_a_hint(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(200)))
    with pytest.raises(DataError, match=said):
        open_source([tmp_path / name])


def test_the_line_for_raw_voxels_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    volume().tofile("a.raw")
    with pytest.raises(DataError) as caught:
        open_source([Path("a.raw")])
    line = str(caught.value).partition("file: ")[2].replace("(Z, Y, X)", str(SHAPE))
    exec(line)
    source = open_source([Path("a.npy")])
    np.testing.assert_array_equal(source.read((slice(0, 6), slice(0, 8), slice(0, 10))), volume())


def test_attributes_that_are_not_utf8_are_read_as_latin_1(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        made = handle.create_dataset("data", data=volume())
        made.attrs["voxel_size"] = 2.0
        made.attrs.create("voxel_size_units", b"\xb5m", dtype=h5py.string_dtype("utf-8", 2))
        made.attrs.create("units", b"m\xb2", dtype=h5py.string_dtype("utf-8"))
    source = open_source([tmp_path / "a.h5"])
    assert source.voxel_size_um == (2.0, 2.0, 2.0)
    assert source.units == "m²"
