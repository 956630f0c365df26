"""The HDF5 file that `cyclegan prepare` writes: one dataset and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import h5py
import hdf5plugin
import numpy as np

from cyclegan.prepare.region import Size
from cyclegan.prepare.units import VoxelSize

DATASET = "data"
Compression = Literal["none", "gzip", "lz4"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All of the file but its voxels."""

    shape: Size
    chunks: Size
    dtype: np.dtype[Any]
    voxel_size_um: VoxelSize | None
    title: str
    attributes: dict[str, Any] = field(default_factory=dict)
    """Of the dataset."""

    def declare(self, handle: h5py.File, compression: Compression) -> h5py.Dataset:
        """Make the dataset and describe it; the file's root is a NeXus `NXdata` group for viewers.

        Without compression every chunk gets its place in the file at once, so that voxels can be
        written there without HDF5. No time stamps: the same volume gives the same bytes.
        """
        if compression == "none":
            dataset = self._allocated(handle)
        else:
            dataset = handle.create_dataset(
                DATASET,
                self.shape,
                self.dtype,
                chunks=self.chunks,
                track_times=False,
                **_FILTERS[compression],
            )
        handle.attrs.update(NX_class="NXdata", signal=DATASET, title=self.title)
        dataset.attrs.update(self.attributes)
        if self.voxel_size_um is not None:
            dataset.attrs["voxel_size_um"] = np.array(self.voxel_size_um)
            self._declare_axes(handle, self.voxel_size_um)
        return dataset

    def _allocated(self, handle: h5py.File) -> h5py.Dataset:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(self.chunks)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)
        kind = h5py.h5t.py_create(self.dtype, logical=True)
        space = h5py.h5s.create_simple(self.shape)
        made = h5py.h5d.create(handle.id, DATASET.encode(), kind, space, properties)
        return h5py.Dataset(made)

    def _declare_axes(self, handle: h5py.File, voxel_size: VoxelSize) -> None:
        handle.attrs["axes"] = ["z", "y", "x"]
        for name, length, step in zip("zyx", self.shape, voxel_size, strict=True):
            axis = handle.create_dataset(name, data=np.arange(length) * step, track_times=False)
            axis.attrs["units"] = "um"


_FILTERS: dict[Compression, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lz4": {"shuffle": True, **hdf5plugin.LZ4()},
}
