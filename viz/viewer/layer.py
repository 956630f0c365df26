"""Layers of the viewer: named volumes, how their grids overlap, and layers of our own files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Volume
from cyclegan.data.voxel_size import voxel_size_um
from cyclegan.errors import DataError

Triple = tuple[float, float, float]
"""Values along (z, y, x)."""
Kind = Literal["image", "map"]
_KINDS = ("image", "map")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One volume of the page.

    Errors: `DataError` that names the layer if it is not a volume of numbers.
    """

    name: str
    data: NDArray[Any]
    """Integers, booleans or floats (Z, Y, X); values that are not finite are shown as NaN. Any
    object that is sliced like an array will do, such as an open HDF5 dataset: only the voxels shown
    are read."""
    voxel_size: Triple | None = None
    """Size (z, y, x) in micrometres. All layers give theirs, or none does: then they cover the same
    space, and the ratio of their shapes is the scale between them."""
    kind: Kind = "image"
    """A `map`, such as doubt, is laid over images."""
    unit: str = ""
    """Unit of the values, as text."""
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
    """Return the voxel sizes of layers (z, y, x) and their unit: `µm`, or the coarsest `voxel`.

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
    """Return the voxel size in voxels of the coarsest layer, the same along all axes."""
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


# -- Layers of a cycle's six images, and of an enhanced volume with its maps -------------------

_IN_A = ("real_A", "fake_A", "rec_A")


_IN_B = ("real_B", "fake_B", "rec_B")

# Images to compare stand beside each other.
_ORDER = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")


def cycle_layers(
    images: Mapping[str, NDArray[Any]], *, patch: int = 0, voxel_size_A: Triple | None = None
) -> list[Layer]:
    """Return layers of one patch of a cycle's images, arrays (B, C, Z, Y, X) by their names.

    They show the first channel. `voxel_size_A` (z, y, x) is in micrometres; that of domain B
    follows from the shapes.
    """
    coarse = images["real_A"].shape[2:]
    layers = []
    for name in _ORDER:
        data = images[name][patch, 0]
        size = voxel_size_A
        if size is not None:
            z, y, x = (s * a / b for s, a, b in zip(size, coarse, data.shape, strict=True))
            size = z, y, x
        domain = "A" if name in _IN_A else "B"
        layers.append(Layer(name=name, data=data, voxel_size=size, domain=domain))
    return layers


def enhanced_layers(
    file: h5py.File,
    *,
    source: NDArray[Any] | Volume | None = None,
    region: Sequence[tuple[int, int]] | None = None,
) -> list[Layer]:
    """Return layers of an open file from `cyclegan enhance`; they are read with the page.

    Of a series or of several channels the first is shown.

    Args:
        source: the input of the same region: an array (Z, Y, X), or a standardised volume, which is
            shown in the grey values of the result.
        region: [start, end) along Z, Y, X: the part of a source volume that was enhanced.
    """
    data = file["data"]
    unit = str(data.attrs.get("units", ""))
    size = voxel_size_um(data)
    shape = data.shape[-3:]
    layers = [Layer(name="enhanced", data=_volume(data), voxel_size=size, unit=unit, domain="B")]
    if source is not None:
        before: Any = source
        if isinstance(source, Volume):
            before = _Rescaled(source, region or [(0, n) for n in source.shape], data)
        coarse = _scaled(size, shape, before.shape)
        layers.insert(0, Layer(name="input", data=before, voxel_size=coarse, domain="A"))
    for name, trust in file.get("trust", {}).items():
        map_size = _scaled(size, shape, trust.shape[-3:])
        layers.append(Layer(name=name, data=_volume(trust), voxel_size=map_size, kind="map"))
    # Doubt combines the other maps, so it comes first.
    return sorted(layers, key=lambda layer: (layer.kind == "map", layer.name != "doubt"))


class _Lazy:
    """An object sliced like an array (Z, Y, X) that reads only the requested voxels."""

    ndim = 3

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype, self.size = shape, np.dtype(dtype), math.prod(shape)


class _Rescaled(_Lazy):
    """The first channel of an input, in the grey values of `data`."""

    def __init__(
        self, volume: Volume, region: Sequence[tuple[int, int]], data: h5py.Dataset
    ) -> None:
        super().__init__(tuple(end - first for first, end in region), np.float32)
        self.volume, self.start = volume, [first for first, _ in region]
        self.offset = float(data.attrs.get("offset", 0.0))
        self.factor = float(data.attrs.get("factor", 1.0))

    def __getitem__(self, window: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        limits = [s.indices(n)[:2] for s, n in zip(window, self.shape, strict=True)]
        z, y, x = (s + first for s, (first, _) in zip(self.start, limits, strict=True))
        a, b, c = (end - first for first, end in limits)
        image: NDArray[np.float32] = self.volume.read((z, y, x), (a, b, c))[0]
        return self.offset + self.factor * image


class _First(_Lazy):
    """The first frame or channel of a dataset with leading axes."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        super().__init__(dataset.shape[-3:], dataset.dtype)
        self.dataset, self.leading = dataset, (0,) * (dataset.ndim - 3)

    def __getitem__(self, window: tuple[slice, slice, slice]) -> Any:
        return self.dataset[(*self.leading, *window)]


def _volume(dataset: h5py.Dataset) -> Any:
    return dataset if dataset.ndim == 3 else _First(dataset)


def _scaled(size: Triple | None, shape: tuple[int, ...], other: tuple[int, ...]) -> Triple | None:
    """Return the voxel size of a grid of the shape `other` over the same space."""
    if size is None:
        return None
    z, y, x = (s * a / b for s, a, b in zip(size, shape, other, strict=True))
    return z, y, x
