"""Datasets as JSON files that point into HDF5 volumes, and patches drawn from them.

A dataset JSON has `train` and `validate`, each a list of volumes:
`{"path": "fast.h5", "dset": "data", "ROI0": [0, 60], "ROI1": [0, 200], "ROI2": [0, 200]}`. Paths
are relative to the JSON file. `ROI0/1/2` are optional [start, end) in voxels along Z, Y and X.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that beamlines write with)
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan.errors import DataError, nearest

logger = logging.getLogger(__name__)

Size = tuple[int, int, int]
# Generous: a slice of a standardised volume may well differ from the volume.
_FAR_MEAN, _SMALL_STD, _LARGE_STD = 2.0, 0.1, 5.0
_ENTRY_KEYS = {"path", "dset", "ROI0", "ROI1", "ROI2"}


@dataclass(frozen=True, kw_only=True)
class VolumeEntry:
    """One volume of a dataset: a file, the name of the dataset in it, and a region of interest."""

    path: Path
    dset: str
    roi: tuple[tuple[int, int] | None, ...] = (None, None, None)
    """[start, end) in voxels along Z, Y, X; None is the whole axis."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a dataset JSON says."""

    source: Path
    train: tuple[VolumeEntry, ...]
    validate: tuple[VolumeEntry, ...]

    @classmethod
    def load(cls, path: Path) -> DatasetSpec:
        """Read a dataset JSON. Errors: `DataError` naming the file, the place and the cure."""
        content = read_json(path)
        if not isinstance(content, dict) or "train" not in content:
            raise DataError(f"{path}: an object with the lists 'train' and 'validate' is wanted")
        for key in content:
            if key not in ("train", "validate"):
                raise DataError(f"{path}: unknown key '{key}'; {nearest(key, _PARTS)}")
        if not content.get("validate"):
            raise DataError(
                f"{path}: 'validate' is missing; name a volume (or a part of one, by ROI0) that is "
                "not trained on, so that the result can be judged"
            )
        train, validate = (
            tuple(_entry(path, part, i, item) for i, item in enumerate(_list(path, content, part)))
            for part in _PARTS
        )
        return cls(source=path, train=train, validate=validate)


_PARTS = ("train", "validate")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Errors: `DataError` naming file, line and column."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as text: {error}") from error


def _list(path: Path, content: dict[str, Any], part: str) -> list[Any]:
    items = content[part]
    if not isinstance(items, list) or not items:
        raise DataError(f"{path}: '{part}' must be a list of at least one volume")
    return items


def _entry(source: Path, part: str, index: int, item: Any) -> VolumeEntry:
    where = f"{source}: {part}[{index}]"
    if not isinstance(item, dict) or not isinstance(item.get("path"), str):
        raise DataError(f'{where}: an object like {{"path": "a.h5", "dset": "data"}} is wanted')
    for key in item:
        if key not in _ENTRY_KEYS:
            raise DataError(f"{where}: unknown key '{key}'; {nearest(key, _ENTRY_KEYS)}")
    roi: list[tuple[int, int] | None] = []
    for axis in range(3):
        limits = item.get(f"ROI{axis}")
        if limits is None:
            roi.append(None)
        elif (
            isinstance(limits, list)
            and len(limits) == 2
            and all(isinstance(n, int) for n in limits)
            and 0 <= limits[0] < limits[1]
        ):
            roi.append((limits[0], limits[1]))
        else:
            raise DataError(f"{where}: ROI{axis} = {limits} must be [start, end] with start < end")
    dset = item.get("dset", "data")
    if not isinstance(dset, str):
        raise DataError(f"{where}: dset = {dset!r} must be the name of a dataset")
    return VolumeEntry(path=source.parent / item["path"], dset=dset, roi=tuple(roi))


def open_dataset(path: Path, dset: str) -> h5py.Dataset:
    """A real-valued 3D dataset (Z, Y, X); its file stays open as long as it lives.

    Errors: `DataError` for a missing or damaged file and for a wrong name, with the names found.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: not a readable HDF5 file (truncated, still being written, or another "
            f"format): {error}"
        ) from error
    found = _dataset_names(handle)
    item = handle.get(dset)
    if not isinstance(item, h5py.Dataset):
        handle.close()
        listed = ", ".join(found[:12]) or "none"
        raise DataError(f"{path}: no dataset '{dset}'; datasets found: {listed}")
    if item.ndim != 3 or item.dtype.kind not in "fiu":
        shape, dtype = item.shape, item.dtype
        handle.close()
        raise DataError(f"{path}:{dset}: a real 3D array is wanted, this is {dtype} {shape}")
    return item


def _dataset_names(handle: h5py.File) -> list[str]:
    names: list[str] = []
    handle.visititems(lambda name, item: names.append(name) if _is_volume(item) else None)
    return names


def _is_volume(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and item.ndim >= 3


class Volume:
    """A region of interest of one HDF5 dataset, (Z, Y, X) float32 when read."""

    def __init__(self, entry: VolumeEntry, *, in_memory: bool = True) -> None:
        self.entry = entry
        dataset = open_dataset(entry.path, entry.dset)
        self.start, self.shape = self._limits(dataset)
        self._array: NDArray[np.float32] | None = None
        self._dataset = dataset
        self._warn_if_not_standardised()
        if in_memory:
            self.load()

    def load(self) -> None:
        """Read the region into memory and close the file."""
        self._array = self._read((0, 0, 0), self.shape)
        _check_finite(self._array, self.entry)
        self._dataset.file.close()

    @property
    def name(self) -> str:
        """File and dataset, for messages."""
        return f"{self.entry.path}:{self.entry.dset}"

    def read(self, origin: Size, size: Size) -> NDArray[np.float32]:
        """A patch of `size` voxels at `origin`, both (Z, Y, X), relative to the region."""
        if self._array is not None:
            return self._array[tuple(slice(o, o + n) for o, n in zip(origin, size, strict=True))]
        patch = self._read(origin, size)
        _check_finite(patch, self.entry)
        return patch

    def _read(self, origin: Size, size: Size) -> NDArray[np.float32]:
        window = tuple(
            slice(s + o, s + o + n) for s, o, n in zip(self.start, origin, size, strict=True)
        )
        try:
            return np.asarray(self._dataset[window], dtype=np.float32)
        except OSError as error:
            raise DataError(f"{self.name}: reading failed, the file is damaged: {error}") from error

    def _warn_if_not_standardised(self) -> None:
        z, y, x = self.shape
        middle = self._read((z // 2, 0, 0), (1, y, x))
        mean, std = float(middle.mean()), float(middle.std())
        if abs(mean) > _FAR_MEAN or not _SMALL_STD < std < _LARGE_STD:
            logger.warning(
                "%s does not look standardised: its middle slice has mean %.3g and standard "
                "deviation %.3g, wanted are about 0 and 1; see 'change the datasets' in the README",
                self.name,
                mean,
                std,
            )

    def _limits(self, dataset: h5py.Dataset) -> tuple[Size, Size]:
        start, shape = [], []
        for axis, (limits, length) in enumerate(zip(self.entry.roi, dataset.shape, strict=True)):
            first, end = limits or (0, length)
            if end > length:
                raise DataError(
                    f"{self.name}: ROI{axis} = {[first, end]} ends beyond the {length} voxels there"
                )
            start.append(first)
            shape.append(end - first)
        return (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])


def _check_finite(array: NDArray[np.float32], entry: VolumeEntry) -> None:
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise DataError(
            f"{entry.path}:{entry.dset}: {bad} of {array.size} voxels are NaN or infinite; replace "
            "them (e.g. by the mean) before training"
        )


def open_volumes(entries: Sequence[VolumeEntry], budget_bytes: float) -> list[Volume]:
    """The volumes of a dataset, in memory if all of them fit into `budget_bytes` as float32."""
    volumes = [Volume(entry, in_memory=False) for entry in entries]
    needed = sum(4 * float(np.prod(v.shape)) for v in volumes)
    if needed <= budget_bytes:
        for volume in volumes:
            volume.load()
    return volumes


class PatchSampler:
    """Draws patches (B, 1, Z, Y, X): every origin of every volume is equally likely, flips too.

    The generator's state is the sampler's state: restored, it goes on with the next patch, none
    seen twice and none left out. Errors: `DataError` if a patch does not fit into a volume.
    """

    def __init__(
        self, volumes: Sequence[Volume], size: Size, *, seed: Sequence[int], flips: bool = True
    ) -> None:
        self.volumes = list(volumes)
        self.size = size
        self.flips = flips
        for volume in self.volumes:
            if any(n > have for n, have in zip(size, volume.shape, strict=True)):
                raise DataError(
                    f"{volume.name}: a patch of {list(size)} voxels does not fit into the "
                    f"{list(volume.shape)} there; make imsize_A smaller or the region larger"
                )
        self._origins = [
            np.array(v.shape, dtype=np.int64) - np.array(size, dtype=np.int64) + 1
            for v in self.volumes
        ]
        counts = np.array([origins.prod() for origins in self._origins], dtype=np.float64)
        self._shares = counts / counts.sum()
        self._random = np.random.default_rng(list(seed))

    def draw(self, batch_size: int) -> Tensor:
        """A batch (B, 1, Z, Y, X), float32, on the CPU."""
        return torch.from_numpy(np.stack([self._patch()[None] for _ in range(batch_size)]))

    def _patch(self) -> NDArray[np.float32]:
        index = int(self._random.choice(len(self.volumes), p=self._shares))
        z, y, x = (int(n) for n in self._random.integers(0, self._origins[index]))
        patch = self.volumes[index].read((z, y, x), self.size)
        if self.flips:
            axes = tuple(int(a) for a in np.flatnonzero(self._random.integers(0, 2, size=3)))
            patch = np.flip(patch, axes)
        return patch

    def state_dict(self) -> dict[str, Any]:
        """The generator's state as JSON: its integers are wider than a tensor's."""
        return {"generator": json.dumps(self._random.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._random.bit_generator.state = json.loads(state["generator"])
