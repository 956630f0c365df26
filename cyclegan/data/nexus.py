"""Find the default image of an HDF5 file by its NeXus attributes.

https://manual.nexusformat.org/datarules.html#find-plottable-data (version 3: `@default`
leads from group to group, `@signal` names the dataset; version 1: the dataset has `@signal` = 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

_DEEPEST = 16


def default_volumes(group: h5py.Group) -> list[h5py.Dataset]:
    """Return the datasets (three or more axes) that may be the group's default image, if any."""
    return [item for item in dict.fromkeys(_defaults(group)) if item.ndim >= 3]


def _defaults(group: h5py.Group) -> list[h5py.Dataset]:
    for _ in range(_DEEPEST):
        target = child(group, as_text(group.attrs.get("default")))
        if isinstance(target, h5py.Dataset):
            return [target]
        if target is None:
            break
        group = target
    signal = _signal(group)
    if signal is not None:
        return [signal]
    found = [_signal(inner) for inner in _descendants(group)]
    return [dataset for dataset in found if dataset is not None]


def _descendants(group: h5py.Group) -> Iterator[h5py.Group]:
    # Two levels: a file's NXentry and its NXdata.
    for inner in _groups_in(group):
        yield inner
        if as_text(inner.attrs.get("NX_class")) == "NXentry":
            yield from _groups_in(inner)


def _groups_in(group: h5py.Group) -> Iterator[h5py.Group]:
    for name in group:
        item = child(group, name)
        if isinstance(item, h5py.Group):
            yield item


def _signal(group: h5py.Group) -> h5py.Dataset | None:
    named = child(group, as_text(group.attrs.get("signal")))
    if isinstance(named, h5py.Dataset):
        return named
    if as_text(group.attrs.get("NX_class")) != "NXdata":
        return None
    for name in group:
        item = child(group, name)
        if isinstance(item, h5py.Dataset) and as_text(item.attrs.get("signal")) == "1":
            return item
    return None


def child(group: h5py.Group, name: str | None) -> h5py.Dataset | h5py.Group | None:
    """Return the object `name` of the group; None if there is none or its link leads nowhere."""
    if not name:
        return None
    try:
        return group.get(name)
    except (OSError, RuntimeError, ValueError):  # a broken external link, or a circle of links
        return None


def as_text(value: Any) -> str | None:
    """Return an attribute's value as text, whether it is bytes, text or an array of one item."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if value is None:
        return None
    if not isinstance(value, bytes):
        value = str(value).encode("utf-8", errors="surrogateescape")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:  # what older programs write, such as the micro sign as one byte
        return str(value, "latin-1")
