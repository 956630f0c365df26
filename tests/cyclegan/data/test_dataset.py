"""Dataset JSONs: helpful errors, correct regions, and warnings if a score would flatter."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cyclegan.data import DatasetSpec
from cyclegan.errors import DataError


def written(folder: Path, content: Any, name: str = "d.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


ITEM = {"path": "v.h5", "dset": "data"}
OTHER = {"path": "w.h5", "dset": "data"}
CUBE = [[0, 0, 0], [5, 6, 7]]


def with_item(**changes: Any) -> dict[str, Any]:
    return {"train": [ITEM | changes], "validate": [OTHER]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"train": [\n  {"path" "v.h5"}]}', ["line 2, column 11", "not valid JSON"]),
        ([], ["'train' and 'validate'"]),
        ({"validate": [ITEM]}, ["'train' and 'validate'"]),
        ({"train": [], "validate": [ITEM]}, ["'train' must be a list of at least one"]),
        ({"train": [ITEM], "validate": "v.h5"}, ["'validate' must be a list of at least one"]),
        ({"train": [ITEM], "validat": [ITEM]}, ["'validat'", "did you mean 'validate'"]),
        ({"train": [{"pth": "v.h5"}], "validate": [ITEM]}, ["train[0]", "must be an object"]),
        ({"train": ["v.h5"], "validate": [ITEM]}, ["train[0]", "must be an object"]),
        (with_item(dst=1), ["'dst'", "did you mean 'dset'"]),
        (with_item(dset=""), ["dset = ''", "name of a dataset"]),
        (with_item(ROI0=[5, 5]), ["ROI0", "start < end"]),
        (with_item(ROI1=[-1, -5]), ["ROI1", "start < end"]),
        (with_item(ROI2=[0, 5.5]), ["ROI2", "whole voxels"]),
        (with_item(ROI2=[False, True]), ["ROI2", "whole voxels"]),
        (with_item(ROI=CUBE, ROI1=[0, 3]), ["both ROI and ROI1", "keep one"]),
        (with_item(ROI=[0, 5]), ["two corners [[z, y, x], [z, y, x]]"]),
        (with_item(ROI=[[0, 0], [5, 5]]), ["two corners"]),
        (with_item(ROI=[[0, 6, 0], [5, 6, 7]]), ["axis 1 of ROI = [6, 6]", "start < end"]),
        (with_item(fill_missing="yes"), ["fill_missing = 'yes'", "true or false"]),
        (with_item(fill_missing=1), ["fill_missing = 1", "true or false"]),
        (with_item(fill_mising=True), ["'fill_mising'", "did you mean 'fill_missing'"]),
        (with_item(halves="a.h5"), ["halves = a.h5", "two files"]),
        (with_item(halves=["a.h5"]), ["halves", "two files"]),
        (with_item(halves=["a.h5", 1]), ["halves", "two files"]),
        (with_item(halves=["a.h5", "a.h5"]), ["halves", "name one file"]),
        (with_item(halves=["a.h5", "./b/../a.h5"]), ["halves", "name one file"]),
    ],
)
def test_malformed_dataset_json(tmp_path: Path, content: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        DatasetSpec.load(written(tmp_path, content))
    for word in [*words, "d.json"]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_json_and_text_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        DatasetSpec.load(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"b\.json: not UTF-8 text"):
        DatasetSpec.load(tmp_path / "b.json")


def test_paths_are_relative_to_the_json(tmp_path: Path) -> None:
    spec = DatasetSpec.load(written(tmp_path, {"train": [ITEM], "validate": [OTHER]}))
    assert spec.train[0].path == tmp_path / "v.h5"
    absolute = {"path": str(tmp_path / "sub" / "v.h5")}
    spec = DatasetSpec.load(written(tmp_path, {"train": [absolute], "validate": [OTHER]}))
    assert spec.train[0].path == tmp_path / "sub" / "v.h5"
    assert spec.train[0].dset == "data"


def test_halves_are_accepted_with_holes_if_their_volume_is(tmp_path: Path) -> None:
    content = with_item(halves=["a.h5", "b.h5"], fill_missing=True)
    spec = DatasetSpec.load(written(tmp_path, content))
    assert spec.train[0].half(0).fill_missing
    assert not spec.validate[0].fill_missing


def test_both_forms_of_a_region_say_the_same(tmp_path: Path) -> None:
    axes = with_item(ROI0=[1, 5], ROI1=[2, 6], ROI2=[3, 7])
    corners = with_item(ROI=[[1, 2, 3], [5, 6, 7]])
    one, other = (DatasetSpec.load(written(tmp_path, content)) for content in (axes, corners))
    assert one.train[0].roi == other.train[0].roi == ((1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize("rest", [{}, {"validate": []}, {"validate": None}])
def test_without_validate_the_training_volumes_are_judged_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rest: dict[str, Any]
) -> None:
    spec = DatasetSpec.load(written(tmp_path, {"train": [ITEM], **rest}))
    assert spec.validate == spec.train
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'validate' is missing, so the training volumes serve for validation" in record.message


@pytest.mark.parametrize(
    ("validate", "overlaps"),
    [
        ({}, True),
        ({"dset": "/data"}, True),
        ({"dset": "other"}, False),
        ({"path": "w.h5"}, False),
        ({"path": "link.h5"}, True),
        ({"path": "folder/v.h5"}, True),
        ({"ROI0": [9, 20]}, True),
        ({"ROI0": [10, 20]}, False),
        ({"ROI0": [0, 5], "ROI1": [8, 9]}, False),
        ({"ROI": [[9, 7, 0], [20, 8, 5]]}, True),
    ],
)
def test_overlap_of_train_and_validate_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, validate: dict[str, Any], overlaps: bool
) -> None:
    (tmp_path / "v.h5").touch()
    (tmp_path / "link.h5").symlink_to(tmp_path / "v.h5")
    (tmp_path / "folder").symlink_to(tmp_path)
    train = ITEM | {"ROI0": [0, 10], "ROI1": [0, 8]}
    DatasetSpec.load(written(tmp_path, {"train": [train], "validate": [ITEM | validate]}))
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * overlaps
    assert ("train and validate overlap" in caplog.text) == overlaps


def test_several_overlaps_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    DatasetSpec.load(written(tmp_path, {"train": [ITEM, OTHER], "validate": [ITEM, OTHER]}))
    (record,) = caplog.records
    assert "and in 1 more pairs" in record.message


def test_halves_share_dataset_and_region_with_their_volume(tmp_path: Path) -> None:
    item = {"path": "v.h5", "dset": "x/y", "ROI0": [2, 9], "halves": ["even.h5", "sub/odd.h5"]}
    spec = DatasetSpec.load(written(tmp_path, {"train": [ITEM], "validate": [item]}))
    (entry,) = spec.validate
    assert [entry.half(number).path for number in (0, 1)] == [
        tmp_path / "even.h5",
        tmp_path / "sub/odd.h5",
    ]
    assert {(entry.half(n).dset, entry.half(n).roi) for n in (0, 1)} == {(entry.dset, entry.roi)}
    assert spec.train[0].halves == ()
