"""How volumes are prepared, and what became of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclegan.errors import DataError
from cyclegan.prepare.layout import Compression
from cyclegan.prepare.region import SLAB_VOXELS, WHOLE, Roi, Size
from cyclegan.prepare.source import Source
from cyclegan.prepare.units import VoxelSize

Dtype = Literal["float16", "float32"]
_VERSION = 1
"""Changes when the same input and settings give another file."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How volumes are prepared."""

    roi: Roi = WHOLE
    dtype: Dtype = "float16"
    compression: Compression = "none"
    standardise: bool = True
    voxel_size_um: VoxelSize | None = None
    """Overrides what the input says."""
    slab_voxels: int = SLAB_VOXELS


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What became of one volume."""

    source: str
    output: Path
    picture: Path
    shape: Size
    dtype: Dtype
    voxel_size_um: VoxelSize | None
    mean: float
    std: float
    minimum: float
    maximum: float
    percentiles: dict[int, float]
    """Percent -> intensity before standardisation."""
    non_finite: int
    clipped: int
    """Voxels beyond the range of `dtype`, set to its end."""
    slabs: int
    slabs_written: int
    """Fewer than `slabs` if the rest was there from an earlier call."""
    seconds: float


def fingerprint(source: Source, settings: Settings) -> str:
    """Changes with the settings and with the names, sizes and times of the source's files.

    Errors: `DataError` if one of them is gone.
    """
    try:
        stats = [(path, path.stat()) for path in source.files]
    except OSError as error:
        raise DataError(f"{source.name}: a file of it is gone: {error}") from error
    files = [(str(path.resolve()), s.st_size, s.st_mtime_ns) for path, s in stats]
    options = {key: value for key, value in vars(settings).items() if key != "slab_voxels"}
    content = [_VERSION, source.name, files, options, settings.slab_voxels]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
