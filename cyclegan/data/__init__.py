"""Data: JSON files that point into HDF5 volumes, the volumes, and patches drawn from them."""

from __future__ import annotations

from cyclegan.data.blocks import Size
from cyclegan.data.dataset import DatasetSpec, VolumeEntry, read_json
from cyclegan.data.hdf5_source import open_dataset
from cyclegan.data.sampler import PatchSampler, Prefetcher
from cyclegan.data.scan import Scan
from cyclegan.data.statistics import Statistics
from cyclegan.data.volume import MemoryBudget, Standardise, Volume, open_volumes

__all__ = [
    "DatasetSpec",
    "MemoryBudget",
    "PatchSampler",
    "Prefetcher",
    "Scan",
    "Size",
    "Standardise",
    "Statistics",
    "Volume",
    "VolumeEntry",
    "open_dataset",
    "open_volumes",
    "read_json",
]
