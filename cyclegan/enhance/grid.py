"""Cut a volume into tiles that give the result of one pass over all of it.

The *padded* volume is the volume extended at its far faces, by repeating its last voxels, to a
multiple of the operator's alignment. One pass over it, cut to ceil(factor x shape), is the truth. A
tile is a window of the padded volume that holds its core and the halo on which the core's result
depends:

```
padded volume   0 ─────────────────────────────────────────────────── n
cores           │    core 0    │    core 1    │    core 2    │ core 3 │
window of 1          ├─ halo ──┤core 1├── halo ─┤
window of 3                                  ├─── wider halo ──┤core 3│
```

Windows start at multiples of the alignment, so that pooling falls on the same voxels, and end no
later than the padded volume, so that a network pads there as it does in one pass. Cores may start
anywhere, as those of a region of interest do; the halo is read from around the region. All windows
of a volume have the same shape (at the faces the halo is wider than needed), because kernels and
compiled code are chosen by shape.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor

from cyclegan.errors import UsageError
from cyclegan.numbers import ceil_div, round_up

Size = tuple[int, int, int]
Region = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in input voxels: the window that is read, and the core in it."""

    start: int
    end: int
    core_start: int
    core_end: int


@dataclass(frozen=True)
class Tile:
    """One window and its core along Z, Y, X."""

    index: int
    spans: tuple[Span, Span, Span]

    @property
    def origin(self) -> Size:
        """First voxel of the window."""
        z, y, x = (s.start for s in self.spans)
        return z, y, x

    @property
    def size(self) -> Size:
        """Shape of the window, in voxels of the padded volume."""
        z, y, x = (s.end - s.start for s in self.spans)
        return z, y, x


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The tiles that cover a region of a volume; lengths in voxels along Z, Y, X."""

    shape: Size
    """Shape of the whole volume."""
    region: Region
    """[start, end) of the region along each axis."""
    core: Size
    """Core of a tile; the last one along an axis may be smaller."""
    alignment: int
    halo_left: int
    halo_right: int

    @classmethod
    def of(
        cls,
        operator: TileOperator,
        shape: Size,
        core: Size | None = None,
        region: Region | None = None,
    ) -> Grid:
        """Return the grid of an operator over a volume; without `core`, one tile covers it all.

        A region is widened to whole voxels of all outputs.

        Errors: `UsageError` if `core` is not a multiple of the alignment.
        """
        alignment = operator.alignment
        if core and any(n < 1 or n % alignment for n in core):
            raise UsageError(
                f"--tile {','.join(map(str, core))}: this network needs multiples of {alignment}"
            )
        voxel = math.lcm(*(f.denominator for f in operator.outputs.values()))
        z, y, x = (
            (first // voxel * voxel, min(round_up(end, voxel), length))
            for (first, end), length in zip(region or [(0, n) for n in shape], shape, strict=True)
        )
        lengths = [round_up(end, alignment) - first for first, end in (z, y, x)]
        return cls(
            shape=shape,
            region=(z, y, x),
            core=_size(
                min(c, round_up(n, alignment))
                for c, n in zip(core or lengths, lengths, strict=True)
            ),
            alignment=alignment,
            halo_left=operator.halo_left,
            halo_right=operator.halo_right,
        )

    @property
    def padded(self) -> Size:
        """Shape of the padded volume."""
        return _size(round_up(n, self.alignment) for n in self.shape)

    @property
    def window(self) -> Size:
        """Shape of every tile's window."""
        return _size(self._window(axis) for axis in range(3))

    @property
    def counts(self) -> Size:
        """Number of tiles along each axis."""
        return _size(
            ceil_div(end - first, c) for (first, end), c in zip(self.region, self.core, strict=True)
        )

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles, Z slowest."""
        z, y, x = (list(self._spans(axis)) for axis in range(3))
        for index, spans in enumerate(itertools.product(z, y, x)):
            yield Tile(index, spans)

    def output_shape(self, factor: Fraction) -> Size:
        """Return the shape of the region in an output of this factor."""
        return _size(math.ceil(end * factor) - int(first * factor) for first, end in self.region)

    def inner(self, tile: Tile, factor: Fraction) -> Window:
        """Return the place of a tile's core in the operator's output of its window."""
        z, y, x = (
            slice(int((s.core_start - s.start) * factor), int((end - s.start) * factor))
            for s, end in self._ends(tile, factor)
        )
        return z, y, x

    def outer(self, tile: Tile, factor: Fraction) -> Window:
        """Return the place of a tile's core in the output of the region."""
        z, y, x = (
            slice(int((s.core_start - first) * factor), int((end - first) * factor))
            for (first, _), (s, end) in zip(self.region, self._ends(tile, factor), strict=True)
        )
        return z, y, x

    def within(self, tile: Tile) -> Grid | None:
        """Return a grid that halves a core along its longest axis; None if it can't be cut."""
        lengths = [s.core_end - s.core_start for s in tile.spans]
        longest = lengths.index(max(lengths))
        half = round_up(ceil_div(lengths[longest], 2), self.alignment)
        if half >= lengths[longest]:
            return None
        core = _size(half if axis == longest else n for axis, n in enumerate(lengths))
        z, y, x = (
            (s.core_start, min(s.core_end, n)) for s, n in zip(tile.spans, self.shape, strict=True)
        )
        return dataclasses.replace(self, region=(z, y, x), core=core)

    def _ends(self, tile: Tile, factor: Fraction) -> Iterator[tuple[Span, Fraction]]:
        # In output voxels the volume ends at ceil(factor x shape), before the padding does.
        for span, length in zip(tile.spans, self.shape, strict=True):
            yield span, min(Fraction(span.core_end), math.ceil(length * factor) / factor)

    def _window(self, axis: int) -> int:
        return max(
            min(round_up(end, self.alignment) + self.halo_right, self.padded[axis])
            - max(_down(start, self.alignment) - self.halo_left, 0)
            for start, end in self._cores(axis)
        )

    def _cores(self, axis: int) -> Iterator[tuple[int, int]]:
        (first, end), core = self.region[axis], self.core[axis]
        if end == self.shape[axis]:
            end = self.padded[axis]
        for start in range(first, min(end, self.shape[axis]), core):
            yield start, min(start + core, end)

    def _spans(self, axis: int) -> Iterator[Span]:
        window, padded = self._window(axis), self.padded[axis]
        for start, end in self._cores(axis):
            first = _down(start, self.alignment) - self.halo_left
            first = min(max(first, 0), padded - window)
            yield Span(first, first + window, start, end)


def output_shape(shape: Size, factor: Fraction) -> Size:
    """Return the shape of an output volume: factor x input, rounded up."""
    z, y, x = (math.ceil(n * factor) for n in shape)
    return z, y, x


def _size(lengths: Iterable[int]) -> Size:
    z, y, x = lengths
    return z, y, x


def _down(length: int, multiple: int) -> int:
    return length // multiple * multiple


class TileOperator(Protocol):
    """Anything that maps a window of a volume to one or more images; lengths in input voxels.

    It must be local and independent of position: an output voxel depends only on the input voxels
    within the halo around it, and on where the padded volume ends.
    """

    @property
    def alignment(self) -> int:
        """Divisor of all origins and sizes of windows; a multiple of each output's 1 / factor."""

    @property
    def halo_left(self) -> int:
        """Input voxels needed before the first voxel of a core; a multiple of the alignment."""

    @property
    def halo_right(self) -> int:
        """Input voxels needed after the last voxel of a core; a multiple of the alignment."""

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        """Output voxels per input voxel, by output name; `data`, the image itself, comes first."""

    @property
    def channels_in(self) -> int:
        """Number of channels of the input."""

    @property
    def channels_out(self) -> int:
        """Number of channels of `data`; every other output has one."""

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        """Map (1, C, z, y, x) on the CPU to (1, C', fz, fy, fx) for each output, on any device."""
