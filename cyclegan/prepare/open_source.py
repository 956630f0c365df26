"""Grouping of inputs into volumes, and the choice of a volume's reader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py

from cyclegan.errors import DataError, UsageError
from cyclegan.files import printable, why_missing
from cyclegan.prepare.arrays import is_zarr, open_hdf5, open_npy, open_zarr
from cyclegan.prepare.formats import READ, how_to_bring_in
from cyclegan.prepare.partial import HDF5_SUFFIXES
from cyclegan.prepare.source import Source
from cyclegan.prepare.tiff import is_tiff, natural, open_tiff, single_page, tiffs_in

_NPY = b"\x93NUMPY"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def group_inputs(inputs: Sequence[Path], *, each: bool = False) -> list[list[Path]]:
    """Group the inputs by volume: several TIFF files of single pages are one stack.

    With `each` every input is a volume by itself. Errors: `DataError` for an input that does not
    exist, `UsageError` for one that is named twice.
    """
    seen: set[str] = set()
    for path in inputs:
        fault = why_missing(path)
        if fault:
            fault = fault.replace("no such file", "no such file or folder", 1)
            raise DataError(f"{printable(path)}: {fault}")
        real = os.path.realpath(path)
        if real in seen:
            raise UsageError(f"{path} is named twice")
        seen.add(real)
    stack = len(inputs) > 1 and not each and all(_is_plane(path) for path in inputs)
    return [sorted(inputs, key=natural)] if stack else [[path] for path in inputs]


def open_source(
    paths: Sequence[Path], *, dataset: str | None = None, channel: int | None = None
) -> Source:
    """Open the volume in one file or folder, or in several TIFF files of one page each.

    Args:
        paths: HDF5, NeXus, TIFF or NPY file, Zarr folder, folder of TIFF files; or TIFF files.
        dataset: name in HDF5 or Zarr; by default the file's own default, or the only dataset.
        channel: index along a leading channel axis (C, Z, Y, X), counted from 0.

    Errors: `DataError` in one line that names the file.
    """
    path = paths[0]
    try:
        if len(paths) > 1:
            _refuse_unused(path, "TIFF files", dataset, channel)
            return open_tiff(paths)
        if path.is_dir():
            if is_zarr(path):
                return open_zarr(path, dataset, channel)
            _refuse_unused(path, "a folder of TIFF files", dataset, channel)
            return open_tiff(tiffs_in(path))
        return _open_file(path, dataset, channel)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


def _open_file(path: Path, dataset: str | None, channel: int | None) -> Source:
    if is_tiff(path):
        _refuse_unused(path, "a TIFF file", dataset, channel)
        return open_tiff([path])
    with path.open("rb") as handle:
        start = handle.read(len(_HDF5))
    if start.startswith(_NPY):
        _refuse_unused(path, "an NPY file", dataset, None)
        return open_npy(path, channel)
    # HDF5's own test says no to a file that another program has locked.
    if start == _HDF5 or h5py.is_hdf5(path) or path.suffix.lower() in HDF5_SUFFIXES:
        return open_hdf5(path, dataset, channel)
    hint = how_to_bring_in(path)
    raise DataError(
        f"{path}: {READ}" + (", an empty file" if not start else f"; {hint}" if hint else "")
    )


def _refuse_unused(path: Path, kind: str, dataset: str | None, channel: int | None) -> None:
    """Refuse options that would have no effect on this kind of file."""
    if dataset is not None:
        raise UsageError(f"--dataset {dataset}: {path} is {kind} and has no datasets; leave it out")
    if channel is not None:
        raise UsageError(f"--channel {channel}: {path} is {kind}, read as planes; leave it out")


def _is_plane(path: Path) -> bool:
    return path.is_file() and is_tiff(path) and single_page(path)
