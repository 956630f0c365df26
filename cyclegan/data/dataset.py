"""Datasets as JSON files that point into HDF5 volumes.

A dataset JSON has `train` and `validate`, each a list of volumes:
`{"path": "fast.h5", "dset": "data", "ROI0": [0, 60], "ROI1": [0, 200], "ROI2": [0, 200]}`. Paths
are relative to the JSON file. `ROI0/1/2` are optional [start, end) in voxels along Z, Y and X:
voxel `start` belongs to the region, voxel `end` does not. Negative ones count from the end of the
axis, as in NumPy: `[0, -20]` leaves the last 20 slices out. `"ROI": [[z, y, x], [z, y, x]]` gives
the same region by two corners. A volume may name two half scans of itself,
`"halves": ["even.h5", "odd.h5"]`, with the same dset and region. `"no_data": -9999` is the value of
voxels without data. `"fill_missing": true` reads chunks that were never written as the fill value,
even if they are holes in the data. `"hash": "sha256:..."` is the hash of the file when it was
prepared (`cyclegan.data.fingerprint`): a training refuses a file that has changed since.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cyclegan.data.origin import origin_of
from cyclegan.documents import parse_json, read_text
from cyclegan.errors import DataError, nearest
from cyclegan.files import same_file

logger = logging.getLogger(__name__)

Limits = tuple[int, int] | None
"""[start, end) in voxels along one axis, negative ones from its end; None for the whole axis."""

_PARTS = ("train", "validate")
_AXIS_KEYS = ("ROI0", "ROI1", "ROI2")
_HASH = re.compile(r"(sampled-)?sha256:[0-9a-f]{64}")
_ENTRY_KEYS = {"path", "dset", "ROI", "halves", "no_data", "fill_missing", "hash", *_AXIS_KEYS}


@dataclass(frozen=True, kw_only=True)
class VolumeEntry:
    """One volume of a dataset: a file, the name of the dataset in it, and a region of interest."""

    path: Path
    dset: str
    roi: tuple[Limits, ...] = (None, None, None)
    """[start, end) in voxels along Z, Y, X; None for the whole axis."""
    halves: tuple[Path, ...] = ()
    """Files of two half scans of this volume (every other projection each), or none."""
    no_data: float | None = None
    """Value of voxels without data, if the user names one."""
    fill_missing: bool = False
    """Read chunks that were never written as the fill value, even if they are holes."""
    hash: str = ""
    """Hash that the file must have, as in `cyclegan.data.fingerprint`; empty for any."""

    def half(self, number: int) -> VolumeEntry:
        """Return the same dataset and region of half scan 0 or 1."""
        return replace(self, path=self.halves[number], halves=(), hash="")


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
    return parse_json(read_text(path, DataError), str(path), DataError)


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
    if "\0" in item["path"]:
        raise DataError(f"{where}: path = {item['path']!r} contains a null byte; correct it")
    dset = item.get("dset", "data")
    if not isinstance(dset, str) or not dset:
        raise DataError(f"{where}: dset = {dset!r} must be the name of a dataset")
    return VolumeEntry(
        path=source.parent / item["path"],
        dset=dset,
        roi=_region(where, item),
        halves=_halves(source, where, item),
        no_data=_no_data(where, item.get("no_data")),
        fill_missing=_fill_missing(where, item.get("fill_missing", False)),
        hash=_hash(where, item.get("hash", "")),
    )


def _no_data(where: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: no_data = {value!r} must be a number, e.g. -9999")
    return float(value)


def _fill_missing(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{where}: fill_missing = {value!r} must be true or false")
    return value


def _hash(where: str, value: Any) -> str:
    if value != "" and not (isinstance(value, str) and _HASH.fullmatch(value)):
        raise DataError(
            f"{where}: hash = {value!r} must be sha256: or sampled-sha256: and 64 hexadecimal "
            "digits, as `cyclegan prepare` writes it; or leave it out"
        )
    return str(value)


def _halves(source: Path, where: str, item: dict[str, Any]) -> tuple[Path, ...]:
    names = item.get("halves")
    if names is None:
        return ()
    if not (_is_list(names, 2) and all(isinstance(n, str) and "\0" not in n for n in names)):
        raise DataError(f"{where}: halves = {names} must be two files, each of a half scan")
    first, second = (source.parent / name for name in names)
    if same_file(first, second):
        raise DataError(
            f"{where}: halves = {names} name one file, whose noise would count as structure; give "
            "two"
        )
    return first, second


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
        and (value[0] < value[1] or (value[0] < 0) != (value[1] < 0))
    ):
        return value[0], value[1]
    raise DataError(
        f"{what} = {value} must be [start, end] with start < end, in whole voxels; negative ones "
        "count from the end of the axis"
    )


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _warn_of_missing(path: Path) -> None:
    logger.warning(
        "%s: 'validate' is missing, so the training volumes serve for validation too and the score "
        "can't show overfitting; name a volume, or a part of one by ROI0, that is not trained on",
        path,
    )


def _warn_of_overlap(spec: DatasetSpec) -> None:
    origins = {
        entry: origin_of(entry.path, entry.dset, entry.roi)
        for entry in (*spec.train, *spec.validate)
    }
    pairs = [(t, v) for t in spec.train for v in spec.validate if origins[t].overlaps(origins[v])]
    if pairs:
        training, judged = pairs[0]
        more = f" and in {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        logger.warning(
            "%s: train and validate overlap in %s:%s%s, so the score is too good where they do; "
            "separate them by ROI0, e.g. [0, 100] and [100, 120]",
            spec.source,
            judged.path,
            judged.dset,
            _trained_on(training, judged, origins[judged].path) + more,
        )


def _trained_on(training: VolumeEntry, judged: VolumeEntry, scan: str) -> str:
    if training.path == judged.path:
        return ""
    also = "" if same_file(training.path, judged.path) else f": both hold voxels of {scan}"
    return f" (trained on as {training.path}{also})"
