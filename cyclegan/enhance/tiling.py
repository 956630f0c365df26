"""Apply an operator to a volume tile by tile, with the result of one pass over all of it.

`grid.py` explains how a volume is cut, and what the *padded* volume is. The tiles reproduce one
pass over the padded volume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan.enhance.grid import Grid, Region, Size, Tile, TileOperator, Window, output_shape
from cyclegan.errors import CycleGANError

logger = logging.getLogger(__name__)
__all__ = [
    "Grid",
    "Read",
    "Region",
    "Size",
    "Tile",
    "TileOperator",
    "Window",
    "apply_tiled",
    "output_shape",
    "read_padded",
    "run_tile",
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


def run_tile(operator: TileOperator, read: Read, tile: Tile, grid: Grid) -> dict[str, NDArray[Any]]:
    """Return the cores (C', z, y, x) of all outputs of one tile; `grid.outer(...)` is their place.

    If memory runs out, the core is put together from smaller tiles: slower, with the same result.
    """
    cores = _attempt(operator, read, tile, grid)
    if cores is not None:
        return cores
    smaller = grid.within(tile)
    if smaller is None:
        raise CycleGANError(
            f"a tile of {list(tile.size)} voxels does not fit into memory and can't be made "
            "smaller; free some memory, or take a smaller network or another device"
        )
    logger.warning("a tile of %s voxels does not fit into memory; halving it", list(tile.size))
    return _assembled(operator, read, smaller)


def _attempt(
    operator: TileOperator, read: Read, tile: Tile, grid: Grid
) -> dict[str, NDArray[Any]] | None:
    """Return the cores as `run_tile`, or free the memory and return None if it did not suffice."""
    patch = torch.from_numpy(read_padded(read, tile, grid.shape))[None]
    try:
        with torch.inference_mode():
            images = operator(patch)
            return {
                name: images[name][0][(slice(None), *grid.inner(tile, factor))].cpu().numpy()
                for name, factor in operator.outputs.items()
            }
    except RuntimeError as error:
        full = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _assembled(operator: TileOperator, read: Read, grid: Grid) -> dict[str, NDArray[Any]]:
    results: dict[str, NDArray[Any]] = {}
    for tile in grid:
        for name, image in run_tile(operator, read, tile, grid).items():
            factor = operator.outputs[name]
            if name not in results:
                full = (image.shape[0], *grid.output_shape(factor))
                results[name] = np.empty(full, dtype=image.dtype)
            results[name][(slice(None), *grid.outer(tile, factor))] = image
    return results


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
    return _assembled(operator, read, Grid.of(operator, shape, core, region))
