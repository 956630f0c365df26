"""The source files of virtual datasets. HDF5 silently reads a missing one as fill values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py

Box = tuple[tuple[int, int], ...]
"""[start, end) along every axis of the dataset."""


def source_files(dataset: h5py.Dataset) -> list[Path]:
    """Return the source files of a virtual dataset; none for other datasets."""
    if not dataset.is_virtual:
        return []
    names = sorted({source.file_name for source in dataset.virtual_sources()})
    return [path for name in names for path in _found(dataset, name)]


def missing_sources(dataset: h5py.Dataset, region: Box) -> list[str]:
    """Return missing sources of `region` of a virtual dataset, as `file` or `file:dataset`."""
    needed: dict[str, set[str]] = {}
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if _intersects(source.vspace, region):
            needed.setdefault(source.file_name, set()).add(source.dset_name)
    return [text for name in sorted(needed) for text in _missing(dataset, name, needed[name])]


def _missing(dataset: h5py.Dataset, name: str, wanted: set[str]) -> Iterator[str]:
    found = _found(dataset, name)
    if not found:
        yield name
        return
    for path in found:
        try:
            with h5py.File(path, "r") as handle:
                # printf-style names stand for any number of datasets.
                yield from (f"{path}:{d}" for d in wanted if "%b" not in d and d not in handle)
        except OSError:
            yield f"{path} (not a readable HDF5 file)"


def _found(dataset: h5py.Dataset, name: str) -> list[Path]:
    own = Path(dataset.file.filename)
    return [own] if name == "." else find_files(own, name, "HDF5_VDS_PREFIX")


def find_files(own: Path, name: str, variable: str) -> list[Path]:
    """Return the files that the file `own` calls `name`, as HDF5 finds them; none if missing.

    It looks in the folder of the environment variable `variable`, then in that of `own` (of a link
    and of its target) and in the working directory. See H5Pset_virtual_prefix and
    H5Pset_elink_prefix in the HDF5 reference.
    """
    prefix = os.environ.get(variable, "").replace("${ORIGIN}", str(own.parent))
    folders = [Path(prefix)] if prefix else []
    folders += [own.parent, Path(), Path(os.path.realpath(own)).parent]
    for folder in folders:
        path = folder / name  # an absolute name stays as it is
        if "%b" in name:
            several = sorted(path.parent.glob(path.name.replace("%b", "*")))
            if several:
                return several
        elif path.is_file():
            return [path]
    return []


def _intersects(space: h5py.h5s.SpaceID, region: Box) -> bool:
    try:
        low, high = space.get_select_bounds()
    except (RuntimeError, ValueError):  # an unlimited selection has no bounds
        return True
    return all(
        first < end and start <= last
        for first, last, (start, end) in zip(low, high, region, strict=True)
    )
