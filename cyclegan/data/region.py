"""Read, measure and load a region of interest of one HDF5 dataset, in the file's own numbers."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import BlockGrid, Size, Window, spread
from cyclegan.data.dataset import VolumeEntry
from cyclegan.data.hdf5_source import (
    SharedFile,
    check_sources,
    explained,
    file_key,
    find_dataset,
    open_with_cache,
    read_part,
    source_files,
)
from cyclegan.data.origin import is_clipped, resolved
from cyclegan.data.statistics import (
    Moments,
    Statistics,
    ValidRange,
    constant,
    find_valid_range,
    merged,
    moments,
    outliers_of,
    statistics_of,
)
from cyclegan.data.unwritten import ChunkGrid, refuse_holes, unwritten
from cyclegan.data.voxel_size import voxel_size_um
from cyclegan.errors import DataError
from cyclegan.numbers import ceil_div

logger = logging.getLogger(__name__)

MEASURED_VOXELS = 1 << 30
"""Most voxels that are measured; of a larger region, a sample of about as many is measured."""
CHUNK_CACHE_BYTES = 16 << 20
"""Most bytes of a volume's decompressed chunks that stay in memory between two patches."""
_SAMPLED_BLOCKS, _SAMPLED_VOXELS = 16, 200_000
"""Blocks and voxels, about, by which it is judged which values are extreme."""
_LEAVE_OUT = (
    "leave the gap out by a region (ROI0, ROI1, ROI2), or read the fill value there by "
    '"fill_missing": true in the dataset JSON (--fill-missing)'
)
"""Ways out for a training region with holes."""
_without_holes: set[Hashable] = set()
"""Keys of regions whose missing chunks are no holes: trainings open a region several times."""
WASTEFUL = 20.0
"""Voxels decompressed for each voxel of a patch above which a warning is logged."""


@dataclass(frozen=True)
class Place:
    """A dataset of a file; equal for all names and links that lead to the same one."""

    path: Path
    """File that holds the dataset, links followed."""
    address: int
    """Address of the dataset in the file, the same in every copy of it."""
    name: str = field(compare=False)

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> Place:
        """Return the place of an open dataset."""
        path = Path(os.path.realpath(dataset.file.filename))
        return cls(path, int(h5py.h5o.get_info(dataset.id).addr), str(dataset.name))


class Region:
    """Opens a dataset and checks its region, (C, Z, Y, X) in the file's own numbers."""

    def __init__(self, entry: VolumeEntry, channels: int) -> None:
        self.entry = entry
        self.name = f"{entry.path}:{entry.dset}"
        self._file: SharedFile | None = SharedFile.of(entry.path)
        dataset = find_dataset(self._file.handle, entry.path, entry.dset)
        self._dataset: h5py.Dataset | None = dataset
        self._pid = os.getpid()
        self._patch: Size | None = None
        with explained(self.name):
            self._describe(dataset, channels)

    def _describe(self, dataset: h5py.Dataset, channels: int) -> None:
        self._check_channels(dataset, channels)
        self.channels = channels
        self.start, self.shape = self._limits(dataset.shape[-3:])
        self.place = Place.of(dataset)
        self.limits = limits_text(self._box(dataset)[-3:], dataset.shape[-3:])
        """The region as text, e.g. `[0:60, :, :]`."""
        check_sources(dataset, self.entry.path, self._box(dataset))
        self.dtype = _native(dataset.dtype)
        self.voxel_size_um = voxel_size_um(dataset)
        self.key = self._key(dataset)
        self.unwritten = self._check_holes(dataset)
        """Number of its chunks that were never written, as a predicate; None if all were."""

    @property
    def nbytes(self) -> int:
        """Size of the region in memory, in bytes."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize

    def read(self, origin: Size, size: Size) -> NDArray[Any]:
        """Return a window (C, z, y, x) at `origin`, relative to the region, as a new array."""
        z, y, x = (
            slice(s + o, s + o + n) for s, o, n in zip(self.start, origin, size, strict=True)
        )
        return self._read(self._open_dataset(), (z, y, x))

    def measure(self) -> Statistics:
        """Return the statistics of the region, or of a sample if it is very large."""
        with explained(self.name):
            return self._scan(None)

    def load(self, array: NDArray[Any], *, measure: bool) -> Statistics | None:
        """Read the region into `array` (C, Z, Y, X); with `measure`, return its statistics."""
        with explained(self.name):
            return self._load(array, measure=measure)

    def _load(self, array: NDArray[Any], *, measure: bool) -> Statistics | None:
        if measure:
            return self._scan(array)
        dataset = self._open_dataset()
        grid = BlockGrid(dataset, self.start, self.shape)
        self._fill(array, dataset)
        for index in grid.written():
            window = grid.window(int(index))
            self._put(array, window, self._read(dataset, window))
        return None

    def expect(self, size: Size, *, warn: bool = True) -> None:
        """Prepare for patches of `size`: set a fitting chunk cache, or warn if none can help."""
        dataset = self._open_dataset()
        self._patch, self._dataset = size, None  # it is opened again with the cache it needs
        if dataset.chunks is None:
            return
        chunks = dataset.chunks[-3:]
        compressed = dataset.id.get_create_plist().get_nfilters() > 0
        # A patch of n voxels at a random origin touches 1 + (n - 1) / c chunks of c on average.
        waste = math.prod((n - 1 + c) / n for n, c in zip(size, chunks, strict=True))
        if warn and compressed and waste > WASTEFUL:
            logger.warning(
                "%s is compressed in chunks of %s voxels: a patch of %s decompresses about %.0f "
                "times what it needs; write a file with smaller chunks by `cyclegan prepare`, or "
                "raise memory_budget_gb to hold it in memory",
                self.name,
                list(chunks),
                list(size),
                waste,
            )

    def close(self) -> None:
        """Release the file, which closes when no volume reads from it any more."""
        self._dataset = self._file = None

    def _open_dataset(self) -> h5py.Dataset:
        if self._file is None:
            raise DataError(f"{self.name}: this volume was closed")
        dataset = self._dataset
        if dataset is None or self._pid != os.getpid():
            self._dataset, self._pid = None, os.getpid()
            dataset = find_dataset(self._file.handle, self.entry.path, self.entry.dset)
            if self._patch is not None and dataset.chunks:
                nbytes, count = self._cache_size(dataset, self._patch)
                file, name = dataset.file, dataset.name
                del dataset
                dataset = open_with_cache(file, name, nbytes, count)
            self._dataset = dataset
        return dataset

    def _cache_size(self, dataset: h5py.Dataset, patch: Size) -> tuple[int, int]:
        """Return the bytes of a cache for the chunks that one patch touches, and their number."""
        chunks = dataset.chunks[-3:]
        count = math.prod((n + c - 2) // c + 1 for n, c in zip(patch, chunks, strict=True))
        if dataset.ndim == 4:
            count *= ceil_div(dataset.shape[0], dataset.chunks[0])
        needed = count * math.prod(dataset.chunks) * dataset.dtype.itemsize
        return min(CHUNK_CACHE_BYTES, needed), count

    def _read(self, dataset: h5py.Dataset, window: Window) -> NDArray[Any]:
        part = read_part(dataset, (Ellipsis, *window), self.name)
        return np.asarray(part, dtype=self.dtype).reshape(self.channels, *part.shape[-3:])

    def _scan(self, array: NDArray[Any] | None) -> Statistics:
        """Measure what was written (or a sample) in one pass, and copy it to `array` if given."""
        dataset = self._open_dataset()
        grid = BlockGrid(dataset, self.start, self.shape)
        written = grid.written()
        voxels = sum(grid.voxels(int(i)) for i in written)
        count = max(1, round(len(written) * MEASURED_VOXELS / max(voxels, 1)))
        chosen = spread(written, count)
        valid = self._valid_range(dataset, grid, written, voxels)
        sample = set(chosen.tolist())
        if array is not None:
            self._fill(array, dataset)
        parts = []
        for index in (written if array is not None else chosen).tolist():
            window = grid.window(index)
            part = self._read(dataset, window)
            if index in sample:
                parts.append(moments(part, valid))
            if array is not None:
                self._put(array, window, part)
        first = self._projected(dataset, merged(parts), voxels, valid)
        if merged(parts).extremes_are_faults:
            return statistics_of(first, valid)
        everything = valid.without_extremes()
        again = (self._read(dataset, grid.window(int(index))) for index in chosen)
        parts = [moments(part, everything) for part in again]
        found = self._projected(dataset, merged(parts), voxels, everything)
        return statistics_of(found, everything, outliers_of(first, valid, found))

    def _valid_range(
        self, dataset: h5py.Dataset, grid: BlockGrid, written: NDArray[Any], voxels: int
    ) -> ValidRange:
        """Return which values count, judged by some voxels of some blocks all over the region.

        All values do in a prepared volume whose extreme voxels were clipped.
        """
        if self.entry.no_data is None and is_clipped(dataset):
            return ValidRange()
        chosen = spread(written, _SAMPLED_BLOCKS)
        wanted = max(_SAMPLED_VOXELS // max(len(chosen), 1), 1)
        found = []
        for index in chosen.tolist():
            part = self._read(dataset, grid.window(index)).ravel()
            found.append(part[:: max(part.size // wanted, 1)].astype(np.float64))
        never_written = 1 - voxels / math.prod(self.shape)
        filled = round(_SAMPLED_VOXELS * never_written)
        found.append(np.full(filled, float(dataset.fillvalue)))
        return find_valid_range(np.concatenate(found), self.entry.no_data)

    def _projected(
        self, dataset: h5py.Dataset, sample: Moments, voxels: int, valid: ValidRange
    ) -> Moments:
        """Return the moments of the whole region from those of its measured voxels."""
        left_out = sample.non_finite + sample.extreme + sample.without_data
        measured, written = sample.count + left_out, voxels * self.channels
        if measured < written:
            logger.info(
                "%s: mean and standard deviation are measured on %.3g of its %.3g voxels, in "
                "blocks from all over the region",
                self.name,
                measured,
                written,
            )
        total = math.prod(self.shape) * self.channels
        fill = constant(float(dataset.fillvalue), total - written, valid)
        return (sample.scaled(written / measured) if measured else sample) + fill

    def _fill(self, array: NDArray[Any], dataset: h5py.Dataset) -> None:
        if dataset.fillvalue != 0:  # fresh zeros cost no memory until they are written
            array[...] = dataset.fillvalue

    def _put(self, array: NDArray[Any], window: Window, part: NDArray[Any]) -> None:
        place = tuple(
            slice(w.start - s, w.stop - s) for w, s in zip(window, self.start, strict=True)
        )
        array[(slice(None), *place)] = part

    def _check_channels(self, dataset: h5py.Dataset, channels: int) -> None:
        have = dataset.shape[0] if dataset.ndim == 4 else 1
        if have != channels:
            raise DataError(
                f"{self.name}: {have} channels in a dataset of shape {dataset.shape}, but "
                f"{channels} are needed; a dataset is (Z, Y, X) or (channels, Z, Y, X)"
            )

    def _limits(self, lengths: tuple[int, ...]) -> tuple[Size, Size]:
        start, shape = [], []
        for axis, (limits, length) in enumerate(zip(self.entry.roi, lengths, strict=True)):
            first, end = resolved(limits, length)
            asked = list(limits or (first, end))
            if end > length:
                raise DataError(
                    f"{self.name}: ROI{axis} = {asked} ends beyond the {length} voxels there"
                )
            if not 0 <= first < end:
                raise DataError(
                    f"{self.name}: ROI{axis} = {asked} is empty or begins before the first of the "
                    f"{length} voxels there"
                )
            start.append(first)
            shape.append(end - first)
        return (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])

    def _box(self, dataset: h5py.Dataset) -> tuple[tuple[int, int], ...]:
        box = [(s, s + n) for s, n in zip(self.start, self.shape, strict=True)]
        return tuple([(0, dataset.shape[0])] * (dataset.ndim - 3) + box)

    def _check_holes(self, dataset: h5py.Dataset) -> str | None:
        accepted = self.entry.fill_missing
        known = accepted or self.key in _without_holes
        note = check_holes(dataset, self.name, self._box(dataset)[-3:], fill_missing=known)
        if not accepted:
            _without_holes.add(self.key)
        return note

    def _key(self, dataset: h5py.Dataset) -> Hashable:
        """Return what identifies these voxels: files, object, region."""
        files = [Path(dataset.file.filename), *source_files(dataset)]
        return (
            tuple(file_key(path) for path in files),
            self.place.address,
            self.start,
            self.shape,
            self.channels,
            self.entry.no_data,
        )


def check_holes(
    dataset: h5py.Dataset,
    name: str,
    box: Sequence[tuple[int, int]],
    *,
    fill_missing: bool,
    way_out: str = _LEAVE_OUT,
) -> str | None:
    """Return the chunks of a box (Z, Y, X) that were never written, as a predicate, or None.

    All indices along the leading axes count. Errors: `DataError` if they are holes in the data,
    unless `fill_missing` is True; `way_out` says what to do instead of completing the data.
    """
    grids = ChunkGrid.all_of_hdf5(dataset)
    note = unwritten(grids.values(), box)
    if note is None or fill_missing:
        return note
    for index, grid in grids.items():
        read = functools.partial(_read_at, dataset, name, index)
        refuse_holes(name, grid, box, read, way_out=way_out)
    return note


def _read_at(
    dataset: h5py.Dataset, name: str, index: tuple[int, ...], window: Window
) -> NDArray[Any]:
    return read_part(dataset, (*index, *window), name)


def limits_text(limits: Iterable[tuple[int, int]], lengths: Sequence[int]) -> str:
    """Return a region as text, e.g. `[0:60, :, :]`, where `:` is the whole of an axis."""
    spans = zip(limits, lengths, strict=True)
    parts = (":" if span == (0, n) else f"{span[0]}:{span[1]}" for span, n in spans)
    return f"[{', '.join(parts)}]"


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the file's number type in this machine's byte order, at most double precision."""
    return np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
