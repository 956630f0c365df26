"""Datasets as JSON files that point into HDF5 volumes.

A dataset JSON has `train` and `validate`, each a list of volumes:
`{"path": "fast.h5", "dset": "data", "ROI0": [0, 60], "ROI1": [0, 200], "ROI2": [0, 200]}`. Paths
are relative to the JSON file. `ROI0/1/2` are optional [start, end) in voxels along Z, Y and X:
voxel `start` belongs to the region, voxel `end` does not. `"ROI": [[z, y, x], [z, y, x]]` gives
the same region by two corners. A volume may name two half scans of itself,
`"halves": ["even.h5", "odd.h5"]`, with the same dset and region.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan.errors import DataError, nearest

logger = logging.getLogger(__name__)

Limits = tuple[int, int] | None
"""[start, end) in voxels along one axis; None for the whole axis."""

_PARTS = ("train", "validate")
_AXIS_KEYS = ("ROI0", "ROI1", "ROI2")
_ENTRY_KEYS = {"path", "dset", "ROI", "halves", *_AXIS_KEYS}


@dataclass(frozen=True, kw_only=True)
class VolumeEntry:
    """One volume of a dataset: a file, the name of the dataset in it, and a region of interest."""

    path: Path
    dset: str
    roi: tuple[Limits, ...] = (None, None, None)
    """[start, end) in voxels along Z, Y, X; None for the whole axis."""
    halves: tuple[Path, ...] = ()
    """Files of two half scans of this volume (every other projection each), or none."""

    def half(self, number: int) -> VolumeEntry:
        """Return the same dataset and region of half scan 0 or 1."""
        return VolumeEntry(path=self.halves[number], dset=self.dset, roi=self.roi)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """The content of a dataset JSON."""

    source: Path
    train: tuple[VolumeEntry, ...]
    validate: tuple[VolumeEntry, ...]
    """Volumes for validation; the training volumes if the JSON names none."""

    @classmethod
    def load(cls, path: Path, *, warn: bool = True) -> DatasetSpec:
        """Read a dataset JSON, and warn about volumes that serve both training and validation.

        Errors: `DataError` that names the file, the place and what to do.
        """
        content = read_json(path)
        if not isinstance(content, dict) or "train" not in content:
            raise DataError(f"{path}: must be an object with the lists 'train' and 'validate'")
        for key in content:
            if key not in _PARTS:
                raise DataError(f"{path}: unknown key '{key}'; {nearest(key, _PARTS)}")
        train = _entries(path, content, "train")
        if not content.get("validate"):
            if warn:
                _warn_of_missing(path)
            return cls(source=path, train=train, validate=train)
        spec = cls(source=path, train=train, validate=_entries(path, content, "validate"))
        if warn:
            _warn_of_overlap(spec)
        return spec


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Errors: `DataError` naming file, line and column."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: can't be read as JSON text: {error}") from error


def _entries(path: Path, content: dict[str, Any], part: str) -> tuple[VolumeEntry, ...]:
    items = content[part]
    if not isinstance(items, list) or not items:
        raise DataError(f"{path}: '{part}' must be a list of at least one volume")
    return tuple(_entry(path, f"{path}: {part}[{i}]", item) for i, item in enumerate(items))


def _entry(source: Path, where: str, item: Any) -> VolumeEntry:
    if not isinstance(item, dict) or not isinstance(item.get("path"), str):
        raise DataError(f'{where}: must be an object like {{"path": "a.h5", "dset": "data"}}')
    for key in item:
        if key not in _ENTRY_KEYS:
            raise DataError(f"{where}: unknown key '{key}'; {nearest(key, _ENTRY_KEYS)}")
    dset = item.get("dset", "data")
    if not isinstance(dset, str) or not dset:
        raise DataError(f"{where}: dset = {dset!r} must be the name of a dataset")
    return VolumeEntry(
        path=source.parent / item["path"],
        dset=dset,
        roi=_region(where, item),
        halves=_halves(source, where, item),
    )


def _halves(source: Path, where: str, item: dict[str, Any]) -> tuple[Path, ...]:
    names = item.get("halves")
    if names is None:
        return ()
    if not (_is_list(names, 2) and all(isinstance(name, str) for name in names)):
        raise DataError(f"{where}: halves = {names} must be two files, each of a half scan")
    if names[0] == names[1]:
        raise DataError(
            f"{where}: halves = {names} name one file, whose noise would count as structure; give "
            "two"
        )
    return tuple(source.parent / name for name in names)


def _region(where: str, item: dict[str, Any]) -> tuple[Limits, ...]:
    corners = item.get("ROI")
    if corners is None:
        return tuple(_limits(f"{where}: {key}", item.get(key)) for key in _AXIS_KEYS)
    given = [key for key in _AXIS_KEYS if key in item]
    if given:
        raise DataError(f"{where}: both ROI and {given[0]} are given; keep one of the two forms")
    if not (_is_list(corners, 2) and all(_is_list(corner, 3) for corner in corners)):
        raise DataError(
            f"{where}: ROI = {corners} must be two corners [[z, y, x], [z, y, x]], start and end"
        )
    first, end = corners
    return tuple(
        _limits(f"{where}: axis {axis} of ROI", [first[axis], end[axis]]) for axis in range(3)
    )


def _limits(what: str, value: Any) -> Limits:
    if value is None:
        return None
    if (
        _is_list(value, 2)
        and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
        and 0 <= value[0] < value[1]
    ):
        return value[0], value[1]
    raise DataError(f"{what} = {value} must be [start, end] with start < end, whole voxels from 0")


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _warn_of_missing(path: Path) -> None:
    logger.warning(
        "%s: 'validate' is missing, so the training volumes serve for validation too and the score "
        "can't show overfitting; name a volume, or a part of one by ROI0, that is not trained on",
        path,
    )


def _warn_of_overlap(spec: DatasetSpec) -> None:
    pairs = [(t, v) for t in spec.train for v in spec.validate if _overlap(t, v)]
    if pairs:
        training, judged = pairs[0]
        more = f" and in {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        logger.warning(
            "%s: train and validate overlap in %s:%s%s, so the score is too good where they do; "
            "separate them by ROI0, e.g. [0, 100] and [100, 120]",
            spec.source,
            judged.path,
            judged.dset,
            f" (trained on as {training.path})" * (training.path != judged.path) + more,
        )


def _overlap(one: VolumeEntry, other: VolumeEntry) -> bool:
    return (
        os.path.realpath(one.path) == os.path.realpath(other.path)
        and one.dset.strip("/") == other.dset.strip("/")
        and all(
            a is None or b is None or (a[0] < b[1] and b[0] < a[1])
            for a, b in zip(one.roi, other.roi, strict=True)
        )
    )
