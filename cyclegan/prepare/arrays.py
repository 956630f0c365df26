"""Readers of NPY files, raw voxels within other files, Zarr arrays, and HDF5 and NeXus files."""

from __future__ import annotations

import importlib
import math
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size, Window
from cyclegan.data.hdf5_source import (
    check_sources,
    explained,
    find_dataset,
    open_file,
    read_part,
    source_files,
    volume_names,
)
from cyclegan.data.nexus import as_text, default_volumes
from cyclegan.data.unwritten import ChunkGrid
from cyclegan.data.voxel_size import (
    VoxelSize,
    as_voxel_size,
    lacks_unit,
    micrometres,
    voxel_size_um,
)
from cyclegan.errors import CycleGANError, DataError
from cyclegan.numbers import ceil_div
from cyclegan.prepare.region import Region, Roi
from cyclegan.prepare.source import Source, check_real, three_axes

_ZARR_FILES = (".zarray", ".zgroup", "zarr.json")


_BROKEN = (
    *(OSError, ValueError, EOFError, TypeError, KeyError, IndexError, RuntimeError, SyntaxError),
    *(tokenize.TokenError, ArithmeticError, MemoryError, AttributeError),
)
"""Errors that NumPy and zarr raise for damaged files."""
_MOST_CHUNKS = 1 << 30


class RawSource(Source):
    """Contiguous voxels in a file from `offset` on, with Z slowest."""

    def __init__(
        self, path: Path, *, shape: Size, dtype: np.dtype[Any], offset: int, name: str | None = None
    ) -> None:
        self.name, self.files = name or str(path), (path,)
        self.shape, self.dtype, self.grain = shape, dtype, (1, 1)
        self._path, self._offset = path, offset
        needed = offset + math.prod(shape) * dtype.itemsize
        if path.stat().st_size < needed:
            raise DataError(
                f"{path}: truncated: {needed} bytes are needed for {list(shape)} voxels of "
                f"{dtype}, the file has {path.stat().st_size}"
            )

    def read(self, window: Window) -> NDArray[Any]:
        """Return the voxels of `window`."""
        z, y, x = window
        _, height, width = self.shape
        rows = y.stop - y.start
        block = np.empty((z.stop - z.start, rows, x.stop - x.start), self.dtype)
        try:
            with self._path.open("rb") as handle:
                for i, plane in enumerate(range(z.start, z.stop)):
                    start = (plane * height + y.start) * width * self.dtype.itemsize
                    handle.seek(self._offset + start)
                    read = np.fromfile(handle, self.dtype, rows * width)
                    block[i] = read.reshape(rows, width)[:, x]
        except (OSError, ValueError) as error:
            raise DataError(f"{self._path}: reading plane {plane} failed: {error}") from error
        return block


class _MappedSource(Source):
    """An NPY file in Fortran order (X slowest), memory-mapped because no slab is contiguous."""

    def __init__(self, path: Path, index: tuple[int, ...], array: np.memmap[Any, Any]) -> None:
        self.name, self.files = str(path), (path,)
        z, y, x = array.shape[len(index) :]
        self.shape, self.dtype, self.grain = (z, y, x), array.dtype, (1, 1)
        self._path, self._index = path, index

    def read(self, window: Window) -> NDArray[Any]:
        # Mapped anew for each block: pages of an open map count as this process's memory.
        array = np.load(self._path, mmap_mode="r", allow_pickle=False)
        return np.array(array[self._index + window], order="C")


def open_npy(path: Path, channel: int | None) -> Source:
    """Open the volume in an NPY file.

    Errors: `DataError` if the file is damaged or does not hold a volume of numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _BROKEN as error:
        raise DataError(f"{path}: not a complete NPY file of numbers: {error}") from error
    check_real(str(path), array.dtype)
    index, shape = three_axes(str(path), array.shape, channel)
    if not array.flags.c_contiguous:
        return _MappedSource(path, index, array)
    volume = sum(n * math.prod(array.shape[i + 1 : -3]) for i, n in enumerate(index))
    offset = array.offset + volume * math.prod(shape) * array.dtype.itemsize
    return RawSource(path, shape=shape, dtype=array.dtype, offset=offset)


def is_zarr(path: Path) -> bool:
    """Return True if a folder is a Zarr array or group, v2 or v3."""
    return path.is_dir() and any((path / name).is_file() for name in _ZARR_FILES)


class _ZarrSource(Source):
    def __init__(self, path: Path, array: Any, channel: int | None) -> None:
        self.name = f"{path}:{array.path}" if array.path else str(path)
        self.files = tuple(sorted(p for p in path.rglob("*") if p.is_file()))
        self.dtype = np.dtype(array.dtype)
        check_real(self.name, self.dtype)
        self._index, self.shape = three_axes(self.name, array.shape, channel)
        # A shard is one file of several chunks, which can be read one by one.
        self.grain = (int(array.chunks[-3]), int(array.chunks[-2]))
        self._path, self._array = path, array

    @property
    def origin(self) -> tuple[Path, str, int]:
        """Folder of the array."""
        return self._path / self._array.path, "", 0

    def chunk_grid(self) -> ChunkGrid | None:
        """Return the chunks of the volume; a chunk of a shard counts by itself."""
        array = self._array
        if 0 in array.chunks:
            raise DataError(f"{self.name}: its chunks are {list(array.chunks)}; it is damaged")
        z, y, x = (int(n) for n in array.chunks[-3:])
        return ChunkGrid(
            shape=self.shape,
            chunks=(z, y, x),
            written=self._written(array.shards or array.chunks),
            fill=array.fill_value if array.fill_value is not None else 0,
        )

    def _written(self, stored: Sequence[int]) -> NDArray[np.bool_]:
        """Return which chunks were written; each file holds a box of `stored` voxels."""
        array, folder = self._array, self._path / self._array.path
        each = [n // c for n, c in zip(stored, array.chunks, strict=True)]
        lead = [i // n for i, n in zip(self._index, stored, strict=False)]
        counts = [ceil_div(n, m) for n, m in zip(self.shape, stored[-3:], strict=True)]
        if math.prod(counts) > _MOST_CHUNKS:
            raise DataError(
                f"{self.name}: its shape {list(self.shape)} in chunks of {list(array.chunks)} "
                "can't be right; its description is damaged"
            )
        written = np.zeros([n * e for n, e in zip(counts, each[-3:], strict=True)], bool)
        inner = tuple(i // c % e for i, c, e in zip(self._index, array.chunks, each, strict=False))
        for path in (p for p in self.files if folder in p.parents):
            place = _place(path.relative_to(folder).as_posix(), array)
            if place and list(place[:-3]) == lead and all(np.less(place[-3:], counts)):
                box = tuple(
                    slice(i * e, (i + 1) * e) for i, e in zip(place[-3:], each[-3:], strict=True)
                )
                written[box] = _chunks_in_file(path, array, each)[inner]
        within = (ceil_div(n, c) for n, c in zip(self.shape, array.chunks[-3:], strict=True))
        return written[tuple(slice(n) for n in within)]

    def read(self, window: Window) -> NDArray[Any]:
        try:
            return np.asarray(self._array[self._index + window])
        except _BROKEN as error:
            raise DataError(f"{self.name}: reading failed, it is damaged: {error}") from error


def _place(name: str, array: Any) -> tuple[int, ...] | None:
    """Return the place in the grid of the chunk or shard in the file `name`; None if it is none."""
    place = tuple(int(n) for n in re.findall(r"\d+", name)[-len(array.shape) :])
    is_chunk = len(place) == len(array.shape) and array.metadata.encode_chunk_key(place) == name
    return place if is_chunk else None


def _chunks_in_file(path: Path, array: Any, each: Sequence[int]) -> NDArray[np.bool_]:
    """Return which chunks a file holds: all, or in a shard those that its index names."""
    everything = np.ones(each, bool)
    codecs = [c for c in getattr(array.metadata, "codecs", ()) if hasattr(c, "index_location")]
    if array.shards is None or not codecs:
        return everything
    size = 16 * everything.size
    checksum = 4 * (len(codecs[0].index_codecs) - 1)
    with path.open("rb") as handle:
        if "end" in str(codecs[0].index_location):
            handle.seek(max(path.stat().st_size - size - checksum, 0))
        index = handle.read(size)
    if len(index) < size:
        return everything  # damaged, as reading it will say
    offsets = np.frombuffer(index, "<u8").reshape(*each, 2)[..., 0]
    written: NDArray[np.bool_] = offsets != np.iinfo(np.uint64).max
    return written


def open_zarr(path: Path, dataset: str | None, channel: int | None) -> Source:
    """Open a Zarr array (v2, v3), `dataset` of a group, or an OME-Zarr image at full resolution.

    Errors: `CycleGANError` if the package zarr is missing, `DataError` for everything else.
    """
    try:
        zarr = importlib.import_module("zarr")
    except ModuleNotFoundError as error:
        raise CycleGANError(
            f"{path}: reading Zarr needs a package that is not installed: "
            "pip install 'cyclegan3d[zarr]'"
        ) from error
    try:
        node = zarr.open(str(path), mode="r")
        scale = None
        if not hasattr(node, "chunks"):
            image, scale = _ome_image(dict(node.attrs))
            node = _member(path, node, dataset or image)
        source = _ZarrSource(path, node, channel)
        source.voxel_size_um = as_voxel_size(node.attrs.get("voxel_size_um")) or scale
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable Zarr array: {error}") from error
    return source


def _member(path: Path, group: Any, name: str | None) -> Any:
    members = {key: item for key, item in group.members(max_depth=None) if hasattr(item, "chunks")}
    listed = ", ".join(sorted(members)[:12])
    if not members:
        raise DataError(f"{path}: not a readable Zarr array but a group without arrays")
    if name is None and len(members) == 1:
        return next(iter(members.values()))
    if name is None:
        raise DataError(f"{path}: is a group; name one of its arrays with --dataset: {listed}")
    if name not in members:
        raise DataError(f"{path}: no array '{name}'; arrays found: {listed}")
    return members[name]


def _ome_image(attributes: dict[str, Any]) -> tuple[str | None, VoxelSize | None]:
    """Return the path of the finest image of an OME-Zarr group (0.4 or 0.5), and its voxel size."""
    try:
        scales = attributes.get("ome", attributes)["multiscales"][0]
        image = scales["datasets"][0]
        factors = _scale(image["coordinateTransformations"])
        units = [axis.get("unit", "") for axis in scales["axes"]][-3:]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None, None
    per_unit = [micrometres(unit) for unit in units]
    if len(factors) < 3 or None in per_unit:
        return str(image["path"]), None
    sizes = [f * (m or 0) for f, m in zip(factors[-3:], per_unit, strict=True)]
    return str(image["path"]), as_voxel_size(sizes)


def _scale(transformations: Sequence[dict[str, Any]]) -> list[float]:
    return next((list(t["scale"]) for t in transformations if t.get("type") == "scale"), [])


# -- HDF5 and NeXus files: choice of the dataset, and reading by chunks ------------------------

_LISTED = 12


_MOST_AXES = 32
"""Most axes that an HDF5 dataset can have."""


class Hdf5Source(Source):
    """One dataset of an HDF5 file: 3D, or with leading axes along which one index is chosen."""

    def __init__(
        self, path: Path, handle: h5py.File, dataset: h5py.Dataset, name: str, channel: int | None
    ) -> None:
        self.name = f"{path}:{name}"
        self._index, self.shape = three_axes(self.name, dataset.shape, channel)
        self.dtype = dataset.dtype
        own = Path(dataset.file.filename)  # differs from `path` behind an external link
        self.files = tuple(dict.fromkeys([path, own, *source_files(dataset)]))
        chunks = dataset.chunks or (1, 1, 1)
        self.grain = (chunks[-3], chunks[-2])
        with explained(self.name):
            self.voxel_size_um = voxel_size_um(dataset)
            without_unit = self.voxel_size_um is None and lacks_unit(dataset)
            self.units = as_text(dataset.attrs.get("units"))
        if without_unit:
            self.notes = (
                f"{self.name}: its voxel size is not used because it has no unit of length; "
                "give it with --voxel-size",
            )
        self._path, self._handle, self._dataset = path, handle, dataset

    @property
    def origin(self) -> tuple[Path, str, int]:
        """File that holds the dataset, links followed, and its name there."""
        return Path(self._dataset.file.filename), str(self._dataset.name), 0

    def region(self, roi: Roi) -> Region:
        """Return the region in voxels; check that all files it needs exist."""
        region = super().region(roi)
        leading = [(i, i + 1) for i in self._index]
        check_sources(self._dataset, self._path, (*leading, *region))
        return region

    def chunk_grid(self) -> ChunkGrid | None:
        """Return the chunks of the volume, unless all were written."""
        with explained(self.name):
            return ChunkGrid.of_hdf5(self._dataset, self._index)

    def read(self, window: Window) -> NDArray[Any]:
        """Return the voxels of `window`."""
        return read_part(self._dataset, self._index + window, self.name)

    def close(self) -> None:
        """Close the file, and the one behind an external link."""
        self._dataset.file.close()
        self._handle.close()


def open_hdf5(path: Path, name: str | None, channel: int | None) -> Source:
    """Open the dataset `name`; by default the file's NeXus default, or its only volume.

    Errors: `DataError` as in `cyclegan.data.open_dataset`, or for several candidates.
    """
    handle = open_file(path)
    try:
        with explained(str(path)):
            wanted = name or _unnamed(path, handle)
        dataset = find_dataset(handle, path, wanted, most_axes=_MOST_AXES)
        return Hdf5Source(path, handle, dataset, name or dataset.name.strip("/"), channel)
    except BaseException:
        handle.close()
        raise


def _unnamed(path: Path, handle: h5py.File) -> str:
    if len(default_volumes(handle)) == 1:
        return "/"
    found = volume_names(handle)
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{path}: it has no dataset of three or more axes")
    listed = ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
    raise DataError(f"{path}: has several volumes; name one with --dataset: {listed}")
