"""Trace a region back to the scan that it was prepared from, to see if two regions share voxels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cyclegan.data.hdf5_source import find_dataset, open_file
from cyclegan.errors import CycleGANError

Box = tuple[tuple[int, int] | None, ...]
"""[start, end) along Z, Y, X; None for the whole axis; negative ones count from the end."""

PREPARED_FROM = "prepared_from"
"""Attribute of a prepared dataset that holds the fingerprint of its inputs and settings."""
SOURCE_PATH = "source_path"
"""Attribute of a prepared dataset: absolute path of the file or folder that it comes from."""
SOURCE_DATASET = "source_dataset"
"""Attribute of a prepared dataset: name of the dataset in that file, or empty."""
SOURCE_PLANE = "source_plane"
"""Attribute of a prepared dataset: number in its folder of the slice that `roi` counts from."""
STANDARDISED = "standardised"
"""Attribute of a prepared dataset: whether it was standardised."""
EXTREME = "extreme"
"""Attribute of a prepared dataset: number of its extreme voxels, which were clipped."""
_MOST_STEPS = 8
_MOST_AXES = 32


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The scan that a region was measured in, and the part of the scan that it is."""

    path: str
    """Real path of the file or folder of the scan."""
    place: str | int
    """Address of the dataset in an HDF5 file, or its name if that file can't be read."""
    box: Box

    def overlaps(self, other: Origin) -> bool:
        """Return True if both are parts of one scan and share voxels."""
        return (self.path, self.place) == (other.path, other.place) and all(
            a is None or b is None or (a[0] < b[1] and b[0] < a[1])
            for a, b in zip(self.box, other.box, strict=True)
        )


def is_clipped(dataset: h5py.Dataset) -> bool:
    """Return True if extreme voxels were clipped when the dataset was prepared."""
    known = dataset.attrs
    return PREPARED_FROM in known and bool(known.get(STANDARDISED) and known.get(EXTREME))


def origin_of(path: Path, dset: str, roi: Box) -> Origin:
    """Return the origin of a region, through all files that `cyclegan prepare` made on the way.

    A file that can't be read is its own origin; it is refused where it is opened.
    """
    try:
        return _traced(path, dset, roi, _MOST_STEPS)
    except (CycleGANError, OSError, RuntimeError, ValueError, KeyError, TypeError):
        return Origin(path=os.path.realpath(path), place=dset.strip("/"), box=roi)


def _traced(path: Path, dset: str, roi: Box, steps: int) -> Origin:
    with open_file(path) as handle:
        dataset = find_dataset(handle, path, dset, most_axes=_MOST_AXES)
        own, known = os.path.realpath(dataset.file.filename), _attributes(dataset)
        address, lengths = int(h5py.h5o.get_info(dataset.id).addr), dataset.shape[-3:]
    box = [resolved(limits, n) for limits, n in zip(roi, lengths, strict=True)]
    if PREPARED_FROM not in known or np.shape(known.get("roi", ())) != (3, 2):
        return Origin(path=own, place=address, box=tuple(box))
    first = known["roi"][:, 0] + [int(known.get(SOURCE_PLANE, 0)), 0, 0]
    within = tuple((int(f) + a, int(f) + b) for f, (a, b) in zip(first, box, strict=True))
    if SOURCE_PATH not in known:  # written by an earlier version
        return Origin(path=str(known["source"]), place="", box=within)
    source, inner = Path(str(known[SOURCE_PATH])), str(known[SOURCE_DATASET])
    if inner and steps and source.is_file() and h5py.is_hdf5(source):
        return _traced(source, inner, within, steps - 1)
    return Origin(path=os.path.realpath(source), place=inner, box=within)


def _attributes(dataset: h5py.Dataset) -> dict[str, Any]:
    names = (PREPARED_FROM, SOURCE_PATH, SOURCE_DATASET, SOURCE_PLANE, "source", "roi")
    return {name: dataset.attrs[name] for name in names if name in dataset.attrs}


def resolved(limits: tuple[int, int] | None, length: int) -> tuple[int, int]:
    """Return [start, end) along an axis of `length` voxels, negative ends counted from its end."""
    start, end = limits or (0, length)
    return (start + length if start < 0 else start), (end + length if end < 0 else end)
