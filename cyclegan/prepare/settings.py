"""Settings of a preparation, its result, and the fingerprint of its inputs and settings."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclegan.data.blocks import Size
from cyclegan.data.grey_levels import GreyLevels
from cyclegan.data.statistics import Statistics
from cyclegan.data.voxel_size import VoxelSize, as_voxel_size
from cyclegan.errors import DataError, UsageError
from cyclegan.prepare.partial import Compression
from cyclegan.prepare.region import SLAB_VOXELS, WHOLE, Roi
from cyclegan.prepare.source import Source

Dtype = Literal["float16", "float32"]
_VERSION = 4
"""Version of the output; increase it when the same input and settings give another file."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a preparation."""

    roi: Roi = WHOLE
    dtype: Dtype = "float16"
    compression: Compression = "none"
    standardise: bool = True
    voxel_size_um: VoxelSize | None = None
    """Voxel size (z, y, x) that overrides the input's."""
    no_data: float | None = None
    """Value of voxels without data; by default a value far from all others, if there is one."""
    slab_voxels: int = SLAB_VOXELS


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """Result for one volume."""

    source: str
    output: Path
    picture: Path | None
    shape: Size
    dtype: Dtype
    voxel_size_um: VoxelSize | None
    statistics: Statistics
    """Statistics of the voxels that count, before standardisation."""
    minimum: float
    maximum: float
    percentiles: dict[int, float]
    """Percent -> intensity before standardisation."""
    clipped: int
    """Voxels beyond the range of `dtype`, set to its limit."""
    lost_levels: GreyLevels | None
    """Grey levels of a sample if many were lost in what was stored, else None."""
    slabs: int
    slabs_written: int
    """Slabs that this call wrote; fewer than `slabs` if an earlier call wrote the others."""
    seconds: float


def fingerprint(source: Source, settings: Settings) -> str:
    """Return a hash of the settings and of the names, sizes and times of the source's files.

    Errors: `DataError` if one of the files is gone.
    """
    try:
        stats = [(path, path.stat()) for path in source.files]
    except OSError as error:
        raise DataError(f"{source.name}: one of its files is gone: {error}") from error
    files = [(os.path.realpath(path), s.st_size, s.st_mtime_ns) for path, s in stats]
    content = [_VERSION, source.name, files, vars(settings)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse_voxel_size(text: str) -> VoxelSize:
    """Parse `0.8` or `1.6,0.8,0.8` (z, y, x), in micrometres. Errors: `UsageError`."""
    parts = text.split(",")
    size = as_voxel_size(parts) if len(parts) in (1, 3) else None
    if size is None:
        raise UsageError(
            f"--voxel-size {text}: give one positive length in micrometres, or three (z,y,x), "
            "e.g. 0.8 or 1.6,0.8,0.8"
        )
    return size


def voxel_size_text(size: VoxelSize | None) -> str:
    """Return `0.8 um`, `1.6 x 0.8 x 0.8 um (z, y, x)` or `unknown`."""
    if size is None:
        return "unknown"
    if len({f"{n:.4g}" for n in size}) == 1:
        return f"{size[0]:.4g} um"
    return " x ".join(f"{n:.4g}" for n in size) + " um (z, y, x)"
