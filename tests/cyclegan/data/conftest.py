"""Small HDF5 files for the tests of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import MemoryBudget, Volume, VolumeEntry

WriteVolume = Callable[..., VolumeEntry]


@pytest.fixture
def write(tmp_path: Path) -> WriteVolume:
    """Write an array to a file and return the entry that points to it."""

    def make(
        array: np.ndarray,
        *,
        name: str = "v.h5",
        dset: str = "data",
        roi: Any = None,
        **options: Any,
    ) -> VolumeEntry:
        with h5py.File(tmp_path / name, "a") as handle:  # several datasets may share a file
            handle.create_dataset(dset, data=array, **options)
        return VolumeEntry(path=tmp_path / name, dset=dset, roi=roi or (None, None, None))

    return make


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Standardised float32 noise of a shape."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        values = np.random.default_rng(seed).normal(size=shape)
        return ((values - values.mean()) / values.std()).astype(np.float32)

    return make


@pytest.fixture
def whole() -> Callable[[Volume], np.ndarray]:
    """All voxels of a volume."""
    return lambda volume: volume.read((0, 0, 0), volume.shape)


@pytest.fixture
def budget() -> type[MemoryBudget]:
    """Make budgets of some bytes; with none, patches are read from the file."""
    return MemoryBudget
