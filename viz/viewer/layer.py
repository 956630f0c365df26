"""What the viewer shows: named volumes, and how their grids lie on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from cyclegan.errors import DataError

Triple = tuple[float, float, float]
"""(z, y, x)."""
Kind = Literal["image", "map"]
_KINDS = ("image", "map")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One volume of the page.

    Errors: `DataError` that names the layer if it is no volume of numbers.
    """

    name: str
    data: NDArray[Any]
    """(Z, Y, X), integers, booleans or floats; what is not finite is shown as NaN. What is sliced
    like an array, such as an open HDF5 dataset, will do: only what is shown is read."""
    voxel_size: Triple | None = None
    """(z, y, x) in micrometres. All layers say theirs, or none does: then they cover the same
    space, and the ratio of their sizes is the scale between them."""
    kind: Kind = "image"
    """A `map`, such as doubt, is laid over images."""
    unit: str = ""
    """Of the values, as text."""
    domain: str = ""
    """Images of one domain share a grey scale; an image without one has its own."""

    def __post_init__(self) -> None:
        if not self.name:
            raise DataError("viewer: a layer needs a name")
        if self.data.ndim != 3 or not self.data.size:
            raise DataError(
                f"layer '{self.name}': data of the shape {self.data.shape}; "
                "the viewer shows volumes (Z, Y, X) with at least one voxel"
            )
        if self.data.dtype.kind not in "biuf":
            raise DataError(
                f"layer '{self.name}': values of the type {self.data.dtype}; use floats"
            )
        if self.kind not in _KINDS:
            raise DataError(f"layer '{self.name}': kind is '{self.kind}'; use 'image' or 'map'")
        size = self.voxel_size
        if size is not None and not (
            len(size) == 3 and all(math.isfinite(s) and s > 0 for s in size)
        ):
            raise DataError(
                f"layer '{self.name}': voxel_size is {size}; use three lengths (z, y, x) in um"
            )


def voxel_sizes(layers: Sequence[Layer]) -> tuple[list[Triple], str]:
    """The voxel size of each layer (z, y, x) and its unit: `µm`, or `voxel` of the coarsest layer.

    Errors: `DataError` if layers don't cover the same space; less than a voxel may be
    missing, as a rational scale rounds.
    """
    without = [layer.name for layer in layers if layer.voxel_size is None]
    if without and len(without) < len(layers):
        raise DataError(
            f"layer '{without[0]}' has no voxel_size, but others have; give all of them, or none"
        )
    unit = "voxel" if without else "µm"
    coarsest = min(layers, key=lambda layer: layer.data.size)
    sizes = [layer.voxel_size or _relative(layer, coarsest) for layer in layers]
    for layer, size in zip(layers, sizes, strict=True):
        _check_extent(layer, size, layers[0], sizes[0], unit)
    return sizes, unit


def _relative(layer: Layer, coarsest: Layer) -> Triple:
    """Voxel size in voxels of the coarsest layer, the same along all axes."""
    axis = max(range(3), key=lambda a: coarsest.data.shape[a])
    scale = coarsest.data.shape[axis] / layer.data.shape[axis]
    return scale, scale, scale


def _check_extent(layer: Layer, size: Triple, first: Layer, first_size: Triple, unit: str) -> None:
    for axis, name in enumerate("ZYX"):
        extent = layer.data.shape[axis] * size[axis]
        wanted = first.data.shape[axis] * first_size[axis]
        if abs(extent - wanted) > max(size[axis], first_size[axis]) * (1 - 1e-6):
            raise DataError(
                f"layer '{layer.name}' covers {extent:g} {unit} along {name} "
                f"({layer.data.shape[axis]} voxels), but layer '{first.name}' {wanted:g} {unit} "
                f"({first.data.shape[axis]} voxels); layers must cover the same space: "
                "check shapes and voxel_size"
            )
