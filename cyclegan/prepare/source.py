"""What all readers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from cyclegan.prepare.region import Size
from cyclegan.prepare.units import VoxelSize

Window = tuple[slice, slice, slice]


class Source(ABC):
    """A volume (Z, Y, X) of real numbers in some file format, read window by window."""

    name: str
    """For messages: file, and dataset if it has several."""
    files: tuple[Path, ...]
    """Everything that the voxels come from."""
    shape: Size
    dtype: np.dtype[Any]
    grain: tuple[int, int]
    """What is read at once along Z and Y: reading less costs as much."""
    voxel_size_um: VoxelSize | None = None
    units: str | None = None
    """Of the intensities, if the file says."""
    notes: tuple[str, ...] = ()
    """What the user should know about this input."""

    @abstractmethod
    def read(self, window: Window) -> NDArray[Any]:
        """The voxels of `window` (start and stop given along each axis) in the file's own dtype.

        Errors: `DataError` naming the file that can't be read.
        """

    def close(self) -> None:  # noqa: B027  (most readers keep no file open)
        """Close the file."""


def three_axes(
    name: str, shape: Sequence[int], channel: int | None
) -> tuple[tuple[int, ...], Size]:
    """Indices of the leading axes, and the shape (Z, Y, X) of what remains.

    Leading axes of length 1 are dropped; of a channel axis `channel` is chosen.
    Errors: `DataError` if a channel must be named, or the array has no three axes.
    """
    lengths = [int(n) for n in shape]
    index: list[int] = []
    while len(lengths) > 3 and (lengths[0] == 1 or (len(lengths) == 4 and channel is not None)):
        first = lengths.pop(0)
        wanted = channel if channel is not None and len(lengths) == 3 else 0
        if not 0 <= wanted < first:
            raise DataError(f"{name}: --channel {wanted}: it has {first}, counted from 0")
        index.append(wanted)
    if len(lengths) != 3 or min(lengths) < 1:
        if len(lengths) == 4:
            raise DataError(
                f"{name}: {list(shape)} has {lengths[0]} channels; choose one with --channel N "
                "(0 is the first)"
            )
        raise DataError(f"{name}: a volume of axes Z, Y, X is wanted, this has shape {list(shape)}")
    return tuple(index), (lengths[0], lengths[1], lengths[2])


def check_real(name: str, dtype: np.dtype[Any]) -> None:
    """Raise `DataError` unless `dtype` is of integers or floats."""
    if dtype.kind not in "fiu":
        raise DataError(f"{name}: real numbers are wanted, this holds {dtype}")
