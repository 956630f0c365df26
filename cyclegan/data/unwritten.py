"""Find chunks of an array that were never written, and judge whether that is a fault.

HDF5 and Zarr read a chunk that is not there as the fill value. Programs leave out chunks of
background on purpose; an interrupted copy or conversion looks the same, except that the voxels
around the gap hold something else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size, Window, spread
from cyclegan.errors import DataError
from cyclegan.numbers import ceil_div

_MOST_CHUNKS = 1 << 30
_TESTED = 64
"""Chunks that are tested of those with most neighbours, and again of all others."""


@dataclass(frozen=True, kw_only=True)
class ChunkGrid:
    """The chunks of a volume (Z, Y, X), and which of them were written."""

    shape: Size
    chunks: Size
    written: NDArray[np.bool_]
    """True for each chunk that was written."""
    fill: Any
    """Value that all other chunks are read as."""

    @classmethod
    def of_hdf5(cls, dataset: h5py.Dataset, index: Sequence[int]) -> ChunkGrid | None:
        """Return the grid of a dataset at `index` along its leading axes; None if it has all.

        Otherwise as `all_of_hdf5`.
        """
        chunks = dataset.chunks or ()
        first = tuple(i // c * c for i, c in zip(index, chunks, strict=False))
        return cls.all_of_hdf5(dataset).get(first)

    @classmethod
    def all_of_hdf5(cls, dataset: h5py.Dataset) -> dict[tuple[int, ...], ChunkGrid]:
        """Return the grids of a dataset (..., Z, Y, X) by the first index that they hold for.

        The index is that along the leading axes; there is one grid for each of their chunks. There
        are none if all chunks were written, for a virtual dataset and for one without chunks.

        Errors: those of h5py for damaged files, and `ValueError` for more chunks than any file has.
        """
        if dataset.chunks is None or dataset.is_virtual:
            return {}
        counts = [ceil_div(n, c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]
        if dataset.id.get_num_chunks() == math.prod(counts):
            return {}
        if math.prod(counts) > _MOST_CHUNKS:
            raise ValueError(f"{dataset.shape} in chunks of {dataset.chunks}")
        written = np.zeros(counts, bool)

        def mark(chunk: Any) -> None:
            place = (o // c for o, c in zip(chunk.chunk_offset, dataset.chunks, strict=True))
            written[tuple(place)] = True

        dataset.id.chunk_iter(mark)
        z, y, x = dataset.shape[-3:]
        chunks, fill = dataset.chunks[-3:], dataset.fillvalue
        return {
            tuple(i * c for i, c in zip(lead, dataset.chunks, strict=False)): cls(
                shape=(z, y, x), chunks=chunks, written=written[lead], fill=fill
            )
            for lead in np.ndindex(*counts[:-3])
        }

    def missing(self, region: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], int]:
        """Return the places of the chunks of `region` that were not written, and its chunks."""
        first = [start // c for (start, _), c in zip(region, self.chunks, strict=True)]
        end = [ceil_div(stop, c) for (_, stop), c in zip(region, self.chunks, strict=True)]
        part = self.written[tuple(slice(a, b) for a, b in zip(first, end, strict=True))]
        return np.argwhere(~part) + first, part.size

    def neighbours(self, place: Sequence[int]) -> list[Window]:
        """Return the layers of voxels around a chunk that its written neighbours hold."""
        found = []
        for axis, step in itertools.product(range(3), (-1, 1)):
            beside = list(place)
            beside[axis] += step
            if 0 <= beside[axis] < self.written.shape[axis] and self.written[tuple(beside)]:
                found.append(self._layer(place, axis, step))
        return found

    def _layer(self, place: Sequence[int], axis: int, step: int) -> Window:
        start = [i * c for i, c in zip(place, self.chunks, strict=True)]
        stop = [min(s + c, n) for s, c, n in zip(start, self.chunks, self.shape, strict=True)]
        start[axis] = stop[axis] if step > 0 else start[axis] - 1
        stop[axis] = start[axis] + 1
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return z, y, x


def unwritten(grids: Iterable[ChunkGrid], region: Sequence[tuple[int, int]]) -> str | None:
    """Return how many chunks of `region` were not written, as a predicate; None if all were.

    `grids` are those of one volume: one, or one for each channel.
    """
    missing = total = 0
    fill = None
    for grid in grids:
        places, chunks = grid.missing(region)
        missing, total, fill = missing + len(places), total + chunks, grid.fill
    if not missing:
        return None
    return (
        f"{missing} of {total} chunks ({100 * missing / total:.2g} %) were never written "
        f"and are read as the fill value {fill}"
    )


def refuse_holes(
    name: str,
    grid: ChunkGrid,
    region: Sequence[tuple[int, int]],
    read: Callable[[Window], NDArray[Any]],
    *,
    way_out: str,
) -> None:
    """Raise `DataError` if chunks of `region` that were not written are holes in the data.

    They are if none was written, or if most of the voxels that touch one of them, in the chunks
    beside it, are not the fill value. `read` returns the voxels of a window of the volume;
    `way_out` says what to do instead of completing the data.
    """
    missing, total = grid.missing(region)
    if len(missing) == total:
        raise DataError(f"{name}: none of its {total} chunks was ever written; copy it again")
    for place in _suspects(grid, missing):
        values = np.concatenate([read(layer).ravel() for layer in grid.neighbours(place)])
        if 2 * np.count_nonzero(_is(values, grid.fill)) < values.size:
            start = [int(i) * c for i, c in zip(place, grid.chunks, strict=True)]
            raise DataError(
                f"{name}: {unwritten([grid], region)}, but the voxels beside the one at {start} "
                "(z, y, x) hold other values, as after an interrupted copy; complete the data, "
                f"{way_out}"
            )


def _suspects(grid: ChunkGrid, missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return missing chunks beside written ones: those with most neighbours, and a sample."""
    padded = np.pad(grid.written, 1).astype(np.int8)
    beside = sum(np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1))
    counts = np.asarray(beside)[tuple((missing + 1).T)]
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    chosen = np.concatenate([order[:_TESTED], spread(order[_TESTED:], _TESTED)])
    suspects: NDArray[np.int64] = missing[chosen]
    return suspects


def _is(values: NDArray[Any], fill: Any) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = np.isnan(values) if fill != fill else values == fill
    return same
