"""Finding and opening datasets: what is accepted, and a clear one-line error for the rest."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from cyclegan.data import Volume, VolumeEntry, open_dataset, open_volumes
from cyclegan.data.hdf5_source import SharedFile, volume_names
from cyclegan.errors import DataError
from cyclegan.prepare import open_source

Noise = Callable[..., np.ndarray]


def entry(path: Path, dset: str = "data", **roi: Any) -> VolumeEntry:
    return VolumeEntry(path=path, dset=dset, **roi)


def raw(source: VolumeEntry, **options: Any) -> np.ndarray:
    volume = Volume(source, standardise="never", **options)
    return volume.read((0, 0, 0), volume.shape)


def refused(source: VolumeEntry, *words: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        Volume(source, **options)
    for word in [*words, str(source.path)]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# -- files and names --------------------------------------------------------------------------


def test_missing_truncated_and_foreign_files(tmp_path: Path, write: Any, noise: Noise) -> None:
    refused(entry(tmp_path / "none.h5"), "no such file")
    source = write(noise(20, 20, 20))
    source.path.write_bytes(source.path.read_bytes()[: source.path.stat().st_size // 2])
    refused(source, "not a readable HDF5 file")
    (tmp_path / "t.h5").write_text("no HDF5")
    refused(entry(tmp_path / "t.h5"), "not a readable HDF5 file")


def test_a_damaged_chunk_is_one_line(write: Any, noise: Noise) -> None:
    source = write(noise(16, 16, 16), chunks=(8, 16, 16), compression="gzip")
    with h5py.File(source.path) as handle:
        offset = handle["data"].id.get_chunk_info(1).byte_offset
    with source.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    refused(source, "reading failed, the file is damaged")


def test_wrong_dataset_name_lists_the_names_found_nearest_first(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as handle:
        for name in ("aaa", "entry/tomo", "zzz"):
            handle[name] = np.zeros((4, 4, 4), np.float32)
        handle["entry/angles"] = np.zeros(4)
    source = entry(tmp_path / "v.h5", "entry/tomos")
    refused(source, "no dataset 'entry/tomos'; datasets found: entry/tomo, ")
    refused(entry(tmp_path / "v.h5"), "no dataset 'data'; datasets found: ")
    refused(entry(tmp_path / "v.h5", "aaa/b"), "no dataset 'aaa/b'")
    refused(entry(tmp_path / "v.h5", "entry"), "'entry' is a group that names no default image")


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((4, 4)), "must be a real 3D array"),
        (np.zeros((1, 1, 4, 4, 4)), "must be a real 3D array"),
        (np.zeros((4, 4, 4), complex), "complex128"),
        (np.zeros((4, 4, 4), bool), "save a mask as uint8"),
        (np.zeros((4, 4, 4), "S3"), "must be a real 3D array"),
        (np.zeros((4, 4, 4), [("a", "f4")]), "must be a real 3D array"),
        (np.float32(3), "must be a real 3D array"),
        (h5py.Empty("f4"), "must be a real 3D array"),
        (np.zeros((4, 0, 4)), "the dataset is empty"),
    ],
)
def test_wrong_kind_of_array(write: Any, array: Any, word: str) -> None:
    refused(write(array), word)


def test_each_volume_uses_its_own_dataset_name(write: Any, noise: Noise) -> None:
    arrays = [noise(5, 5, 5, seed=seed) for seed in range(3)]
    sources = [
        write(arrays[0], name="a.h5", dset="tomo"),
        write(arrays[1], name="b.h5", dset="entry/scan"),
        write(arrays[2], name="b.h5", dset="tomo"),
    ]
    for volume, array in zip(open_volumes(sources), arrays, strict=True):
        np.testing.assert_array_equal(volume.read((0, 0, 0), (5, 5, 5))[0], array)


# -- regions and channels ---------------------------------------------------------------------


def test_regions_that_are_not_there(write: Any, noise: Noise) -> None:
    path = write(noise(4, 4, 4)).path
    refused(entry(path, roi=(None, (0, 9), None)), "ROI1 = [0, 9] ends beyond the 4 voxels")
    refused(entry(path, roi=((4, 5), None, None)), "ROI0 = [4, 5] ends beyond the 4 voxels")
    refused(entry(path, roi=(None, None, (2, 2))), "ROI2 = [2, 2] is empty")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2", ">f8", "u1", "<u2", ">i2", "<i8"])
@pytest.mark.parametrize("chunks", [None, (2, 3, 3)])
@pytest.mark.parametrize("memory", [0, 1e9])
def test_region_of_interest_is_half_open_for_any_dtype(
    write: Any, budget: Any, dtype: str, chunks: Any, memory: float
) -> None:
    array = np.arange(6 * 5 * 4).reshape(6, 5, 4).astype(dtype)
    source = write(array, roi=((1, 4), None, (2, 4)), chunks=chunks)
    found = raw(source, budget=budget(memory))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], array[1:4, :, 2:4].astype(np.float32))


@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize("chunks", [None, (1, 3, 2, 5), (2, 2, 2, 2)])
def test_channels_come_first(
    write: Any, noise: Noise, budget: Any, memory: float, chunks: Any
) -> None:
    array = noise(2, 5, 6, 7)
    source = write(array, roi=((1, 5), None, (0, 3)), chunks=chunks)
    found = raw(source, channels=2, budget=budget(memory))
    np.testing.assert_array_equal(found, array[:, 1:5, :, :3])
    refused(source, "2 channels", "3 are needed", channels=3)
    refused(source, "2 channels", "1 are needed")


def test_one_channel_may_be_written_out(write: Any, noise: Noise) -> None:
    array = noise(1, 4, 4, 4)
    np.testing.assert_array_equal(raw(write(array)), array)
    refused(write(array[0], name="w.h5"), "1 channels", "2 are needed", channels=2)


# -- compression ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter_",
    [
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf", "fletcher32": True},
        hdf5plugin.Blosc(cname="lz4"),
        hdf5plugin.Blosc2(),
        hdf5plugin.LZ4(),
        hdf5plugin.Bitshuffle(),
        hdf5plugin.Zstd(),
    ],
    ids=str,
)
def test_compressed_files_read_as_plain_ones(write: Any, noise: Noise, filter_: Any) -> None:
    array = noise(12, 10, 11)
    source = write(array, roi=((1, 12), (2, 9), None), chunks=(5, 4, 6), **filter_)
    np.testing.assert_array_equal(raw(source)[0], array[1:, 2:9])


def test_a_filter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as handle:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 2, 2))
        plist.set_filter(31_999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((4, 4, 4))
        h5py.h5d.create(handle.id, b"data", h5py.h5t.IEEE_F32LE, space, plist)
    refused(entry(tmp_path / "v.h5"), "the HDF5 filter 31999", "is not installed")


# -- links ------------------------------------------------------------------------------------


def test_links_lead_to_the_volume(tmp_path: Path, write: Any, noise: Noise) -> None:
    array = noise(4, 5, 6)
    write(array, name="target.h5", dset="entry/tomo")
    with h5py.File(tmp_path / "v.h5", "w") as handle:
        handle["soft"] = h5py.SoftLink("/group/external")
        handle["group/external"] = h5py.ExternalLink("target.h5", "/entry/tomo")
        handle["folder"] = h5py.ExternalLink("target.h5", "/entry")
    (tmp_path / "link.h5").symlink_to(tmp_path / "v.h5")
    for name in ("soft", "/soft", "group/external", "folder/tomo"):
        np.testing.assert_array_equal(raw(entry(tmp_path / "link.h5", name))[0], array)
        dataset = open_dataset(tmp_path / "v.h5", name)
        np.testing.assert_array_equal(dataset[()], array)
        dataset.file.close()


def test_links_that_lead_nowhere_name_their_target(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as handle:
        handle["external"] = h5py.ExternalLink("gone.h5", "/entry/tomo")
        handle["soft"] = h5py.SoftLink("/gone")
        handle["circle"] = h5py.SoftLink("/circle")
    path = tmp_path / "v.h5"
    refused(entry(path, "external"), "external link to '/entry/tomo' in 'gone.h5'")
    refused(entry(path, "external/deeper"), "external link to '/entry/tomo' in 'gone.h5'")
    refused(entry(path, "soft"), "soft link to '/gone', which leads nowhere")
    refused(entry(path, "circle"), "soft link to '/circle', which leads nowhere")


def test_names_found_are_those_behind_links_too_and_each_object_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "target.h5", "w") as handle:
        handle["entry/tomo"] = np.zeros((2, 2, 2))
        handle["entry/back"] = h5py.ExternalLink("v.h5", "/")
    with h5py.File(tmp_path / "v.h5", "w") as handle:
        handle["far"] = h5py.ExternalLink("target.h5", "/entry")
        handle["again"] = h5py.ExternalLink("target.h5", "/entry/tomo")
        handle["gone"] = h5py.ExternalLink("gone.h5", "/entry/tomo")
        handle["loop"] = h5py.SoftLink("/")
        handle["near"], handle["mask"] = np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool)
        names = volume_names(handle)
    assert names == ["again", "near"]
    refused(entry(tmp_path / "v.h5", "nearer"), "no dataset 'nearer'; datasets found: near, again")


# -- NeXus ------------------------------------------------------------------------------------


def nexus(path: Path, array: np.ndarray, *, default: bool = True, old: bool = False) -> None:
    with h5py.File(path, "w") as handle:
        entry, data = handle.create_group("entry"), handle.create_group("entry/reconstruction")
        entry.attrs["NX_class"] = "NXentry"
        data.attrs["NX_class"] = np.bytes_("NXdata")
        data["volume"] = array
        data["x"] = np.arange(array.shape[2])
        if old:
            data["volume"].attrs["signal"] = 1
        else:
            data.attrs["signal"] = "volume"
        if default:
            handle.attrs["default"] = "entry"
            entry.attrs["default"] = "reconstruction"


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    "dset", ["data", "entry", "entry/reconstruction", "entry/reconstruction/volume"]
)
def test_nexus_defaults_are_followed(
    tmp_path: Path, noise: Noise, default: bool, old: bool, dset: str
) -> None:
    array = noise(4, 5, 6)
    nexus(tmp_path / "v.nx", array, default=default, old=old)
    np.testing.assert_array_equal(raw(entry(tmp_path / "v.nx", dset))[0], array)


def test_several_possible_defaults_are_listed_not_guessed(tmp_path: Path, noise: Noise) -> None:
    nexus(tmp_path / "v.nx", noise(4, 5, 6), default=False)
    with h5py.File(tmp_path / "v.nx", "a") as handle:
        handle.copy("entry/reconstruction", "entry/other")
    refused(entry(tmp_path / "v.nx", "data"), "/entry/other/volume, /entry/reconstruction/volume")


def test_a_name_that_is_there_beats_the_default(tmp_path: Path, noise: Noise) -> None:
    nexus(tmp_path / "v.nx", noise(4, 5, 6))
    array = noise(3, 3, 3)
    with h5py.File(tmp_path / "v.nx", "a") as handle:
        handle["data"] = array
    np.testing.assert_array_equal(raw(entry(tmp_path / "v.nx"))[0], array)
    refused(entry(tmp_path / "v.nx", "dato"), "no dataset 'dato'")


# -- virtual datasets -------------------------------------------------------------------------


def virtual(folder: Path, parts: list[np.ndarray]) -> VolumeEntry:
    layout = h5py.VirtualLayout((4 * len(parts), 5, 6), "f4")
    for i, part in enumerate(parts):
        with h5py.File(folder / f"part{i}.h5", "w") as handle:
            handle["tomo"] = part
        layout[4 * i : 4 * i + 4] = h5py.VirtualSource(f"part{i}.h5", "tomo", (4, 5, 6))
    with h5py.File(folder / "v.h5", "w") as handle:
        handle.create_virtual_dataset("data", layout, fillvalue=0)
    return entry(folder / "v.h5")


def test_virtual_datasets_are_read_from_any_folder(
    tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [noise(4, 5, 6, seed=seed) for seed in range(3)]
    source = virtual(tmp_path, parts)
    np.testing.assert_array_equal(raw(source)[0], np.concatenate(parts))
    monkeypatch.chdir(tmp_path.parent)
    np.testing.assert_array_equal(raw(entry(Path(tmp_path.name) / "v.h5"))[0, 4:8], parts[1])


def test_missing_sources_of_a_virtual_dataset_are_told_where_they_matter(
    tmp_path: Path, noise: Noise
) -> None:
    source = virtual(tmp_path, [noise(4, 5, 6, seed=seed) for seed in range(3)])
    (tmp_path / "part1.h5").unlink()
    refused(source, "1 sources of this virtual dataset are missing", "part1.h5")
    with pytest.raises(DataError, match=r"part1\.h5"):
        open_dataset(source.path, "data")
    assert raw(entry(source.path, roi=((8, 12), None, None))).shape == (1, 4, 5, 6)
    with h5py.File(tmp_path / "part1.h5", "w") as handle:
        handle["other"] = noise(4, 5, 6)
    refused(source, "part1.h5:tomo")
    (tmp_path / "part1.h5").write_text("no HDF5")
    refused(source, "part1.h5 (not a readable HDF5 file")


# -- handles ----------------------------------------------------------------------------------


def test_one_handle_a_file_closed_with_its_last_volume(write: Any, noise: Noise) -> None:
    write(noise(6, 6, 6), dset="a")
    source = write(noise(6, 6, 6, seed=1), dset="b")
    volumes = [
        Volume(VolumeEntry(path=source.path, dset=name, roi=((0, n), None, None)))
        for name in ("a", "b")
        for n in (3, 6)
    ]
    assert len(open_files(source.path)) == 1
    for volume in volumes[1:]:
        volume.close()
    assert volumes[0].read((0, 0, 0), (3, 6, 6)).shape == (1, 3, 6, 6)
    with pytest.raises(DataError, match="was closed"):
        volumes[1].read((0, 0, 0), (3, 6, 6))
    volumes[0].close()
    assert not open_files(source.path)


def test_a_held_volume_leaves_its_file_closed(write: Any, noise: Noise, budget: Any) -> None:
    source = write(noise(6, 6, 6))
    volume = Volume(source, budget=budget(1e9))
    assert volume.in_memory
    assert not open_files(source.path)


def open_files(path: Path) -> list[str]:
    folder = Path("/proc/self/fd")
    return [link.name for link in folder.iterdir() if link.is_symlink() and link.resolve() == path]


def test_a_forked_child_reads_with_a_handle_of_its_own(write: Any, noise: Noise) -> None:
    array = noise(6, 6, 6)
    volume = Volume(write(array, chunks=(3, 3, 3), compression="gzip"))
    parent = SharedFile.of(volume.entry.path).handle.id.id
    child = os.fork()
    if child == 0:  # no assertion may leave a second pytest running
        status = 1
        try:
            same = np.array_equal(volume.read((1, 1, 1), (4, 4, 4))[0], array[1:5, 1:5, 1:5])
            shared = SharedFile.of(volume.entry.path)
            status = 0 if same and shared._pid == os.getpid() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert SharedFile.of(volume.entry.path).handle.id.id == parent
    np.testing.assert_array_equal(volume.read((0, 0, 0), (6, 6, 6))[0], array)


# -- files that another program writes ------------------------------------------------------------

_PLAIN = "f = h5py.File(sys.argv[1], 'r+')"
_SWMR = """
f = h5py.File(sys.argv[1], 'w', libver='latest')
f.create_dataset('data', data=np.ones((4, 4, 4)), chunks=(2, 4, 4))
f.swmr_mode = True
"""


@contextlib.contextmanager
def writing(path: Path, how: str) -> Iterator[None]:
    code = f"import sys\nimport h5py\nimport numpy as np\n{how}\nprint(flush=True)\ninput()"
    arguments = [sys.executable, "-c", code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (_PLAIN, r"another program has this file open.*try again.*HDF5_USE_FILE_LOCKING=FALSE"),
        (_SWMR, r"a program is writing this file, or was killed.*try again.*h5clear -s"),
    ],
    ids=["plain", "swmr"],
)
def test_a_file_that_is_being_written_is_not_called_truncated(
    tmp_path: Path, write: Any, how: str, said: str
) -> None:
    path = write(np.ones((4, 4, 4)), name="scan.data").path
    with h5py.File(tmp_path / "link.h5", "w") as handle:
        handle["data"] = h5py.ExternalLink("scan.data", "data")
    with writing(path, how):
        for name in (path, tmp_path / "link.h5"):
            with pytest.raises(DataError, match=said):
                open_dataset(name, "data")
        with pytest.raises(DataError, match=said):
            open_source([path])
