"""Regions of interest, and the blocks in which a volume is streamed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from cyclegan.data.blocks import Size
from cyclegan.errors import DataError, UsageError
from cyclegan.numbers import ceil_div

Range = tuple[int, int]
Region = tuple[Range, Range, Range]
Open = tuple[int | None, int | None]
"""A range in which either end may be omitted."""
Roi = tuple[Open, Open, Open]

WHOLE: Roi = ((None, None), (None, None), (None, None))
SLAB_VOXELS = 1 << 23
"""Voxels read at once: 32 MB of float32."""
_MOST_SLABS = 8
"""Limit on the size of a block as a multiple of `SLAB_VOXELS`, whatever the source's chunks are."""


@dataclass(frozen=True)
class Block:
    """A part of a region that is read at once, in voxels of the source; it spans all of X."""

    z: Range
    y: Range


def parse_range(text: str, option: str) -> Open:
    """Parse `10:50`, `10:`, `:50` or `:` as [start, end). Errors: `UsageError`."""
    parts = text.split(":")
    if len(parts) != 2 or not all(p.strip() == "" or p.strip().isdecimal() for p in parts):
        raise UsageError(f"{option}: '{text}' is not a range; give start:end, e.g. 10:50")
    start, end = (int(p) if p.strip() else None for p in parts)
    if end is not None and (start or 0) >= end:
        raise UsageError(f"{option}: '{text}' is empty; the end must be greater than the start")
    return start, end


def parse_roi(text: str) -> Roi:
    """Parse `z0:z1,y0:y1,x0:x1`; an omitted end is that of the volume. Errors: `UsageError`."""
    parts = text.split(",")
    if len(parts) != 3:
        raise UsageError(f"--roi {text}: give three ranges, e.g. 0:100,50:250,50:250 or 10:,:,:")
    z, y, x = (parse_range(part, f"--roi {text}") for part in parts)
    return z, y, x


def resolve(roi: Roi, shape: Size, name: str) -> Region:
    """Return the region in voxels. Errors: `DataError` if it ends beyond the volume `name`."""
    z, y, x = (
        _resolve_axis(limits, length, axis, name)
        for limits, length, axis in zip(roi, shape, "ZYX", strict=True)
    )
    return z, y, x


def _resolve_axis(limits: Open, length: int, axis: str, name: str) -> Range:
    start, end = limits[0] or 0, length if limits[1] is None else limits[1]
    if end > length or start >= length:
        raise DataError(
            f"{name}: --roi {start}:{end} along {axis} ends beyond the {length} voxels there"
        )
    return start, end


def size_of(region: Region) -> Size:
    """Return the size (Z, Y, X) of a region in voxels."""
    z, y, x = (end - start for start, end in region)
    return z, y, x


def blocks(region: Region, grain: Range, slab_voxels: int = SLAB_VOXELS) -> list[Block]:
    """Return blocks that cover `region`, Z first, of about `slab_voxels` voxels each.

    `grain` is the unit in which the source reads along Z and Y (pages, chunks). Blocks end where
    grains end, so that no grain is unpacked twice, unless one alone is many times `slab_voxels`.
    """
    _, height, width = size_of(region)
    grain_z, grain_y = grain
    if grain_z * height * width <= slab_voxels:
        depth, rows = grain_z * (slab_voxels // (grain_z * height * width)), height
    else:
        rows = grain_y * max(1, slab_voxels // (grain_z * grain_y * width))
        depth = min(grain_z, max(1, _MOST_SLABS * slab_voxels // (min(rows, height) * width)))
    (z, y, _) = region
    if rows >= height:
        return [Block(part, y) for part in _cut(z, depth, grain_z)]
    return [Block(a, b) for a in _cut(z, depth, grain_z) for b in _cut(y, rows, grain_y)]


def _cut(limits: Range, step: int, grain: int) -> list[Range]:
    start, end = limits
    aligned = start - start % grain if step % grain == 0 else start
    cuts = [start, *(n for n in range(aligned + step, end, step)), end]
    return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def spots(region: Region, count: int, voxels: int) -> list[Block]:
    """Return `count` blocks of one plane each from all over `region`, of `voxels` voxels in all.

    They hold at least one row each, and at most what the region has.
    """
    (z, end), (y, last), _ = region
    _, height, width = size_of(region)
    rows = min(ceil_div(voxels, count * width), height)
    planes = np.linspace(z, end - 1, count).round().astype(int).tolist()
    starts = np.linspace(y, last - rows, count).round().astype(int).tolist()
    return [
        Block((plane, plane + 1), (start, start + rows))
        for plane, start in zip(planes, starts, strict=True)
    ]


def chunk_shape(shape: Size, side: int = 64) -> Size:
    """Return a chunk shape of at most `side` voxels a side that divides `shape` nearly evenly."""
    z, y, x = (ceil_div(n, ceil_div(n, side)) for n in shape)
    return z, y, x
