"""The dataset JSON has every plane, none in both train and validate, and relative paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cyclegan.data import DatasetSpec
from cyclegan.errors import DataError, UsageError
from cyclegan.prepare import complement, dataset_text, entries, output_paths, validation_ranges


@pytest.mark.parametrize(
    ("wanted", "kept", "trained"),
    [
        ([], [(85, 100)], [(0, 85)]),
        ([(20, 40)], [(20, 40)], [(0, 20), (40, 100)]),
        ([(None, 10)], [(0, 10)], [(10, 100)]),
        ([(90, None)], [(90, 100)], [(0, 90)]),
        ([(50, 60), (10, 20)], [(10, 20), (50, 60)], [(0, 10), (20, 50), (60, 100)]),
        ([(10, 20), (20, 30)], [(10, 20), (20, 30)], [(0, 10), (30, 100)]),
    ],
)
def test_every_plane_is_in_train_or_in_validate(wanted: list, kept: list, trained: list) -> None:
    assert validation_ranges(wanted, 100, "a") == kept
    assert complement(kept, 100) == trained
    planes = [n for a, b in kept + trained for n in range(a, b)]
    assert sorted(planes) == list(range(100))


@pytest.mark.parametrize("length", range(2, 30))
def test_by_default_the_last_planes_are_kept_and_some_always(length: int) -> None:
    ((start, end),) = validation_ranges([], length, "a")
    assert end == length and 1 <= end - start < length
    assert abs((end - start) - 0.15 * length) <= 1


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([(0, 100)], "leaves none"),
        ([(0, 50), (50, 100)], "leaves none"),
        ([(0, 20), (10, 30)], "overlap"),
        ([(0, 30), (10, 20)], "overlap"),
        ([(90, 101)], "ends beyond the 100 planes"),
        ([(100, None)], "ends beyond the 100 planes"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(wanted: list, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validation_ranges(wanted, 100, "a")


def test_one_plane_can_not_be_split() -> None:
    with pytest.raises(DataError, match="one plane along Z"):
        validation_ranges([], 1, "a")


def test_one_volume_is_a_file_and_several_are_a_folder(tmp_path: Path) -> None:
    one, several = [[Path("x/a.tif")]], [[Path("x/a.tif")], [Path("y/b.npy")], [Path("z/c")]]
    assert output_paths(one, tmp_path / "o.h5", Path("v.tif")) == (
        [tmp_path / "o.h5"],
        tmp_path / "o_validate.h5",
        tmp_path / "o.json",
    )
    assert output_paths(several, tmp_path / "o", Path("v.tif")) == (
        [tmp_path / "o" / name for name in ("a.h5", "b.h5", "c.h5")],
        tmp_path / "o" / "v.h5",
        tmp_path / "o" / "dataset.json",
    )
    with pytest.raises(UsageError, match="3 volumes need a folder"):
        output_paths(several, tmp_path / "o.h5", None)
    for path in (tmp_path, tmp_path / "o", tmp_path / "o.tif"):
        with pytest.raises(UsageError, match="name an HDF5 file"):
            output_paths(one, path, None)
    with pytest.raises(UsageError, match=r"would both become .*a\.h5"):
        output_paths([[Path("x/a.tif")], [Path("y/a.tif")]], tmp_path / "o", None)
    with pytest.raises(UsageError, match=r"would both become .*b\.h5"):
        output_paths(several, tmp_path / "o", Path("b.tif"))


HASH = "sha256:" + "0" * 64


def test_what_is_written_is_what_a_training_reads(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    json_file, volume = tmp_path / "sub" / "set.json", tmp_path / "a b.h5"
    text = dataset_text(
        entries(volume, json_file, [(0, 20), (40, 100)], HASH),
        entries(volume, json_file, [(20, 40)], HASH)
        + entries(tmp_path / "v.h5", json_file, [None], ""),
    )
    json_file.write_text(text)
    assert json.loads(json_file.read_text())["train"][0]["path"] == "../a b.h5"
    spec = DatasetSpec.load(json_file)
    assert [e.roi[0] for e in spec.train] == [(0, 20), (40, 100)]
    assert [e.roi[0] for e in spec.validate] == [(20, 40), None]
    assert spec.train[0].path.resolve() == volume
    assert [e.hash for e in (*spec.train, *spec.validate)] == [HASH, HASH, HASH, ""]
