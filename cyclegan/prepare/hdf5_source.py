"""HDF5 and NeXus files: finding the volume, its voxel size, and reading it by chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that beamlines write with)
import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from cyclegan.prepare.source import Source, Window, check_real, three_axes
from cyclegan.prepare.units import VoxelSize, as_voxel_size, micrometres

_LISTED = 12
_DEPTH = 12
_SIZES_UM = ("voxel_size_um", "element_size_um")
_SIZES = ("voxel_size", "pixel_size")


class Hdf5Source(Source):
    """One dataset of an HDF5 file, 3D or with leading axes of which one part is taken."""

    def __init__(self, path: Path, dataset: h5py.Dataset, wanted: str, channel: int | None) -> None:
        self.name = f"{path}:{wanted}"
        check_real(self.name, dataset.dtype)
        self._index, self.shape = three_axes(self.name, dataset.shape, channel)
        self.dtype = dataset.dtype
        self.files = tuple(dict.fromkeys([path, *_sources(path, dataset)]))
        chunks = dataset.chunks or (1, 1, 1)
        self.grain = (chunks[-3], chunks[-2])
        self.voxel_size_um, self.notes = _voxel_size(dataset, self.name)
        units = dataset.attrs.get("units")
        self.units = None if units is None else _text(units)
        self._dataset = dataset

    def read(self, window: Window) -> NDArray[Any]:
        """The voxels of `window`."""
        try:
            return np.asarray(self._dataset[self._index + window])
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self.name}: reading failed, the file is damaged: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._dataset.file.close()


def open_hdf5(path: Path, name: str | None, channel: int | None) -> Source:
    """The dataset `name`, else what `@default` and `@signal` lead to, else the only volume.

    Errors: `DataError` for a damaged file, a wrong name, a broken link, or several candidates.
    """
    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: not a readable HDF5 file (truncated, or still being written): {error}"
        ) from error
    try:
        wanted = name or _default(handle) or _only(path, handle)
        return Hdf5Source(path, _named(path, handle, wanted), wanted, channel)
    except BaseException:
        handle.close()
        raise


def _named(path: Path, handle: h5py.File, name: str) -> h5py.Dataset:
    try:
        item = handle[name]
    except (KeyError, OSError) as error:
        link = handle.get(name, getlink=True) if _has_link(handle, name) else None
        if isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{path}:{name} is a link to {link.filename}:{link.path}, which is not there"
            ) from error
        if isinstance(link, h5py.SoftLink):
            raise DataError(
                f"{path}:{name} is a link to {link.path}, which is not there"
            ) from error
        raise DataError(f"{path}: no dataset '{name}'; {_listed(handle)}") from error
    if isinstance(item, h5py.Group):
        inside = _default(item)
        if inside is None:
            raise DataError(f"{path}: '{name}' is a group, not a dataset; {_listed(handle)}")
        return item[inside]
    return item


def _has_link(handle: h5py.File, name: str) -> bool:
    try:
        return handle.get(name, getlink=True) is not None
    except (KeyError, OSError, RuntimeError):
        return False


def _default(group: h5py.Group) -> str | None:
    """Where `@default`, group by group, and at last `@signal` lead (NeXus); None if nowhere."""
    path: list[str] = []
    for _ in range(_DEPTH):
        signal = group.attrs.get("signal")
        if signal is not None and isinstance(group.get(_text(signal)), h5py.Dataset):
            return "/".join([*path, _text(signal)])
        default = group.attrs.get("default")
        item = None if default is None else group.get(_text(default))
        if not isinstance(item, h5py.Group):
            return None
        path.append(_text(default))
        group = item
    return None


def _only(path: Path, handle: h5py.File) -> str:
    found = list(_volumes(handle))
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{path}: no dataset of three or more axes in it")
    raise DataError(f"{path}: several volumes; name one with --dataset: {_joined(found)}")


def _listed(handle: h5py.File) -> str:
    return f"datasets found: {_joined(list(_volumes(handle))) or 'none'}"


def _joined(names: list[str]) -> str:
    more = ", ..." if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _volumes(handle: h5py.File) -> Iterator[str]:
    """Names of datasets of at least three axes; links are followed, no object is named twice."""
    seen: set[h5py.h5g.GroupID] = set()
    waiting: list[tuple[str, h5py.Group]] = [("", handle)]
    while waiting:
        prefix, group = waiting.pop(0)
        for key in group:
            try:
                item = group.get(key)
            except OSError:  # a link into a file that can't be opened
                continue
            if item is None or item.id in seen:
                continue
            seen.add(item.id)
            if isinstance(item, h5py.Group):
                waiting.append((f"{prefix}{key}/", item))
            elif isinstance(item, h5py.Dataset) and item.ndim >= 3 and item.dtype.kind in "fiu":
                yield f"{prefix}{key}"


def _sources(path: Path, dataset: h5py.Dataset) -> list[Path]:
    """Files behind external links and virtual datasets. Errors: `DataError` for one missing."""
    own = Path(dataset.file.filename)
    found = [own]
    if dataset.is_virtual:
        for part in dataset.virtual_sources():
            source = own if part.file_name == "." else own.parent / part.file_name
            if not source.is_file():  # HDF5 would silently read it as zeros
                raise DataError(f"{path}: voxels of {dataset.name} are in {source}: no such file")
            found.append(source)
    return [p for p in found if p.resolve() != path.resolve()]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# -- voxel size -------------------------------------------------------------------------------


def _voxel_size(dataset: h5py.Dataset, name: str) -> tuple[VoxelSize | None, tuple[str, ...]]:
    """From the dataset's attributes, else from the groups it lies in, the nearest first."""
    notes: list[str] = []
    item: Any = dataset
    while True:
        size = _stated(item) or _from_axes(item)
        if size is not None:
            return size, ()
        if any(key in holder for key in _SIZES for holder in _holders(item)):
            notes.append(
                f"{name}: a voxel size without a unit of length is there and not used; "
                "give it by --voxel-size"
            )
        if item.name == "/":
            return None, tuple(notes[:1])
        item = item.parent


def _holders(item: Any) -> list[Any]:
    return [item.attrs, item] if isinstance(item, h5py.Group) else [item.attrs]


def _stated(item: Any) -> VoxelSize | None:
    for holder in _holders(item):
        for key in _SIZES_UM:
            size = as_voxel_size(_value(holder, key))
            if size is not None:
                return size
        for key in _SIZES:
            unit = _unit(holder, key, item)
            size = as_voxel_size(_value(holder, key), unit) if unit else None
            if size is not None:
                return size
        each = [_length(holder, f"{axis}_pixel_size", item) for axis in "zyx"]
        if each[1] and each[2]:
            return as_voxel_size([each[0] or each[1], each[1], each[2]])
    return None


def _value(holder: Any, key: str) -> Any:
    value = holder.get(key)
    return value[()] if isinstance(value, h5py.Dataset) else value


def _unit(holder: Any, key: str, item: Any) -> float | None:
    value = holder.get(key)
    if isinstance(value, h5py.Dataset):
        return micrometres(value.attrs.get("units", ""))
    return micrometres(item.attrs.get(f"{key}_units", item.attrs.get(f"{key}_unit", "")))


def _length(holder: Any, key: str, item: Any) -> float | None:
    unit = _unit(holder, key, item)
    size = as_voxel_size(_value(holder, key), unit) if unit else None
    return size[0] if size else None


def _from_axes(item: Any) -> VoxelSize | None:
    """Of an NXdata group: the spacing of its three axes, if they bear a unit of length."""
    axes = item.attrs.get("axes") if isinstance(item, h5py.Group) else None
    if axes is None or len(np.atleast_1d(axes)) != 3:
        return None
    spacings = []
    for axis in np.atleast_1d(axes):
        positions = item.get(_text(axis))
        if not isinstance(positions, h5py.Dataset) or positions.ndim != 1 or positions.size < 2:
            return None
        unit = micrometres(positions.attrs.get("units", ""))
        spacings.append(unit and float(positions[-1] - positions[0]) / (positions.size - 1) * unit)
    return as_voxel_size(spacings)
