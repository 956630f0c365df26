"""The six images of a cycle as one HDF5 file that HDF5 viewers open with the right axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.voxel_size import VoxelSize
from cyclegan.files import replacing
from cyclegan.hdf5 import writing_hdf5
from cyclegan.model import IMAGES

_AXES = ("patch", "channel", "z", "y", "x")
_SHOWN = "fake_B"


def write_cycle(
    path: Path,
    images: Mapping[str, NDArray[np.float32]],
    attributes: Mapping[str, object],
    voxel_size_A: VoxelSize | None = None,
) -> None:
    """Write images (B, C, Z, Y, X) as datasets `real_A` ... `rec_B` at the file's top level.

    Each dataset keeps its axes; intensities are standardised, as the networks see them.
    `attributes` describe the file; `voxel_size_A` (z, y, x) is in micrometres, B's follows from the
    shapes. Below `entry` each image is an NXdata group as well (a link, no
    copy), `fake_B` the one shown first: viewers such as `silx view` then name the axes.
    Format: NeXus, https://manual.nexusformat.org/classes/base_classes/NXdata.html.
    """
    coarse = images["real_A"].shape[2:]
    with replacing(path) as temporary, writing_hdf5(temporary) as (file, _):
        file.attrs.update({"NX_class": "NXroot", "default": "entry", **attributes})
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": _SHOWN})
        for name in IMAGES:
            data = np.asarray(images[name], dtype=np.float32)
            # A chunk a patch and slice along Z: viewers and previews read slices.
            chunks = (1, 1, 1, *data.shape[3:])
            dataset = file.create_dataset(
                name, data=data, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
            )
            dataset.attrs["units"] = "standardised intensity"
            size = [
                s * a / b
                for s, a, b in zip(voxel_size_A or (1, 1, 1), coarse, data.shape[2:], strict=True)
            ]
            if voxel_size_A is not None:
                dataset.attrs["voxel_size_um"] = size
            group = entry.create_group(name)
            group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": list(_AXES)})
            group["data"] = dataset
            group["title"] = name
            for axis, length in zip(_AXES, data.shape, strict=True):
                # Viewers refuse axes that are only names.
                step = size["zyx".index(axis)] if axis in "zyx" and voxel_size_A else 1
                group[axis] = np.arange(length) * step
                if axis in "zyx":
                    group[axis].attrs["units"] = "um" if voxel_size_A else "voxel"


def read_cycle(path: Path) -> dict[str, NDArray[np.float32]]:
    """The images (B, C, Z, Y, X) by name of a file that `write_cycle` made.

    Errors: `OSError` or `KeyError` if it is damaged.
    """
    with h5py.File(path) as file:
        return {name: np.asarray(file[name][...], dtype=np.float32) for name in IMAGES}
