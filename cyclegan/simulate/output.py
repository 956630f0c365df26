"""A simulated volume as an HDF5 file: standardised, described, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan.simulate.projector import Float32
from cyclegan.simulate.scanner import ScanSettings

DATASET = "data"
ARGUMENTS = "simulation"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file says about its volume."""

    title: str
    source: str
    """What was scanned, and which part of it."""
    settings: ScanSettings | None
    """How it was scanned; None for a truth that no scanner has seen."""
    voxel_size_um: float | None
    """None if nobody knows."""
    binning: int
    """Voxels of the scanned sample along each side of a voxel of this volume."""
    arguments: dict[str, Any]
    """Arguments of the simulation, from which the file can be made again."""


def write_volume(path: Path, volume: Float32, about: Description) -> None:
    """Write (Z, Y, X) as the dataset `data`, float32, mean 0 and standard deviation 1.

    The file's root is a NeXus `NXdata` group, so that silx view shows the volume at once. The
    attributes of `data` give what undoes the standardisation: `volume * std + mean` is the
    attenuation per voxel of the sample. No time stamps: the same volume gives the same bytes.
    """
    import h5py

    mean, std = float(volume.mean(dtype=np.float64)), float(volume.std(dtype=np.float64))
    standardised = ((volume - mean) / std).astype(np.float32)
    # Made in memory: HDF5 that finds the disk full while it closes a file can crash the process.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as handle:
        data = handle.create_dataset(
            DATASET,
            data=standardised,
            # About the size of a training patch: reading one must not unpack the whole volume.
            chunks=tuple(min(n, side) for n, side in zip(volume.shape, (16, 64, 64), strict=True)),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            track_times=False,
        )
        handle.attrs.update(NX_class="NXdata", signal=DATASET, title=about.title)
        handle.attrs.update(
            source=about.source, simulation=json.dumps(about.arguments, sort_keys=True)
        )
        if about.settings is not None:
            handle.attrs["scan"] = json.dumps(dataclasses.asdict(about.settings), sort_keys=True)
        data.attrs.update(
            mean=mean, std=std, axis_order="Z,Y,X", long_name="attenuation, standardised"
        )
        data.attrs["binning"] = about.binning
        if about.voxel_size_um is not None:
            data.attrs["voxel_size_um"] = about.voxel_size_um
        handle.flush()
        path.write_bytes(handle.id.get_file_image())


def arguments_of(path: Path) -> Any:
    """Arguments of the simulation that made this file; None if none did, or it can't be read."""
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            return json.loads(handle.attrs[ARGUMENTS])
    except (OSError, KeyError, TypeError, ValueError):
        return None
