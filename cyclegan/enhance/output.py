"""The HDF5 file that an enhancement writes: chunks, attributes, and what silx shows at once.

```
/data                 (fZ, fY, fX), (C, fZ, fY, fX) or a series (T, fZ, fY, fX), float32
/trust/...            the operator's other outputs, on their own grids
/entry                NXentry, default of the file
/entry/enhanced       NXdata, default of the entry: signal `data` (a link), axes z, y, x in um
/entry/trust_cycle    NXdata of `trust/cycle`, and so on
```

Axes are there if the input says its voxel size. They count from the input volume's first face to
the middle of a voxel, so that input, output and maps of any resolution lie on each other. NeXus:
https://manual.nexusformat.org/classes/base_classes/NXdata.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import h5py
import numpy as np

from cyclegan.enhance.grid import Grid
from cyclegan.enhance.partial import Compression, Layout
from cyclegan.enhance.tiling import TileOperator

_CHUNK = 64
"""Voxels along an axis of a chunk, at most where a tile can be divided so: 1 MB."""
_SMALL_CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Grid, operator and kind of output: what decides shapes and chunks."""

    grid: Grid
    outputs: Mapping[str, Fraction]
    channels: int
    """Of `data`."""
    frames: int | None
    """Of a series, which is the first axis of every output then."""

    @classmethod
    def of(cls, operator: TileOperator, grid: Grid, frames: int | None = None) -> Plan:
        """For the outputs of an operator."""
        outputs = dict(operator.outputs)
        return cls(grid=grid, outputs=outputs, channels=operator.channels_out, frames=frames)

    def leading(self, name: str) -> tuple[int, ...]:
        """Axes before Z: frame, channel, or none."""
        channels = self.channels if name == "data" else 1
        return (*([self.frames] if self.frames else []), *([channels] if channels > 1 else []))

    def layouts(self, compression: Compression) -> dict[str, Layout]:
        """Shape and chunks of every output; a chunk lies in one tile."""
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
    """Write the attributes and the NXdata groups of an output whose datasets are there."""
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
    """A chunk's length: a divisor of the core's; anything where one tile is all of the axis."""
    if count == 1:
        return math.ceil(length / math.ceil(length / _CHUNK))
    divisors = [n for n in range(1, core + 1) if core % n == 0]
    fitting = max(n for n in divisors if n <= _CHUNK)
    if fitting < _SMALL_CHUNK:  # e.g. twice a prime
        fitting = min(n for n in divisors if n >= min(_SMALL_CHUNK, core))
    return min(fitting, length)
