"""Datasets: errors that help, and patches that cover every voxel and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import DatasetSpec, PatchSampler, Volume, VolumeEntry, open_volumes
from cyclegan.errors import DataError


def write(folder: Path, content: Any, name: str = "d.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def volume_file(folder: Path, array: np.ndarray, dset: str = "data", name: str = "v.h5") -> Path:
    with h5py.File(folder / name, "w") as handle:
        handle[dset] = array
    return folder / name


ITEM = {"path": "v.h5", "dset": "data"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"train": [\n  {"path" "v.h5"}]}', ["line 2, column 11", "not valid JSON"]),
        ([], ["'train' and 'validate'"]),
        ({"train": [ITEM]}, ["'validate' is missing"]),
        ({"train": [], "validate": [ITEM]}, ["'train' must be a list of at least one"]),
        ({"train": [ITEM], "validat": [ITEM]}, ["'validat'", "did you mean 'validate'"]),
        ({"train": [{"pth": "v.h5"}], "validate": [ITEM]}, ["train[0]", "is wanted"]),
        ({"train": [ITEM | {"dst": 1}], "validate": [ITEM]}, ["'dst'", "did you mean 'dset'"]),
        ({"train": [ITEM | {"ROI0": [5, 5]}], "validate": [ITEM]}, ["ROI0", "start < end"]),
    ],
)
def test_malformed_dataset_json(tmp_path: Path, content: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        DatasetSpec.load(write(tmp_path, content))
    for word in [*words, "d.json"]:
        assert word in str(caught.value)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        DatasetSpec.load(tmp_path / "none.json")


def test_paths_are_relative_to_the_json(tmp_path: Path) -> None:
    spec = DatasetSpec.load(write(tmp_path, {"train": [ITEM], "validate": [ITEM]}))
    assert spec.train[0].path == tmp_path / "v.h5"


def entry(path: Path, dset: str = "data", **roi: Any) -> VolumeEntry:
    return VolumeEntry(path=path, dset=dset, **roi)


def test_wrong_dataset_name_lists_the_names_found(tmp_path: Path) -> None:
    path = volume_file(tmp_path, np.zeros((4, 4, 4), np.float32), "entry/tomo")
    with pytest.raises(DataError, match=r"no dataset 'data'; datasets found: entry/tomo"):
        Volume(entry(path))


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.h5: no such file"):
        Volume(entry(tmp_path / "none.h5"))
    path = volume_file(tmp_path, np.random.default_rng(0).normal(size=(20, 20, 20)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        Volume(entry(path))
    (tmp_path / "t.h5").write_text("no HDF5")
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        Volume(entry(tmp_path / "t.h5"))


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 4), complex)])
def test_wrong_kind_of_array(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(DataError, match="a real 3D array is wanted"):
        Volume(entry(volume_file(tmp_path, array)))


def test_non_finite_voxels_are_counted(tmp_path: Path) -> None:
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, :2] = np.nan
    with pytest.raises(DataError, match="2 of 64 voxels are NaN or infinite"):
        Volume(entry(volume_file(tmp_path, array)))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<u2", ">i2"])
def test_region_of_interest_is_half_open_for_any_dtype(
    tmp_path: Path, in_memory: bool, dtype: str
) -> None:
    array = np.arange(6 * 5 * 4).reshape(6, 5, 4).astype(dtype)
    path = volume_file(tmp_path, array)
    volume = Volume(entry(path, roi=((1, 4), None, (2, 4))), in_memory=in_memory)
    assert volume.shape == (3, 5, 2)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (3, 5, 2)), array[1:4, :, 2:4])


@pytest.mark.parametrize(
    ("scale", "offset", "warned"), [(1.0, 0.0, False), (1.0, 1000.0, True), (300.0, 0.0, True)]
)
def test_a_volume_that_is_not_standardised_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scale: float, offset: float, warned: bool
) -> None:
    array = scale * np.random.default_rng(0).normal(size=(6, 6, 6)) + offset
    Volume(entry(volume_file(tmp_path, array)))
    assert ("does not look standardised" in caplog.text) == warned


def test_region_beyond_the_volume(tmp_path: Path) -> None:
    path = volume_file(tmp_path, np.zeros((4, 4, 4)))
    with pytest.raises(DataError, match=r"ROI1 = \[0, 9\] ends beyond the 4 voxels"):
        Volume(entry(path, roi=(None, (0, 9), None)))


def test_patch_larger_than_the_volume(tmp_path: Path) -> None:
    path = volume_file(tmp_path, np.zeros((8, 8, 8), np.float32))
    with pytest.raises(DataError, match=r"\[16, 8, 8\] voxels does not fit into the \[8, 8, 8\]"):
        PatchSampler([Volume(entry(path))], (16, 8, 8), seed=(0,))


def test_region_of_exactly_one_patch_works(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    volume = Volume(entry(volume_file(tmp_path, array)))
    sampler = PatchSampler([volume], (8, 8, 8), seed=(0,), flips=False)
    np.testing.assert_array_equal(sampler.draw(1)[0, 0].numpy(), array)


def test_every_voxel_of_every_file_is_drawn_uniformly(tmp_path: Path) -> None:
    small = np.arange(4 * 2 * 2, dtype=np.float32).reshape(4, 2, 2)
    large = 100 + np.arange(10 * 2 * 2, dtype=np.float32).reshape(10, 2, 2)
    paths = [volume_file(tmp_path, a, name=f"{i}.h5") for i, a in enumerate((small, large))]
    sampler = PatchSampler([Volume(entry(p)) for p in paths], (2, 2, 2), seed=(3,))
    firsts = [float(patch.min()) for patch in sampler.draw(6000)]
    origins, counts = np.unique(firsts, return_counts=True)
    # 3 origins in the small file, 9 in the large one, the last ones included.
    assert list(origins) == [0, 4, 8, *range(100, 136, 4)]
    assert counts.min() > 500 * 0.85
    assert counts.max() < 500 * 1.15


def test_all_flips_occur(tmp_path: Path) -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    volume = Volume(entry(volume_file(tmp_path, array)))
    sampler = PatchSampler([volume], (2, 2, 2), seed=(0,))
    seen = {tuple(patch.flatten().tolist()) for patch in sampler.draw(200)}
    assert len(seen) == 8


def test_sampler_goes_on_where_its_state_was_taken(tmp_path: Path) -> None:
    path = volume_file(tmp_path, np.random.default_rng(0).normal(size=(9, 9, 9)))
    one = PatchSampler([Volume(entry(path))], (4, 4, 4), seed=(5,))
    one.draw(3)
    state = one.state_dict()
    expected = one.draw(4)
    other = PatchSampler([Volume(entry(path))], (4, 4, 4), seed=(99,))
    other.load_state_dict(state)
    assert other.draw(4).equal(expected)


def test_memory_budget_decides_where_patches_come_from_not_what_they_are(tmp_path: Path) -> None:
    path = volume_file(tmp_path, np.random.default_rng(0).normal(size=(9, 9, 9)))
    held, lazy = (
        PatchSampler(open_volumes([entry(path)], budget), (4, 4, 4), seed=(5,))
        for budget in (1e9, 0.0)
    )
    assert held.draw(5).equal(lazy.draw(5))
