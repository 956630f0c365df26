"""HDF5 and NeXus files: which dataset is meant, and reading it by chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from cyclegan.data.blocks import Window
from cyclegan.data.hdf5_source import (
    check_sources,
    find_dataset,
    open_file,
    read_part,
    volume_names,
)
from cyclegan.data.nexus import as_text, default_volumes
from cyclegan.data.virtual import source_files
from cyclegan.data.voxel_size import lacks_unit, voxel_size_um
from cyclegan.errors import DataError
from cyclegan.prepare.region import Region, Roi
from cyclegan.prepare.source import Source, three_axes

_LISTED = 12
_MOST_AXES = 32
"""Of any HDF5 dataset."""


class Hdf5Source(Source):
    """One dataset of an HDF5 file, 3D or with leading axes of which one part is taken."""

    def __init__(
        self, path: Path, handle: h5py.File, dataset: h5py.Dataset, name: str, channel: int | None
    ) -> None:
        self.name = f"{path}:{name}"
        self._index, self.shape = three_axes(self.name, dataset.shape, channel)
        self.dtype = dataset.dtype
        own = Path(dataset.file.filename)  # another one behind an external link
        self.files = tuple(dict.fromkeys([path, own, *source_files(dataset)]))
        chunks = dataset.chunks or (1, 1, 1)
        self.grain = (chunks[-3], chunks[-2])
        self.voxel_size_um = voxel_size_um(dataset)
        if self.voxel_size_um is None and lacks_unit(dataset):
            self.notes = (
                f"{self.name}: a voxel size without a unit of length is there and not used; "
                "give it by --voxel-size",
            )
        self.units = as_text(dataset.attrs.get("units"))
        self._path, self._handle, self._dataset = path, handle, dataset

    def region(self, roi: Roi) -> Region:
        """The region in voxels, all of whose voxels are there."""
        region = super().region(roi)
        leading = [(i, i + 1) for i in self._index]
        check_sources(self._dataset, self._path, (*leading, *region))
        return region

    def read(self, window: Window) -> NDArray[Any]:
        """The voxels of `window`."""
        return read_part(self._dataset, self._index + window, self.name)

    def close(self) -> None:
        """Close the file, and the one behind an external link."""
        self._dataset.file.close()
        self._handle.close()


def open_hdf5(path: Path, name: str | None, channel: int | None) -> Source:
    """The dataset `name`, else the file's NeXus default, else the only volume in it.

    Errors: `DataError` as of `cyclegan.data.open_dataset`, or for several candidates.
    """
    handle = open_file(path)
    try:
        dataset = find_dataset(handle, path, name or _unnamed(path, handle), most_axes=_MOST_AXES)
        return Hdf5Source(path, handle, dataset, name or dataset.name.strip("/"), channel)
    except BaseException:
        handle.close()
        raise


def _unnamed(path: Path, handle: h5py.File) -> str:
    if len(default_volumes(handle)) == 1:
        return "/"
    found = volume_names(handle)
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{path}: no dataset of three or more axes in it")
    listed = ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
    raise DataError(f"{path}: several volumes; name one with --dataset: {listed}")
