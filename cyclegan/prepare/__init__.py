"""Preparation of reconstructed volumes for a training: HDF5 files and a dataset JSON.

`cyclegan prepare` crops and standardises HDF5, NeXus, TIFF, NPY and Zarr volumes and writes them as
HDF5, block by block and resumably, each with a picture to check it by.
"""

from __future__ import annotations

from cyclegan.data.voxel_size import VoxelSize
from cyclegan.prepare.dataset import (
    complement,
    dataset_text,
    entries,
    output_paths,
    validation_ranges,
)
from cyclegan.prepare.open_source import group_inputs, open_source
from cyclegan.prepare.partial import COMPRESSIONS
from cyclegan.prepare.region import WHOLE, Open, parse_range, parse_roi, size_of
from cyclegan.prepare.settings import PrepareResult, Settings, parse_voxel_size, voxel_size_text
from cyclegan.prepare.source import Source
from cyclegan.prepare.streaming import check_output, forget, is_done, prepare_volume

__all__ = [
    "COMPRESSIONS",
    "WHOLE",
    "Open",
    "PrepareResult",
    "Settings",
    "Source",
    "VoxelSize",
    "check_output",
    "complement",
    "dataset_text",
    "entries",
    "forget",
    "group_inputs",
    "is_done",
    "open_source",
    "output_paths",
    "parse_range",
    "parse_roi",
    "parse_voxel_size",
    "prepare_volume",
    "size_of",
    "validation_ranges",
    "voxel_size_text",
]
