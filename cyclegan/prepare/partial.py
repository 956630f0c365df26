"""The prepared HDF5 file, and its unfinished part, which survives kill -9 at any moment.

An HDF5 file that is being written is lost if its process dies: its index is in memory. Here HDF5
creates the complete file at once, with index, attributes and a place for every chunk (a sparse
file), and closes it. Plain writes, each independent of the others, then put voxels into their
places. Once a slab is on the disk, a record beside the file says so. When all slabs are written,
the part is the finished file and is only renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size
from cyclegan.data.origin import PREPARED_FROM
from cyclegan.data.voxel_size import VoxelSize
from cyclegan.errors import CycleGANError, DataError
from cyclegan.files import write_text
from cyclegan.hdf5 import writing_hdf5
from cyclegan.locks import at_once
from cyclegan.numbers import ceil_div

_RESERVE = 1 << 24


def part_path(output: Path) -> Path:
    """Return the path of the unfinished part of `output`."""
    return output.with_name(output.name + ".part")


class Record:
    """Progress of one output, in a JSON file beside it that every update replaces.

    `content` is empty unless the existing record has the same `fingerprint`.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.path = output.with_name(output.name + ".part.json")
        self.fingerprint = fingerprint
        self.found = self.path.exists()
        self.content: dict[str, Any] = {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(content, dict) and content.get("fingerprint") == fingerprint:
            self.content = content

    def update(self, **values: Any) -> None:
        """Change values and write the record; it is on the disk when this returns."""
        self.content |= {"fingerprint": self.fingerprint, **values}
        write_text(self.path, json.dumps(self.content))

    def clear(self) -> None:
        """Delete the record."""
        self.content = {}
        self.path.unlink(missing_ok=True)


def is_made(output: Path, fingerprint: str) -> bool:
    """Return True if `output` is whole, and made from the inputs and settings of `fingerprint`."""
    try:
        with h5py.File(output, "r") as handle:
            return bool(handle[DATASET].attrs.get(PREPARED_FROM) == fingerprint)
    except (OSError, KeyError, ValueError):
        return False


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Lock `output` and its part for this process; the lock ends with the process at the latest.

    Errors: `BusyError` if another process holds the lock.
    """
    # A separate file: HDF5 itself locks the files that it opens, and could not open a locked one.
    path = output.with_name(f".{output.name}.lock")
    busy = f"{output} is being written by another process; wait for it"
    with contextlib.ExitStack() as stack:
        with disk_errors(output):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(at_once(path, busy))
        stack.callback(path.unlink, missing_ok=True)
        yield


@contextlib.contextmanager
def disk_errors(output: Path) -> Iterator[None]:
    """Turn errors of the operating system into a `CycleGANError` of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CycleGANError(
                f"{output}: the disk is full; free some space and run the same command again to "
                "resume"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise CycleGANError(
                f"{output}: no permission to write there; choose another folder"
            ) from error
        raise CycleGANError(f"{output}: writing failed: {error.strerror or error}") from error


def check_space(output: Path, nbytes: int) -> None:
    """Raise `CycleGANError` if `nbytes` don't fit on the disk; an existing part counts as free."""
    part = part_path(output)
    with disk_errors(output):
        folder = os.statvfs(output.parent)
        taken = part.stat().st_blocks * 512 if part.exists() else 0
    free = folder.f_bavail * folder.f_frsize + taken
    needed = nbytes + min(_RESERVE, nbytes)
    if needed > free:
        raise CycleGANError(
            f"{output}: {needed / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free on that "
            "disk; free some space, crop with --roi, or use --dtype float16"
        )


class Part:
    """The unfinished file, with a place for every voxel; blocks can be written in any order."""

    def __init__(self, output: Path, layout: Layout) -> None:
        self.path = part_path(output)
        self._output = output
        self._layout = layout
        self._descriptor = -1
        self._places: NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def _grid(self) -> Size:
        z, y, x = (
            ceil_div(n, c) for n, c in zip(self._layout.shape, self._layout.chunks, strict=True)
        )
        return z, y, x

    def create(self) -> None:
        """Create the file without its voxels. Errors: `CycleGANError` for a full disk."""
        with disk_errors(self._output):
            with writing_hdf5(self.path) as (handle, check):
                self._layout.declare(handle, "none")
                check()
            self._open()
            os.fsync(self._descriptor)

    def reopen(self) -> bool:
        """Open the existing file to continue it; return False if it has another layout or input."""
        try:
            with h5py.File(self.path, "r") as handle:
                dataset = handle[DATASET]
                fitting = (dataset.shape, dataset.chunks) == (
                    self._layout.shape,
                    self._layout.chunks,
                )
                wanted = self._layout.attributes[PREPARED_FROM]
                if not fitting or dataset.attrs.get(PREPARED_FROM) != wanted:
                    return False
        except (OSError, KeyError):
            return False
        with disk_errors(self._output):
            self._open()
        return True

    def write(self, origin: tuple[int, int], values: NDArray[Any]) -> None:
        """Write `values` (z, y, all of X) at `origin` (Z, Y); they are on the disk on return.

        Errors: `CycleGANError` for a full disk.
        """
        _, chunk_y, chunk_x = self._layout.chunks
        depth, rows, width = values.shape
        padded = np.zeros((depth, rows, self._grid[2] * chunk_x), self._layout.dtype)
        padded[..., :width] = values
        with disk_errors(self._output):
            for z, z_rows in _by_chunk(origin[0], depth, self._layout.chunks[0]):
                for y, y_rows in _by_chunk(origin[1], rows, chunk_y):
                    for ix in range(self._grid[2]):
                        piece = padded[z_rows, y_rows, ix * chunk_x : (ix + 1) * chunk_x]
                        self._write_piece(z, y, ix, piece)
            os.fsync(self._descriptor)

    def _write_piece(self, z: int, y: int, ix: int, piece: NDArray[Any]) -> None:
        chunk_z, chunk_y, chunk_x = self._layout.chunks
        start = int(self._places[z // chunk_z, y // chunk_y, ix])
        whole_height = piece.shape[1] == chunk_y
        runs = [piece] if whole_height else list(piece)
        for i, run in enumerate(runs):
            inside = ((z % chunk_z + i) * chunk_y + y % chunk_y) * chunk_x
            self._write_bytes(run.tobytes(), start + inside * self._layout.dtype.itemsize)

    def _write_bytes(self, data: bytes, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, memoryview(data)[done:], offset + done)

    def _open(self) -> None:
        self._places = _chunk_places(self.path, self._grid)
        self._descriptor = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _by_chunk(start: int, length: int, chunk: int) -> Iterator[tuple[int, slice]]:
    """Yield positions and slices (counted from `start`) of a range, cut where chunks end."""
    position = start
    while position < start + length:
        end = min(position - position % chunk + chunk, start + length)
        yield position, slice(position - start, end - start)
        position = end


def _chunk_places(path: Path, grid: Size) -> NDArray[np.int64]:
    """Return the offset of every chunk in the file, by its index in the grid of chunks.

    Errors: `DataError` if a chunk has no place in the file.
    """
    places = np.zeros(grid, np.int64)
    with h5py.File(path, "r") as handle:
        dataset = handle[DATASET]
        chunks = dataset.chunks

        def note(chunk: Any) -> None:
            index = tuple(o // c for o, c in zip(chunk.chunk_offset, chunks, strict=True))
            places[index] = chunk.byte_offset

        dataset.id.chunk_iter(note)
    if not places.all():
        raise DataError(f"{path}: HDF5 did not give every chunk a place; please report this")
    return places


# -- The HDF5 file that `cyclegan prepare` writes: one dataset and its description -------------

DATASET = "data"


HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs", ".nx")
Compression = Literal["none", "gzip", "lz4"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything in the file except its voxels."""

    shape: Size
    chunks: Size
    dtype: np.dtype[Any]
    voxel_size_um: VoxelSize | None
    title: str
    attributes: dict[str, Any] = field(default_factory=dict)
    """Attributes of the dataset."""

    def declare(self, handle: h5py.File, compression: Compression) -> h5py.Dataset:
        """Create and describe the dataset, in a root that is a NeXus `NXdata` group for viewers.

        Without compression every chunk gets its place in the file at once, so that voxels can be
        written without HDF5. There are no time stamps: the same volume gives the same bytes.
        """
        if compression == "none":
            dataset = self._allocated(handle)
        else:
            dataset = handle.create_dataset(
                DATASET,
                self.shape,
                self.dtype,
                chunks=self.chunks,
                track_times=False,
                **_FILTERS[compression],
            )
        handle.attrs.update(NX_class="NXdata", signal=DATASET, title=self.title)
        dataset.attrs.update(self.attributes)
        if self.voxel_size_um is not None:
            dataset.attrs["voxel_size_um"] = np.array(self.voxel_size_um)
            self._declare_axes(handle, self.voxel_size_um)
        return dataset

    def _allocated(self, handle: h5py.File) -> h5py.Dataset:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(self.chunks)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)
        kind = h5py.h5t.py_create(self.dtype, logical=True)
        space = h5py.h5s.create_simple(self.shape)
        made = h5py.h5d.create(handle.id, DATASET.encode(), kind, space, properties)
        return h5py.Dataset(made)

    def _declare_axes(self, handle: h5py.File, voxel_size: VoxelSize) -> None:
        handle.attrs["axes"] = ["z", "y", "x"]
        for name, length, step in zip("zyx", self.shape, voxel_size, strict=True):
            axis = handle.create_dataset(name, data=np.arange(length) * step, track_times=False)
            axis.attrs["units"] = "um"


_FILTERS: dict[Compression, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lz4": {"shuffle": True, **hdf5plugin.LZ4()},
}
