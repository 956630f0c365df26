"""What an enhancement's result depends on: by it an output, or the start of one, is known again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import torch

from cyclegan.data import Size, Volume
from cyclegan.enhance.grid import Grid, Region
from cyclegan.enhance.partial import Compression, described_job
from cyclegan.enhance.tiling import TileOperator

ATTRIBUTE = "job"
"""Of the output's `data`: the digest of what made it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Operator, input and settings, without the tile size, which may be chosen by the memory.

    `identity` tells the operator's weights and settings from others; without one, of the operator
    or given here, every job is another one.
    """

    operator: TileOperator
    identity: str | None
    volumes: Sequence[Volume]
    region: Region | None
    compression: Compression
    scale: tuple[float, float]
    _unknown: int = field(default_factory=time.time_ns)

    def grid(self, core: Size) -> Grid:
        """The grid of tiles with a core of so many voxels."""
        return Grid.of(self.operator, self.volumes[0].shape, core, self.region)

    def content(self, grid: Grid) -> dict[str, Any]:
        """All that the result depends on, as JSON."""
        own = getattr(self.operator, "identity", None)
        content = {
            "model": self.identity or own or f"unknown {self._unknown}",
            "inputs": [_described(volume) for volume in self.volumes],
            "outputs": {name: str(f) for name, f in self.operator.outputs.items()},
            "region": grid.region,
            "tile": grid.core,
            "window": grid.window,
            "compression": self.compression,
            "scale": self.scale,
            "torch": torch.__version__,
        }
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def digest(self, grid: Grid) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(json.dumps(self.content(grid)).encode()).hexdigest()

    def started(self, output: Path) -> Grid | None:
        """The grid of the finished tiles of `output`, if they are of this job."""
        found = described_job(output)
        grid = self._grid_of(found.get("tile"))
        return grid if grid is not None and self.content(grid) == found else None

    def made(self, output: Path) -> Grid | None:
        """The grid with which this job made `output`, if it did."""
        try:
            with h5py.File(output, "r") as file:
                attributes = dict(file["data"].attrs)
        except (OSError, KeyError):
            return None
        grid = self._grid_of(attributes.get("tile"))
        return grid if grid and self.digest(grid) == attributes.get(ATTRIBUTE) else None

    def attributes(self, grid: Grid) -> dict[str, Any]:
        """For the output's `data`: what was done to which grey values."""
        first = self.volumes[0]
        return {
            "tile": list(grid.core),
            "roi": [list(limits) for limits in grid.region],
            "source": f"{first.entry.path}:{first.entry.dset}",
            "input_mean": first.statistics.mean,
            "input_std": first.statistics.std,
            "input_standardised_on_load": (first.mean, first.std) != (0.0, 1.0),
            "input_measured_on": " ".join(first.scan.regions),
            "offset": self.scale[0],
            "factor": self.scale[1],
            "software": f"cyclegan3d {_version()}, torch {torch.__version__}",
            **getattr(self.operator, "attributes", {}),
            ATTRIBUTE: self.digest(grid),
        }

    def _grid_of(self, tile: Any) -> Grid | None:
        if tile is None or len(tile) != 3 or any(int(n) % self.operator.alignment for n in tile):
            return None
        return self.grid((int(tile[0]), int(tile[1]), int(tile[2])))


def _described(volume: Volume) -> dict[str, Any]:
    stat = volume.entry.path.stat()
    return {
        "path": str(volume.entry.path.resolve()),
        "dataset": volume.entry.dset,
        "roi": volume.entry.roi,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "mean": volume.mean,
        "std": volume.std,
    }


def _version() -> str:
    try:
        return importlib.metadata.version("cyclegan3d")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
