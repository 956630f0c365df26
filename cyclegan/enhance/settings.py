"""The settings of an enhancement, which one process and all shards of a volume share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cyclegan.enhance.chunks import Compression
from cyclegan.enhance.grid import Region, Size


@dataclass(frozen=True, kw_only=True)
class EnhanceSettings:
    """Settings of `enhance_file` and `enhance_shard`."""

    tile: Size | None = None
    """Core of a tile in voxels; by default the fastest that fits into `memory_gb`."""
    region: Region | None = None
    """[start, end) in input voxels along Z, Y, X; only that part of the result is made."""
    memory_gb: float | None = None
    """Peak memory of the process on a CPU, of the GPU on a GPU; by default a share of the free
    memory."""
    device: torch.device | str = "cpu"
    """Device of a network; its memory limits the tile."""
    compression: Compression = "gzip"
    """Compression of the output."""
    scale: tuple[float, float] = (0.0, 1.0)
    """(offset, factor): `data` is written as offset + factor x image."""
    overwrite: bool = False
    """Replace an output that exists."""
    identity: str | None = None
    """Text that identifies the operator's weights and settings; a network or a `Generator` has its
    own. Without one nothing is resumed."""


DEFAULT = EnhanceSettings()
