"""Read slices, a central region, and blocks spread over volumes of any size, for the report.

Nothing here holds more than a region of 160 voxels a side or a slab of chunks, however large the
file. The trust maps are read once from end to end, slab by slab, unless they have more than
`SCANNED` voxels: then blocks spread evenly over the volume stand for it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Size, Volume
from cyclegan.errors import DataError

Image = NDArray[np.float32]

MAPS = ("trust/consistency", "trust/cycle", "trust/disagreement", "trust/doubt")
DOUBT = "trust/doubt"
SCANNED = 1 << 29
"""Most voxels of a map that is read completely; a larger one is summarised from a sample."""
SLAB_VOXELS = 1 << 24
"""Approximate number of voxels read at once."""
SAMPLED_BLOCKS = 64
"""Number of blocks that stand for a map too large to read completely."""
CELL = 16
"""Side of the cells in voxels of the map; each cell has one doubtful place at most."""
BINS_PER_OCTAVE = 64
"""Bins of the percentiles, whose resolution is thus 1.1 %."""
_LOWEST, _HIGHEST = -40, 40
"""Powers of two between which values are distinguished."""


class Images:
    """The volumes of a report, read by region; all origins and sizes are in the input's voxels.

    Errors: `DataError` if input, enhanced volume and reference don't cover the same region.
    """

    def __init__(self, source: Volume, handle: h5py.File, reference: Volume | None) -> None:
        self.source, self.reference = source, reference
        self.enhanced = _dataset(handle, "data")
        self.maps = {name: _dataset(handle, name) for name in MAPS if name in handle}
        self.shape = shape_of(self.enhanced)
        self.factor = _factor(source.shape, self.shape, handle.filename)
        if reference is not None and reference.shape != self.shape:
            raise DataError(
                f"{reference.name}: the reference has {list(reference.shape)} voxels, the enhanced "
                f"volume {list(self.shape)}; give one of the same region and resolution"
            )

    def input(self, origin: Size, size: Size) -> Image:
        """Return a region of the input's first channel."""
        image: Image = self.source.read(origin, size)[0]
        return image

    def output(self, origin: Size, size: Size) -> Image:
        """Return the same region of the enhanced volume."""
        return read_image(self.enhanced, *self.scaled(origin, size, self.factor))

    def truth(self, origin: Size, size: Size) -> Image | None:
        """Return the same region of the reference, or None."""
        if self.reference is None:
            return None
        image: Image = self.reference.read(*self.scaled(origin, size, self.factor))[0]
        return image

    def map(self, name: str, origin: Size, size: Size) -> Image:
        """Return the same region of a trust map, in the map's own resolution."""
        dataset = self.maps[name]
        factor = max(1, round(shape_of(dataset)[2] / self.source.shape[2]))
        return read_image(dataset, *self.scaled(origin, size, factor))

    @staticmethod
    def scaled(origin: Size, size: Size, factor: int) -> tuple[Size, Size]:
        """Return a region in voxels `factor` times finer."""
        (a, b, c), (z, y, x) = origin, size
        return (a * factor, b * factor, c * factor), (z * factor, y * factor, x * factor)


@dataclass(frozen=True)
class MapSummary:
    """Mean, 95th and 99th percentile and highest value of a trust map, and the share read."""

    name: str
    mean: float
    p95: float
    p99: float
    highest: float
    read: float = 1.0


@dataclass(frozen=True)
class DoubtfulPlace:
    """A local maximum of the doubt: (z, y, x) in voxels of the enhanced volume, and its value."""

    place: Size
    value: float


def summarise_map(dataset: h5py.Dataset) -> MapSummary:
    """Summarise a map (Z, Y, X) or (1, Z, Y, X) without negative values, slab by slab."""
    counts = np.zeros((_HIGHEST - _LOWEST) * BINS_PER_OCTAVE, np.int64)
    total, number, highest = 0.0, 0, 0.0
    for _, part in _parts(dataset):
        finite = part[np.isfinite(part)]
        number += finite.size
        total += float(finite.sum(dtype=np.float64))
        highest = max(highest, float(finite.max(initial=0.0)))
        counts += np.bincount(_bins(finite), minlength=counts.size)
    return MapSummary(
        name=dataset.name.removeprefix("/"),
        mean=total / max(number, 1),
        p95=_percentile(counts, 0.95, highest),
        p99=_percentile(counts, 0.99, highest),
        highest=highest,
        read=number / max(math.prod(dataset.shape), 1),
    )


def doubtful_places(dataset: h5py.Dataset, count: int = 10) -> list[DoubtfulPlace]:
    """Return the `count` highest places of a map, highest first, at least 16 voxels apart."""
    kept: list[tuple[float, Size]] = []
    for origin, part in _parts(dataset):
        for value, place in _cell_maxima(part):
            where = (origin[0] + place[0], origin[1] + place[1], origin[2] + place[2])
            heapq.heappush(kept, (value, where))
            if len(kept) > 64 * count:
                heapq.heappop(kept)
    found: list[DoubtfulPlace] = []
    for value, place in sorted(kept, reverse=True):
        apart = (
            max(abs(a - b) for a, b in zip(place, other.place, strict=True)) >= CELL
            for other in found
        )
        if all(apart):
            found.append(DoubtfulPlace(place, value))
        if len(found) == count:
            break
    return found


def central_region(shape: Size, most: int) -> tuple[Size, Size]:
    """Return origin and size of a volume's middle, at most `most` voxels along each axis."""
    z, y, x = (min(n, most) for n in shape)
    a, b, c = ((n - part) // 2 for n, part in zip(shape, (z, y, x), strict=True))
    return (a, b, c), (z, y, x)


def spread_blocks(shape: Size, side: int, count: int) -> list[tuple[Size, Size]]:
    """Return up to `count` blocks (origin, size), spread evenly over a volume without overlap."""
    sizes = [min(side, n) for n in shape]
    grid = [range(0, n - part + 1, part) for n, part in zip(shape, sizes, strict=True)]
    places = [(z, y, x) for z in grid[0] for y in grid[1] for x in grid[2]]
    chosen = sorted({(2 * i + 1) * len(places) // (2 * count) for i in range(count)})
    z, y, x = sizes
    return [(places[i], (z, y, x)) for i in chosen]


def read_image(dataset: h5py.Dataset, origin: Size, size: Size) -> Image:
    """Read a window (z, y, x) of a dataset (Z, Y, X) or of the first channel of (C, Z, Y, X)."""
    z, y, x = (slice(o, o + n) for o, n in zip(origin, size, strict=True))
    part = dataset[z, y, x] if dataset.ndim == 3 else dataset[0, z, y, x]
    return np.asarray(part, dtype=np.float32)


def shape_of(dataset: h5py.Dataset) -> Size:
    """Return (Z, Y, X) of a dataset with or without a leading channel axis."""
    z, y, x = dataset.shape[-3:]
    return z, y, x


def _parts(dataset: h5py.Dataset) -> Iterator[tuple[Size, Image]]:
    """Yield origins and windows that cover a map, or a sample of it, in cells of 16 voxels."""
    shape = shape_of(dataset)
    if math.prod(shape) > SCANNED:
        for origin, size in spread_blocks(shape, 128, SAMPLED_BLOCKS):
            yield origin, read_image(dataset, origin, size)
        return
    chunk = (dataset.chunks or (CELL,))[-3:][0]
    unit = math.lcm(CELL, chunk) if math.lcm(CELL, chunk) <= 256 else CELL
    depth = max(SLAB_VOXELS // (shape[1] * shape[2]) // unit, 1) * unit
    for z in range(0, shape[0], depth):
        size = (min(depth, shape[0] - z), shape[1], shape[2])
        yield (z, 0, 0), read_image(dataset, (z, 0, 0), size)


def _cell_maxima(part: Image) -> Iterator[tuple[float, Size]]:
    padding = [(0, -n % CELL) for n in part.shape]
    padded = np.pad(np.nan_to_num(part, nan=-1.0), padding, constant_values=-1.0)
    z, y, x = (n // CELL for n in padded.shape)
    cells = padded.reshape(z, CELL, y, CELL, x, CELL).transpose(0, 2, 4, 1, 3, 5)
    flat = cells.reshape(z, y, x, -1)
    for cell in np.ndindex(z, y, x):
        inside = np.unravel_index(int(flat[cell].argmax()), (CELL,) * 3)
        place = [c * CELL + int(i) for c, i in zip(cell, inside, strict=True)]
        yield float(flat[cell].max()), (place[0], place[1], place[2])


def _bins(values: Image) -> NDArray[Any]:
    logs = np.log2(np.maximum(values, 2.0 ** (_LOWEST + 1)))
    bins = np.floor((logs - _LOWEST) * BINS_PER_OCTAVE).astype(np.int64)
    inside: NDArray[Any] = bins.clip(0, (_HIGHEST - _LOWEST) * BINS_PER_OCTAVE - 1)
    return inside


def _percentile(counts: NDArray[np.int64], share: float, highest: float) -> float:
    if not counts.any():
        return math.nan
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    # The middle of a bin; a map of zeros has all its voxels in the lowest.
    value = math.pow(2, _LOWEST + (place + 0.5) / BINS_PER_OCTAVE)
    return min(value, highest)


def _dataset(handle: h5py.File, name: str) -> h5py.Dataset:
    item: Any = handle.get(name)
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{handle.filename}: no dataset '{name}'; it is not an output of enhance")
    return item


def _factor(coarse: Size, fine: Size, name: str) -> int:
    factor = max(1, round(fine[2] / coarse[2]))
    if any(n * factor != m for n, m in zip(coarse, fine, strict=True)):
        raise DataError(
            f"{name}: the enhanced volume has {list(fine)} voxels, not a multiple of the "
            f"input's {list(coarse)}; give the input it was made from"
        )
    return factor
