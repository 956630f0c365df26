"""Voxel sizes: units of length as file formats spell them, and sizes that HDF5 files state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from cyclegan.data.nexus import as_text, child

VoxelSize = tuple[float, float, float]
"""Voxel size (z, y, x) in micrometres."""

_IN_MICROMETRES = ("voxel_size_um", "element_size_um")
_WITH_UNIT = ("voxel_size", "pixel_size")
_MICROMETRES = {
    **dict.fromkeys(("angstrom", "ångström", "å"), 1e-4),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    # The micro sign, the Greek letter, and the sign as ImageJ escapes it.
    **dict.fromkeys(("um", "µm", "μm", r"\u00b5m", "micron", "micrometer"), 1.0),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("in", "inch"), 25400.0),
}


def micrometres(unit: Any) -> float | None:
    """Return the micrometres in one `unit`; None if it is not a unit of length."""
    text = (as_text(unit) or "").strip().lower().replace("metre", "meter")
    return _MICROMETRES.get(text, _MICROMETRES.get(text.removesuffix("s")))


def as_voxel_size(values: Any, factor: float = 1.0) -> VoxelSize | None:
    """Return one length or three (z, y, x) times `factor`; None if they aren't positive lengths."""
    try:
        numbers = [float(v) * factor for v in np.asarray(values, dtype=np.float64).ravel()]
    except (TypeError, ValueError):
        return None
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]


def voxel_size_um(dataset: h5py.Dataset) -> VoxelSize | None:
    """Return (z, y, x) in micrometres, as the dataset or the nearest group above it states it.

    If one place states several sizes, the first of these counts:

    - `voxel_size_um` or `element_size_um`, one number or three;
    - `voxel_size` or `pixel_size` with a unit of length;
    - `z_pixel_size`, `y_pixel_size` and `x_pixel_size` with units of length; two of them are not
      enough, because they describe a detector;
    - the spacing of the coordinates that a group's `axes` name (NXdata), if they have a unit of
      length and as many positions as the dataset has voxels along each axis.

    A place states a size by an attribute or, if it is a group, by a dataset of that name. The unit
    of an attribute is the attribute `<name>_units` beside it, else `units` of the same group; the
    unit of a dataset is its attribute `units`. Values that are not positive, not finite, or neither
    one nor three are ignored.
    """
    return next((size for place in _places(dataset) if (size := _at(place, dataset))), None)


def lacks_unit(dataset: h5py.Dataset) -> bool:
    """Return True if a voxel size is stated somewhere without a unit of length."""
    return any(
        as_voxel_size(value) is not None and micrometres(unit) is None
        for place in _places(dataset)
        for value, unit in (_stated(place, name) for name in _WITH_UNIT)
    )


def _places(dataset: h5py.Dataset) -> Iterator[h5py.Dataset | h5py.Group]:
    place = dataset
    yield place
    while place.name != "/":
        place = place.parent
        yield place


def _at(place: h5py.Dataset | h5py.Group, dataset: h5py.Dataset) -> VoxelSize | None:
    plain = (as_voxel_size(_stated(place, name)[0]) for name in _IN_MICROMETRES)
    with_unit = (_length(place, name) for name in _WITH_UNIT)
    found = next(filter(None, (*plain, *with_unit)), None)
    return found or _of_each_axis(place) or _between_coordinates(place, dataset)


def _of_each_axis(place: h5py.Dataset | h5py.Group) -> VoxelSize | None:
    z, y, x = (_length(place, f"{axis}_pixel_size") for axis in "zyx")
    return (z[0], y[0], x[0]) if z and y and x else None


def _between_coordinates(
    place: h5py.Dataset | h5py.Group, dataset: h5py.Dataset
) -> VoxelSize | None:
    axes = place.attrs.get("axes")
    if axes is None or not isinstance(place, h5py.Group) or np.size(axes) != dataset.ndim:
        return None
    named = zip(np.ravel(axes)[-3:], dataset.shape[-3:], strict=True)
    return as_voxel_size([_step(child(place, as_text(name)), n) for name, n in named])


def _step(coordinates: h5py.Dataset | h5py.Group | None, length: int) -> float | None:
    if not isinstance(coordinates, h5py.Dataset) or coordinates.shape != (length,) or length < 2:
        return None
    unit = micrometres(coordinates.attrs.get("units"))
    if unit is None or coordinates.dtype.kind not in "fiu":
        return None
    return abs(float(coordinates[-1]) - float(coordinates[0])) / (length - 1) * unit


def _length(place: h5py.Dataset | h5py.Group, name: str) -> VoxelSize | None:
    value, unit = _stated(place, name)
    factor = micrometres(unit)
    return None if factor is None else as_voxel_size(value, factor)


def _stated(place: h5py.Dataset | h5py.Group, name: str) -> tuple[Any, Any]:
    """Return value and unit of `name`, each None if there is none."""
    value = place.attrs.get(name)
    if value is not None:
        unit = place.attrs.get(f"{name}_units", place.attrs.get(f"{name}_unit"))
        if unit is None and isinstance(place, h5py.Group):
            # On the volume itself `units` is that of the grey values.
            unit = place.attrs.get("units")
        return value, unit
    item = child(place, name) if isinstance(place, h5py.Group) else None
    if isinstance(item, h5py.Dataset) and item.size is not None and item.size <= 3:
        return item[()], item.attrs.get("units")
    return None, None
