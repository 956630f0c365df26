"""Go through a region once, block by block, along the dataset's chunks.

A block consists of whole chunks (cut at the region's faces), so no chunk is decompressed twice.
Blocks that were never written are found without reading them.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.numbers import ceil_div

Size = tuple[int, int, int]
Window = tuple[slice, slice, slice]

_BLOCK_BYTES = 8 << 20
"""Most bytes of chunks that are read together; larger chunks are read one at a time."""


class BlockGrid:
    """The blocks of a region [start, start + shape) of a dataset (..., Z, Y, X), Z outermost."""

    def __init__(self, dataset: h5py.Dataset, start: Size, shape: Size) -> None:
        self._dataset = dataset
        self._end = tuple(s + n for s, n in zip(start, shape, strict=True))
        self._chunks = dataset.chunks[-3:] if dataset.chunks else (1, 1, 1)
        self._start = start
        self._first = tuple(s // c * c for s, c in zip(start, self._chunks, strict=True))
        self._step = self._steps()
        self.shape: Size = self._counts(self._end)
        """Number of blocks along Z, Y, X."""

    def __len__(self) -> int:
        return math.prod(self.shape)

    def window(self, index: int) -> Window:
        """Return the window of block `index` in the dataset."""
        place = np.unravel_index(index, self.shape)
        z, y, x = (
            slice(max(s, f + int(i) * step), min(e, f + (int(i) + 1) * step))
            for s, e, f, i, step in zip(
                self._start, self._end, self._first, place, self._step, strict=True
            )
        )
        return z, y, x

    def voxels(self, index: int) -> int:
        """Return the number of voxels of block `index`, channels not counted."""
        return math.prod(part.stop - part.start for part in self.window(index))

    def written(self) -> NDArray[np.int64]:
        """Return the indices of the blocks that were written; all others hold the fill value."""
        dataset = self._dataset
        every = np.arange(len(self), dtype=np.int64)
        if dataset.is_virtual or dataset.external:
            return every
        if dataset.chunks is None:
            return every if dataset.id.get_storage_size() else every[:0]
        chunks = math.prod(
            ceil_div(n, c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)
        )
        if dataset.id.get_num_chunks() == chunks:
            return every
        return np.flatnonzero(self._marks())

    def _marks(self) -> NDArray[np.bool_]:
        marks = np.zeros(self.shape, dtype=bool)

        def mark(chunk: h5py.h5d.StoreInfo) -> None:
            offset = chunk.chunk_offset[-3:]
            if all(f <= o < e for f, o, e in zip(self._first, offset, self._end, strict=True)):
                marks[
                    tuple(
                        (o - f) // step
                        for o, f, step in zip(offset, self._first, self._step, strict=True)
                    )
                ] = True

        self._dataset.id.chunk_iter(mark)
        return marks

    def _steps(self) -> Size:
        """Return the block size: whole chunks, joined along X first for sequential reading."""
        channels = self._dataset.shape[0] if self._dataset.ndim == 4 else 1
        budget = _BLOCK_BYTES // (self._dataset.dtype.itemsize * channels)
        steps = [0, 0, 0]
        used = math.prod(self._chunks)
        for axis in (2, 1, 0):
            chunk = self._chunks[axis]
            length = ceil_div(self._end[axis] - self._first[axis], chunk)
            together = max(1, min(length, budget // used))
            steps[axis] = together * chunk
            used *= together
        return steps[0], steps[1], steps[2]

    def _counts(self, end: tuple[int, ...]) -> Size:
        z, y, x = (
            ceil_div(e - f, step) for e, f, step in zip(end, self._first, self._step, strict=True)
        )
        return z, y, x


def spread(items: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return `count` of the items, one from each of `count` equal stretches.

    A fixed seed chooses within each stretch: a fixed step could hit the same row of every slice.
    """
    if count >= len(items):
        return items
    random = np.random.default_rng(0)
    edges = np.linspace(0, len(items), count + 1)
    places = edges[:-1] + random.random(count) * np.diff(edges)
    chosen: NDArray[np.int64] = items[np.minimum(places.astype(np.int64), len(items) - 1)]
    return chosen
