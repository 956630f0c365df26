"""Applying an operator to a volume tile by tile, with the result of one pass over all of it.

The *padded* volume is the volume continued at its far faces by its last voxel up to a multiple of
the operator's alignment. One pass over it, cut to ceil(factor x shape), is the truth. A tile is a
window of the padded volume that holds its core and the halo the core's result depends on:

```
padded volume   0 ─────────────────────────────────────────────────── n
cores           │    core 0    │    core 1    │    core 2    │ core 3 │
window of 1          ├─ halo ──┤core 1├── halo ─┤
window of 3                                  ├─── wider halo ──┤core 3│
```

Windows start at multiples of the alignment, so that pooling falls on the same voxels, and end where
the padded volume ends, so that a network pads there as it does in one pass. All windows of a volume
have one shape (at the faces the halo is wider than need be): kernels and compiled code are chosen
by shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan.errors import UsageError

Size = tuple[int, int, int]
Window = tuple[slice, slice, slice]
Read = Callable[[Size, Size], NDArray[Any]]
"""(origin, size) in voxels -> (C, z, y, x), inside the volume."""


class TileOperator(Protocol):
    """Anything that maps a window of a volume to one or more images; lengths in input voxels.

    It must be local and blind to position: an output voxel depends on the input voxels within the
    halo around it and on nothing else but where the padded volume ends.
    """

    @property
    def alignment(self) -> int:
        """Origins and sizes of windows are multiples of it; so is each output's 1 / factor."""

    @property
    def halo_left(self) -> int:
        """Input voxels needed before the first of a core; a multiple of the alignment."""

    @property
    def halo_right(self) -> int:
        """Input voxels needed after the last of a core; a multiple of the alignment."""

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        """Output voxels per input voxel by name; `data` is the image itself and comes first."""

    @property
    def channels_in(self) -> int:
        """Channels of the input."""

    @property
    def channels_out(self) -> int:
        """Channels of `data`; every other output has one."""

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        """Map (1, C, z, y, x) on the CPU to (1, C', fz, fy, fx) for each output, on any device."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in input voxels: what is read, and which part of it is the core."""

    start: int
    end: int
    core_start: int
    core_end: int


@dataclass(frozen=True)
class Tile:
    """One window and its core, along Z, Y, X."""

    index: int
    spans: tuple[Span, Span, Span]

    @property
    def origin(self) -> Size:
        """First voxel of the window."""
        z, y, x = (s.start for s in self.spans)
        return z, y, x

    @property
    def size(self) -> Size:
        """Voxels of the window, in the padded volume."""
        z, y, x = (s.end - s.start for s in self.spans)
        return z, y, x

    def inner(self, factor: Fraction, shape: Size) -> Window:
        """Where the core lies in the operator's output of this window."""
        z, y, x = (
            slice(int((s.core_start - s.start) * factor), int((end - s.start) * factor))
            for s, end in zip(self.spans, self._ends(factor, shape), strict=True)
        )
        return z, y, x

    def outer(self, factor: Fraction, shape: Size) -> Window:
        """Where the core lies in the output volume; `shape` is the input's."""
        z, y, x = (
            slice(int(s.core_start * factor), int(end * factor))
            for s, end in zip(self.spans, self._ends(factor, shape), strict=True)
        )
        return z, y, x

    def _ends(self, factor: Fraction, shape: Size) -> Iterator[Fraction]:
        # In output voxels the volume ends at ceil(factor x shape), before the padding does.
        for span, length in zip(self.spans, shape, strict=True):
            yield min(Fraction(span.core_end), math.ceil(length * factor) / factor)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The tiles that cover a volume.

    Errors: `UsageError` if `core` is no multiple of the alignment.
    """

    shape: Size
    """Of the volume, (Z, Y, X) in voxels."""
    core: Size
    """Of a tile in voxels; the last one along an axis may be smaller."""
    alignment: int
    halo_left: int
    halo_right: int

    @classmethod
    def of(cls, operator: TileOperator, shape: Size, core: Size | None = None) -> Grid:
        """The grid of an operator over a volume; without `core` a single tile is all of it."""
        alignment = operator.alignment
        if core and any(n < 1 or n % alignment for n in core):
            raise UsageError(
                f"--tile {','.join(map(str, core))}: this network needs multiples of {alignment}"
            )
        padded = [_up(n, alignment) for n in shape]
        z, y, x = (min(c, p) for c, p in zip(core or padded, padded, strict=True))
        return cls(
            shape=shape,
            core=(z, y, x),
            alignment=alignment,
            halo_left=operator.halo_left,
            halo_right=operator.halo_right,
        )

    @property
    def window(self) -> Size:
        """Voxels of every window."""
        halo = self.halo_left + self.halo_right
        z, y, x = (
            p if c >= p else min(c + halo, p) for c, p in zip(self.core, self.padded, strict=True)
        )
        return z, y, x

    @property
    def padded(self) -> Size:
        """Shape of the padded volume."""
        z, y, x = (_up(n, self.alignment) for n in self.shape)
        return z, y, x

    @property
    def counts(self) -> Size:
        """Tiles along Z, Y, X."""
        z, y, x = (-(-n // c) for n, c in zip(self.shape, self.core, strict=True))
        return z, y, x

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        """All tiles, Z slowest."""
        z, y, x = (list(self._spans(axis)) for axis in range(3))
        for index, spans in enumerate(itertools.product(z, y, x)):
            yield Tile(index, spans)

    def _spans(self, axis: int) -> Iterator[Span]:
        core, window, padded = self.core[axis], self.window[axis], self.padded[axis]
        for start in range(0, self.shape[axis], core):
            first = min(max(start - self.halo_left, 0), padded - window)
            yield Span(first, first + window, start, min(start + core, padded))


def output_shape(shape: Size, factor: Fraction) -> Size:
    """Shape of an output volume: factor x input, rounded up."""
    z, y, x = (math.ceil(n * factor) for n in shape)
    return z, y, x


def read_padded(read: Read, tile: Tile, shape: Size) -> NDArray[Any]:
    """The window of a tile, (C, z, y, x), continued by the last voxel where the volume ends."""
    z, y, x = (min(s.end, n) - s.start for s, n in zip(tile.spans, shape, strict=True))
    patch = read(tile.origin, (z, y, x))
    missing = [(0, n - have) for n, have in zip(tile.size, (z, y, x), strict=True)]
    if any(after for _, after in missing):
        patch = np.pad(patch, [(0, 0), *missing], mode="edge")
    return np.ascontiguousarray(patch)


def run_tile(
    operator: TileOperator, read: Read, tile: Tile, shape: Size
) -> dict[str, NDArray[Any]]:
    """The cores (C', z, y, x) of all outputs of one tile; they belong at `tile.outer(...)`."""
    patch = torch.from_numpy(read_padded(read, tile, shape))[None]
    with torch.inference_mode():
        images = operator(patch)
        del patch
        return {
            name: images[name][0][(slice(None), *tile.inner(factor, shape))].cpu().numpy()
            for name, factor in operator.outputs.items()
        }


def apply_tiled(
    operator: TileOperator, volume: NDArray[Any], core: Size | None = None
) -> dict[str, NDArray[Any]]:
    """All outputs (C', fZ, fY, fX) of a volume (C, Z, Y, X) or (Z, Y, X) held in memory.

    Without `core` in one pass over the padded volume. The dtype is the operator's.
    """
    if volume.ndim == 3:
        volume = volume[None]
    shape: Size = (volume.shape[1], volume.shape[2], volume.shape[3])

    def read(origin: Size, size: Size) -> NDArray[Any]:
        window = tuple(slice(o, o + n) for o, n in zip(origin, size, strict=True))
        part: NDArray[Any] = volume[(slice(None), *window)]
        return part

    results: dict[str, NDArray[Any]] = {}
    for tile in Grid.of(operator, shape, core):
        for name, image in run_tile(operator, read, tile, shape).items():
            factor = operator.outputs[name]
            if name not in results:
                full = (image.shape[0], *output_shape(shape, factor))
                results[name] = np.empty(full, dtype=image.dtype)
            results[name][(slice(None), *tile.outer(factor, shape))] = image
    return results


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
