"""The HDF5 file that an enhancement writes: layout, attributes, and the job that made it.

```
/data                 (fZ, fY, fX), (C, fZ, fY, fX) or a series (T, fZ, fY, fX), float32
/trust/...            the operator's other outputs, on their own grids
/entry                NXentry, default of the file
/entry/enhanced       NXdata, default of the entry: signal `data` (a link), axes z, y, x in um
/entry/trust_cycle    NXdata of `trust/cycle`, and so on
```

silx shows the default image at once. Axes are there if the input states its voxel size. They give
the distance from the input volume's first face to the middle of each voxel, so that input, output
and maps of any resolution coincide. NeXus:
https://manual.nexusformat.org/classes/base_classes/NXdata.html
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from cyclegan.data import Size, Volume
from cyclegan.enhance.chunks import Compression
from cyclegan.enhance.grid import Grid, Region, TileOperator
from cyclegan.enhance.partial import Layout, described_job
from cyclegan.numbers import ceil_div

_CHUNK = 64
"""Most voxels along an axis of a chunk, if a tile can be divided so: 1 MB."""
_SMALL_CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Grid, outputs and frames of an enhancement, which define shapes and chunks."""

    grid: Grid
    outputs: Mapping[str, Fraction]
    channels: int
    """Number of channels of `data`."""
    frames: int | None
    """Number of frames of a series, the first axis of every output then; None for one volume."""

    @classmethod
    def of(cls, operator: TileOperator, grid: Grid, frames: int | None = None) -> Plan:
        """Return the plan for the outputs of an operator."""
        outputs = dict(operator.outputs)
        return cls(grid=grid, outputs=outputs, channels=operator.channels_out, frames=frames)

    def leading(self, name: str) -> tuple[int, ...]:
        """Return the lengths of the axes before Z: frame, channel, both or none."""
        channels = self.channels if name == "data" else 1
        return (*([self.frames] if self.frames else []), *([channels] if channels > 1 else []))

    def layouts(self, compression: Compression) -> dict[str, Layout]:
        """Return shape and chunks of every output; each chunk lies in one tile."""
        result = {}
        for name, factor in self.outputs.items():
            leading, shape = self.leading(name), self.grid.output_shape(factor)
            chunks = (
                _chunk(n, int(core * factor), count)
                for n, core, count in zip(shape, self.grid.core, self.grid.counts, strict=True)
            )
            result[name] = Layout(
                shape=(*leading, *shape),
                chunks=(*(1 for _ in leading), *chunks),
                compression=compression,
            )
        return result


def describe(
    file: h5py.File,
    plan: Plan,
    *,
    voxel_size_um: Sequence[float] | None,
    attributes: Mapping[str, Any],
) -> None:
    """Write the attributes and the NXdata groups of an output whose datasets exist."""
    file.attrs.update({"NX_class": "NXroot", "default": "entry"})
    entry = file.create_group("entry")
    entry.attrs.update({"NX_class": "NXentry", "default": "enhanced"})
    for name, factor in plan.outputs.items():
        dataset = file[name]
        group = entry.create_group("enhanced" if name == "data" else name.replace("/", "_"))
        signal = name.rsplit("/", 1)[-1]
        group[signal] = dataset
        group.attrs.update({"NX_class": "NXdata", "signal": signal})
        if voxel_size_um is not None:
            size = np.asarray(voxel_size_um, dtype=np.float64) / float(factor)
            dataset.attrs["voxel_size_um"] = size
            _write_axes(group, plan, factor, size, dataset)
    for key, value in attributes.items():
        file["data"].attrs[key] = value


def _write_axes(
    group: h5py.Group, plan: Plan, factor: Fraction, size: Any, dataset: h5py.Dataset
) -> None:
    for axis, (name, length) in enumerate(zip("zyx", dataset.shape[-3:], strict=True)):
        first = int(plan.grid.region[axis][0] * factor)
        group[name] = (first + np.arange(length) + 0.5) * size[axis]
        group[name].attrs["units"] = "um"
    leading = [".", "."][: dataset.ndim - 3]
    group.attrs["axes"] = [*leading, "z", "y", "x"]


def _chunk(length: int, core: int, count: int) -> int:
    """Return a chunk's length: a divisor of the core's; any if one tile covers the axis."""
    if count == 1:
        return ceil_div(length, ceil_div(length, _CHUNK))
    divisors = [n for n in range(1, core + 1) if core % n == 0]
    fitting = max(n for n in divisors if n <= _CHUNK)
    if fitting < _SMALL_CHUNK:  # e.g. twice a prime
        fitting = min(n for n in divisors if n >= min(_SMALL_CHUNK, core))
    return min(fitting, length)


# -- The job of an enhancement, which identifies finished and partial outputs ------------------

ATTRIBUTE = "job"
"""Name of the attribute of `data` that holds the digest of the job that made it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Operator, input and settings, without the tile size, which may depend on the memory.

    `identity` identifies the operator's weights and settings. If neither the operator nor the
    caller gives one, every job counts as a new one.
    """

    operator: TileOperator
    identity: str | None
    volumes: Sequence[Volume]
    region: Region | None
    compression: Compression
    scale: tuple[float, float]
    _unknown: int = field(default_factory=time.time_ns)

    def grid(self, core: Size) -> Grid:
        """Return the grid of tiles with a core of `core` voxels."""
        return Grid.of(self.operator, self.volumes[0].shape, core, self.region)

    def content(self, grid: Grid) -> dict[str, Any]:
        """Return everything that the result depends on, as plain JSON types."""
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
        """Return the SHA-256 of the content."""
        return hashlib.sha256(json.dumps(self.content(grid)).encode()).hexdigest()

    def started(self, output: Path) -> Grid | None:
        """Return the grid of the finished tiles of `output` if this job made them, else None."""
        found = described_job(output)
        grid = self._grid_of(found.get("tile"))
        return grid if grid is not None and self.content(grid) == found else None

    def made(self, output: Path) -> Grid | None:
        """Return the grid with which this job made `output`, or None if it did not."""
        try:
            with h5py.File(output, "r") as file:
                attributes = dict(file["data"].attrs)
        except (OSError, KeyError):
            return None
        grid = self._grid_of(attributes.get("tile"))
        return grid if grid and self.digest(grid) == attributes.get(ATTRIBUTE) else None

    def attributes(self, grid: Grid) -> dict[str, Any]:
        """Return the attributes of the output's `data`: what was done to which grey values."""
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
