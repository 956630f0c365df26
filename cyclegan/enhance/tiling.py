"""Read a volume in slabs and apply an operator tile by tile, with the result of one single pass.

`grid.py` explains how a volume is cut, and what the *padded* volume is. The tiles reproduce one
pass over the padded volume.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan.data import Standardise, Volume, VolumeEntry, open_dataset
from cyclegan.data.region import Region as StoredRegion
from cyclegan.data.region import check_holes
from cyclegan.data.statistics import pooled
from cyclegan.data.voxel_size import voxel_size_um
from cyclegan.enhance.device_errors import explaining, is_gpu_lost, is_out_of_memory
from cyclegan.enhance.grid import Grid, Region, Size, Tile, TileOperator, Window, output_shape
from cyclegan.enhance.memory import SAFETY, available_bytes, bytes_per_voxel
from cyclegan.errors import CycleGANError, DataError
from cyclegan.files import replacing

logger = logging.getLogger(__name__)
__all__ = [
    "Grid",
    "Read",
    "Region",
    "Size",
    "Tile",
    "TileOperator",
    "TileRunner",
    "Window",
    "apply_tiled",
    "output_shape",
    "read_padded",
]
Read = Callable[[Size, Size], NDArray[Any]]
"""Reader of a volume: (origin, size) in voxels, inside the volume, -> (C, z, y, x)."""


def read_padded(read: Read, tile: Tile, shape: Size) -> NDArray[Any]:
    """Return the window (C, z, y, x) of a tile, extended by the volume's last voxels at its end."""
    z, y, x = (min(s.end, n) - s.start for s, n in zip(tile.spans, shape, strict=True))
    patch = read(tile.origin, (z, y, x))
    missing = [(0, n - have) for n, have in zip(tile.size, (z, y, x), strict=True)]
    if any(after for _, after in missing):
        patch = np.pad(patch, [(0, 0), *missing], mode="edge")
    return np.ascontiguousarray(patch)


class TileRunner:
    """Computes tiles, and smaller ones once memory has run out.

    A core that is put together from smaller tiles is the same, but takes longer. Windows as large
    as one that did not fit are not tried again: every trial may compute half a tile for nothing.
    """

    def __init__(self, operator: TileOperator) -> None:
        self.operator = operator
        self._too_large = math.inf
        """Voxels of the smallest window that did not fit."""

    def run(
        self, read: Read, tile: Tile, grid: Grid, window: NDArray[Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return the cores (C', z, y, x) of all outputs of a tile; their place: `grid.outer(...)`.

        `window` is what `read_padded` returns for the tile, if it is read already.

        Errors: `CycleGANError` if an output has voxels that are not finite, if no tile is small
        enough, or if the GPU is lost.
        """
        smaller, reason = grid.within(tile), None
        if smaller is None or math.prod(tile.size) < self._too_large:
            if window is None:
                window = read_padded(read, tile, grid.shape)
            cores, reason = _attempt(self.operator, window, tile, grid)
            if cores is not None:
                _check_finite(cores, tile)
                return cores
            self._too_large = min(self._too_large, math.prod(tile.size))
        if smaller is None:
            raise CycleGANError(self._nothing_fits(tile, reason))
        if reason is not None:
            logger.warning(
                "a tile of %s voxels does not fit into memory; computing it in two halves, with "
                "the same result",
                list(tile.size),
            )
        return self.assembled(read, smaller)

    def assembled(self, read: Read, grid: Grid) -> dict[str, NDArray[Any]]:
        """Return all outputs (C', z, y, x) of the region of a grid, from its tiles."""
        results: dict[str, NDArray[Any]] = {}
        for tile in grid:
            for name, image in self.run(read, tile, grid).items():
                factor = self.operator.outputs[name]
                if name not in results:
                    full = (image.shape[0], *grid.output_shape(factor))
                    results[name] = np.empty(full, dtype=image.dtype)
                results[name][(slice(None), *grid.outer(tile, factor))] = image
        return results

    def _nothing_fits(self, tile: Tile, reason: str | None) -> str:
        needs = ""
        device = getattr(getattr(self.operator, "G_A", self.operator), "device", None)
        with contextlib.suppress(RuntimeError):  # even that may not fit
            needed = SAFETY * bytes_per_voxel(self.operator) * math.prod(tile.size)
            needs = f" It takes about {needed / 1e9:.2g} GB"
            if device is not None:
                needs += f", and {available_bytes(device) / 1e9:.2g} GB are free on {device}"
            needs += "."
        return (
            f"a tile of {list(tile.size)} voxels does not fit into memory ({reason}) and can't be "
            f"made smaller.{needs} Free some memory, or take --precision bf16, --no-trust, a "
            "smaller network or another --device"
        )


def _attempt(
    operator: TileOperator, window: NDArray[Any], tile: Tile, grid: Grid
) -> tuple[dict[str, NDArray[Any]] | None, str | None]:
    """Return the cores of a tile; if memory ran out, free it and return the reason.

    Errors: `CycleGANError` if the GPU is lost.
    """
    patch = torch.from_numpy(window)[None]
    try:
        with torch.inference_mode():
            images = operator(patch)
            return {
                name: images[name][0][(slice(None), *grid.inner(tile, factor))].cpu().numpy()
                for name, factor in operator.outputs.items()
            }, None
    except RuntimeError as error:
        if is_gpu_lost(error):
            with explaining():
                raise
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0][:200]
    # Only now, as the error no longer holds the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason


def _check_finite(cores: dict[str, NDArray[Any]], tile: Tile) -> None:
    """Refuse NaN and infinity, which finite weights can make of a finite input, too."""
    for name, image in cores.items():
        wrong = image.size - int(np.count_nonzero(np.isfinite(image)))
        if wrong:
            raise CycleGANError(
                f"{name}: {wrong} of {image.size} voxels of the tile at {list(tile.origin)} are "
                "not finite; the model's values overflow there: look at the input for extreme "
                "voxels, try --precision fp32, or use another model"
            )


def apply_tiled(
    operator: TileOperator,
    volume: NDArray[Any],
    core: Size | None = None,
    region: Region | None = None,
) -> dict[str, NDArray[Any]]:
    """Return all outputs (C', fZ, fY, fX) of a volume (C, Z, Y, X) or (Z, Y, X) held in memory.

    Without `core` this takes one pass over the padded volume. With `region`, [start, end) along Z,
    Y, X, only that part of the result is returned. The dtype is the operator's.
    """
    if volume.ndim == 3:
        volume = volume[None]

    def read(origin: Size, size: Size) -> NDArray[Any]:
        window = tuple(slice(o, o + n) for o, n in zip(origin, size, strict=True))
        part: NDArray[Any] = volume[(slice(None), *window)]
        return part

    shape: Size = (volume.shape[1], volume.shape[2], volume.shape[3])
    return TileRunner(operator).assembled(read, Grid.of(operator, shape, core, region))


class SlabReader:
    """Reads windows from a slab, which is itself read once for a whole row of tiles.

    As far as `limit` bytes allow, a slab covers all of Y and X over the windows' Z, else all of X,
    else one window. A file of compressed slices is then decompressed once per row of tiles instead
    of once per tile. Several threads may call it; they take turns.
    """

    def __init__(self, read: Read, grid: Grid, channels: int, limit: float) -> None:
        self._read, self._grid, self._channels, self._limit = read, grid, channels, limit
        self._bounds = [(first, end) for first, end in self._reach()]
        self._origin: Size = (0, 0, 0)
        self._slab: NDArray[Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, origin: Size, size: Size) -> NDArray[Any]:
        """Return a window (C, z, y, x)."""
        with self._lock:
            return self._window(origin, size)

    def _window(self, origin: Size, size: Size) -> NDArray[Any]:
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
    entry: VolumeEntry, folder: Path, *, standardise: Standardise = "auto"
) -> list[Volume]:
    """Return the frames of a series (T, Z, Y, X) as volumes with the whole series' statistics.

    Frames stay comparable: grey values that differ between them differ in the result. HDF5 reads
    the frames through virtual datasets in a file that is written into `folder` and must stay there.

    Errors: `DataError` if the dataset doesn't have four axes, or for anything that `Volume`
    refuses.
    """
    path, dataset = entry.path, entry.dset
    series = open_dataset(path, dataset)
    with series.file:
        if series.ndim != 4:
            raise DataError(
                f"{path}:{dataset} must be a series (T, Z, Y, X), but has the shape "
                f"{series.shape}; leave --series out for a single volume"
            )
        name, box = f"{path}:{dataset}", [(0, n) for n in series.shape[1:]]
        note = check_holes(series, name, box, fill_missing=entry.fill_missing)
        if note is not None:
            logger.warning("%s: %s", name, note)
        frames = folder / f"{path.stem}-frames.h5"
        _write_views(series, path, frames)
        entries = [replace(entry, path=frames, dset=f"frame_{t:05d}") for t in range(len(series))]
    together = pooled([StoredRegion(frame, 1).measure() for frame in entries])
    volumes = []
    for t, frame in enumerate(entries):
        volume = Volume(frame, standardise=standardise, statistics=together, tell=False)
        # Messages and records show the names that the user knows, not the file of views.
        volume.name = f"{path}:{dataset}[{t}]"
        volume.entry = replace(entry, dset=f"{dataset}[{t}]")
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
