"""The interface of all readers, and their common checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size, Window
from cyclegan.data.unwritten import ChunkGrid, refuse_holes, unwritten
from cyclegan.data.voxel_size import VoxelSize
from cyclegan.errors import DataError
from cyclegan.prepare.region import Region, Roi, resolve

_WAY_OUT = "leave the gap out with --roi, or add --fill-missing to read the fill value there"


class Source(ABC):
    """A volume (Z, Y, X) of real numbers in some file format, read window by window."""

    name: str
    """Name for messages: the file, and the dataset if it has several."""
    files: tuple[Path, ...]
    """All files that hold the voxels."""
    shape: Size
    dtype: np.dtype[Any]
    grain: tuple[int, int]
    """Unit of reading along Z and Y, in voxels: reading less costs as much."""
    voxel_size_um: VoxelSize | None = None
    units: str | None = None
    """Unit of the intensities, if the file names it."""
    notes: tuple[str, ...] = ()
    """Notes about this input for the user."""

    @property
    def origin(self) -> tuple[Path, str, int]:
        """File or folder, dataset in it, and number of the first plane among the folder's files."""
        return self.files[0], "", 0

    def region(self, roi: Roi) -> Region:
        """Return the region in voxels.

        Errors: `DataError` if it ends beyond the volume or needs a file that does not exist.
        """
        return resolve(roi, self.shape, self.name)

    def chunk_grid(self) -> ChunkGrid | None:
        """Return the chunks of the volume; None if every one was written, or there are none."""
        return None

    def check_holes(self, region: Region, *, fill_missing: bool) -> None:
        """Add a note if chunks of `region` were never written.

        Errors: `DataError` if they look like holes in the data, unless `fill_missing` is True.
        """
        grid = self.chunk_grid()
        note = None if grid is None else unwritten([grid], region)
        if grid is None or note is None:
            return
        if not fill_missing:
            refuse_holes(self.name, grid, region, self.read, way_out=_WAY_OUT)
        self.notes = (*self.notes, f"{self.name}: {note}")

    @abstractmethod
    def read(self, window: Window) -> NDArray[Any]:
        """Return the voxels of `window` (start and stop along each axis) in the file's own dtype.

        Errors: `DataError` that names the file if it can't be read.
        """

    def close(self) -> None:  # noqa: B027  (most readers keep no file open)
        """Close the file."""


def three_axes(
    name: str, shape: Sequence[int], channel: int | None
) -> tuple[tuple[int, ...], Size]:
    """Return the indices along the leading axes, and the shape (Z, Y, X) of the rest.

    The index is 0 along leading axes of length 1, and `channel` along a channel axis.
    Errors: `DataError` if a channel must be named, or is named and there is no axis for it, or if
    fewer or more than three axes remain.
    """
    lengths = [int(n) for n in shape]
    index: list[int] = []
    chosen = False
    while len(lengths) > 3 and (lengths[0] == 1 or (len(lengths) == 4 and channel is not None)):
        first = lengths.pop(0)
        chosen = channel is not None and len(lengths) == 3
        wanted = channel if channel is not None and chosen else 0
        if not 0 <= wanted < first:
            raise DataError(f"{name}: --channel {wanted}: it has {first} channels, counted from 0")
        index.append(wanted)
    if len(lengths) == 3 and channel is not None and not chosen:
        raise DataError(f"{name}: --channel {channel}: its shape {list(shape)} has no channels")
    if len(lengths) != 3 or min(lengths) < 1:
        if len(lengths) == 4:
            raise DataError(
                f"{name}: {list(shape)} has {lengths[0]} channels; choose one with --channel N "
                "(0 is the first)"
            )
        raise DataError(f"{name}: its shape is {list(shape)}; a volume has axes Z, Y, X")
    return tuple(index), (lengths[0], lengths[1], lengths[2])


def check_real(name: str, dtype: np.dtype[Any]) -> None:
    """Raise `DataError` unless `dtype` holds integers or floats."""
    if dtype.kind not in "fiu":
        raise DataError(f"{name}: it holds {dtype}; a volume holds real numbers")
