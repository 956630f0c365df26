"""The input of an enhancement: slabs of a volume, and the frames of a series as volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from cyclegan.data import Size, Standardise, Volume, VolumeEntry, open_dataset
from cyclegan.data.region import Region as StoredRegion
from cyclegan.data.statistics import pooled
from cyclegan.data.voxel_size import voxel_size_um
from cyclegan.enhance.grid import Grid
from cyclegan.enhance.tiling import Read
from cyclegan.errors import DataError
from cyclegan.files import replacing


class SlabReader:
    """Reads windows from a slab, which is itself read once for a whole row of tiles.

    As far as `limit` bytes allow, a slab covers all of Y and X over the windows' Z, else all of X,
    else one window. A file of compressed slices is then decompressed once per row of tiles instead
    of once per tile.
    """

    def __init__(self, read: Read, grid: Grid, channels: int, limit: float) -> None:
        self._read, self._grid, self._channels, self._limit = read, grid, channels, limit
        self._bounds = [(first, end) for first, end in self._reach()]
        self._origin: Size = (0, 0, 0)
        self._slab: NDArray[Any] | None = None

    def __call__(self, origin: Size, size: Size) -> NDArray[Any]:
        """Return a window (C, z, y, x)."""
        if not self._holds(origin, size):
            self._slab = None  # freed before the next one is read
            self._origin, extent = self._around(origin, size)
            self._slab = self._read(self._origin, extent)
        assert self._slab is not None
        window = tuple(
            slice(o - first, o - first + n)
            for o, first, n in zip(origin, self._origin, size, strict=True)
        )
        part: NDArray[Any] = self._slab[(slice(None), *window)]
        return part

    def _holds(self, origin: Size, size: Size) -> bool:
        return self._slab is not None and all(
            first <= o and o + n <= first + have
            for o, n, first, have in zip(
                origin, size, self._origin, self._slab.shape[1:], strict=True
            )
        )

    def _around(self, origin: Size, size: Size) -> tuple[Size, Size]:
        for whole in ((1, 2), (2,), ()):
            spans = [
                self._bounds[axis] if axis in whole else (o, o + n)
                for axis, (o, n) in enumerate(zip(origin, size, strict=True))
            ]
            z, y, x = (end - first for first, end in spans)
            if 4 * self._channels * z * y * x <= self._limit:
                break
        return (spans[0][0], spans[1][0], spans[2][0]), (z, y, x)

    def _reach(self) -> list[tuple[int, int]]:
        """Return the part of the volume, along each axis, that the windows of the grid read."""
        reach = [(n, 0) for n in self._grid.shape]
        for tile in self._grid:
            for axis, span in enumerate(tile.spans):
                first, end = reach[axis]
                last = min(span.end, self._grid.shape[axis])
                reach[axis] = min(first, span.start), max(end, last)
        return reach


def open_frames(
    path: Path, dataset: str, folder: Path, *, standardise: Standardise = "auto"
) -> list[Volume]:
    """Return the frames of a series (T, Z, Y, X) as volumes with the whole series' statistics.

    Frames stay comparable: grey values that differ between them differ in the result. HDF5 reads
    the frames through virtual datasets in a file that is written into `folder` and must stay there.

    Errors: `DataError` if the dataset doesn't have four axes, or for anything that `Volume`
    refuses.
    """
    series = open_dataset(path, dataset)
    with series.file:
        if series.ndim != 4:
            raise DataError(
                f"{path}:{dataset} must be a series (T, Z, Y, X), but has the shape "
                f"{series.shape}; leave --series out for a single volume"
            )
        frames = folder / f"{path.stem}-frames.h5"
        _write_views(series, path, frames)
        entries = [VolumeEntry(path=frames, dset=f"frame_{t:05d}") for t in range(len(series))]
    together = pooled([StoredRegion(entry, 1).measure() for entry in entries])
    volumes = []
    for t, entry in enumerate(entries):
        volume = Volume(entry, standardise=standardise, statistics=together, tell=False)
        # Messages and records show the names that the user knows, not the file of views.
        volume.name = f"{path}:{dataset}[{t}]"
        volume.entry = VolumeEntry(path=path, dset=f"{dataset}[{t}]")
        volumes.append(volume)
    return volumes


def _write_views(series: h5py.Dataset, path: Path, frames: Path) -> None:
    size = voxel_size_um(series)
    source = h5py.VirtualSource(path.resolve(), series.name, series.shape, series.dtype)
    with replacing(frames) as temporary, h5py.File(temporary, "w") as file:
        for t in range(len(series)):
            layout = h5py.VirtualLayout(series.shape[1:], series.dtype)
            layout[...] = source[t]
            view = file.create_virtual_dataset(f"frame_{t:05d}", layout)
            if size is not None:
                view.attrs["voxel_size_um"] = size
