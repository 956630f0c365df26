"""The six images of a cycle as a run keeps them: volumes of some validations, pictures of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.voxel_size import VoxelSize, as_voxel_size
from cyclegan.errors import DataError
from tracking.cycle_volumes import FOLDER
from tracking.volumes import read_cycle

if TYPE_CHECKING:
    from tracking.run import Run


@dataclass(frozen=True, kw_only=True)
class KeptCycle:
    """The images of one validation, (B, C, Z, Y, X) by name."""

    iteration: int
    images: Mapping[str, NDArray[np.float32]]
    voxel_size_A: VoxelSize | None
    """(z, y, x) in micrometres, where the data said it."""


def kept_iterations(run: Run) -> dict[int, str]:
    """Artifact names of the volumes of a run by iteration, in rising order."""
    found = {}
    for name in run.artifact_names(FOLDER):
        path = PurePosixPath(name)
        begin, _, number = path.stem.rpartition("_")
        if begin == "cycle" and number.isdigit() and path.suffix == ".h5":
            found[int(number)] = name
    return dict(sorted(found.items()))


def read_kept(run: Run, iteration: int, name: str) -> KeptCycle:
    """Read one of `kept_iterations`. Errors: `DataError` if the file is damaged."""
    path = run.artifact_path(name)
    try:
        images = read_cycle(path)
        with h5py.File(path) as file:
            size = file["real_A"].attrs.get("voxel_size_um")
    except (OSError, KeyError) as error:
        raise DataError(f"run {run.name}: {name} can't be read: {error}") from error
    return KeptCycle(
        iteration=iteration,
        images=images,
        voxel_size_A=None if size is None else as_voxel_size(size),
    )
