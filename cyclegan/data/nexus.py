"""What an HDF5 file says about itself by NeXus attributes: its default image and its voxel size.

Defaults: https://manual.nexusformat.org/datarules.html#find-plottable-data (version 3: `@default`
leads from group to group, `@signal` names the dataset; version 1: the dataset has `@signal` = 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

Spacing = tuple[float, float, float]
_DEEPEST = 16
_MICROMETRES = {
    **dict.fromkeys(("m", "metre", "meter"), 1e6),
    **dict.fromkeys(("cm", "centimetre", "centimeter"), 1e4),
    **dict.fromkeys(("mm", "millimetre", "millimeter"), 1e3),
    **dict.fromkeys(("um", "µm", "μm", "micron", "micrometre", "micrometer"), 1.0),
    **dict.fromkeys(("nm", "nanometre", "nanometer"), 1e-3),
}


def default_datasets(group: h5py.Group) -> list[h5py.Dataset]:
    """The datasets that NeXus calls the group's default image: one, none, or several candidates."""
    for _ in range(_DEEPEST):
        target = _child(group, _text(group.attrs.get("default")))
        if isinstance(target, h5py.Dataset):
            return [target]
        if target is None:
            break
        group = target
    signal = _signal(group)
    if signal is not None:
        return [signal]
    found = [_signal(child) for child in _descendants(group)]
    return [dataset for dataset in found if dataset is not None]


def voxel_size_um(dataset: h5py.Dataset) -> Spacing | None:
    """(z, y, x) in micrometres from the dataset's, its groups' or the file's attributes.

    `voxel_size_um` (one number or three) wins; `voxel_size` and `pixel_size` count if their unit
    is given, in `<name>_units` beside them, or as `units` of a dataset of that name in a group
    above. What is not positive, not finite or of another length is as good as not there.
    """
    places: list[h5py.Dataset | h5py.Group] = [dataset, *_groups_above(dataset)]
    for place in places:
        found = _spacing(place.attrs.get("voxel_size_um"), 1.0)
        if found:
            return found
    for place in places:
        for name in ("voxel_size", "pixel_size"):
            found = _with_unit(place, name)
            if found:
                return found
    return None


def _with_unit(place: h5py.Dataset | h5py.Group, name: str) -> Spacing | None:
    value = place.attrs.get(name)
    unit = place.attrs.get(f"{name}_units", place.attrs.get(f"{name}_unit"))
    if value is None and isinstance(place, h5py.Group):
        item = _child(place, name)
        if isinstance(item, h5py.Dataset) and item.size is not None and item.size <= 3:
            value, unit = item[()], item.attrs.get("units")
    elif unit is None and isinstance(place, h5py.Group):
        # On the volume itself `units` is that of the grey values.
        unit = place.attrs.get("units")
    return _spacing(value, _MICROMETRES.get((_text(unit) or "").strip().lower()))


def _spacing(value: Any, scale: float | None) -> Spacing | None:
    if value is None or scale is None:
        return None
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel() * scale
    except (TypeError, ValueError):
        return None
    if numbers.size == 1:
        numbers = numbers.repeat(3)
    if numbers.size != 3 or not np.isfinite(numbers).all() or (numbers <= 0).any():
        return None
    z, y, x = (float(n) for n in numbers)
    return z, y, x


def _groups_above(dataset: h5py.Dataset) -> Iterator[h5py.Group]:
    group = dataset.parent
    for _ in range(_DEEPEST):
        yield group
        if group.name == "/":
            return
        group = group.parent


def _descendants(group: h5py.Group) -> Iterator[h5py.Group]:
    # Two levels are a file's NXentry and its NXdata.
    for child in _groups_in(group):
        yield child
        if _text(child.attrs.get("NX_class")) == "NXentry":
            yield from _groups_in(child)


def _groups_in(group: h5py.Group) -> Iterator[h5py.Group]:
    for name in group:
        child = _child(group, name)
        if isinstance(child, h5py.Group):
            yield child


def _signal(group: h5py.Group) -> h5py.Dataset | None:
    named = _child(group, _text(group.attrs.get("signal")))
    if isinstance(named, h5py.Dataset):
        return named
    if _text(group.attrs.get("NX_class")) != "NXdata":
        return None
    for name in group:
        item = _child(group, name)
        if isinstance(item, h5py.Dataset) and _text(item.attrs.get("signal")) == "1":
            return item
    return None


def _child(group: h5py.Group, name: str | None) -> h5py.Dataset | h5py.Group | None:
    if not name:
        return None
    try:
        return group.get(name)
    except (OSError, RuntimeError, ValueError):  # a link that leads nowhere or in circles
        return None


def _text(value: Any) -> str | None:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return None if value is None else str(value)
