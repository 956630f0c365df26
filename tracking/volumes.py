"""The six images of a cycle as one HDF5 file that HDF5 viewers open with the right axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from cyclegan.files import replacing
from cyclegan.hdf5 import writing_hdf5
from cyclegan.model import IMAGES

_AXES = ("patch", "channel", "z", "y", "x")
_SHOWN = "fake_B"


def write_cycle(path: Path, images: Mapping[str, Tensor], attributes: Mapping[str, object]) -> None:
    """Write images (B, C, Z, Y, X) as datasets `real_A` ... `rec_B` at the file's top level.

    Each dataset keeps its axes; intensities are standardised, as the networks see them.
    `attributes` describe the file. Below `entry` each image is an NXdata group as well (a link, no
    copy), `fake_B` the one shown first: viewers such as `silx view` then name the axes.
    Format: NeXus, https://manual.nexusformat.org/classes/base_classes/NXdata.html.
    """
    with replacing(path) as temporary, writing_hdf5(temporary) as (file, _):
        file.attrs.update({"NX_class": "NXroot", "default": "entry", **attributes})
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": _SHOWN})
        for name in IMAGES:
            data = images[name].detach().float().cpu().numpy()
            # A chunk a patch and slice along Z: viewers and previews read slices.
            chunks = (1, 1, 1, *data.shape[3:])
            dataset = file.create_dataset(
                name, data=data, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
            )
            dataset.attrs["units"] = "standardised intensity"
            group = entry.create_group(name)
            group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": list(_AXES)})
            group["data"] = dataset
            group["title"] = name
            for axis, length in zip(_AXES, data.shape, strict=True):
                group[axis] = np.arange(length)  # viewers refuse axes that are only names
                if axis in "zyx":
                    group[axis].attrs["units"] = "voxel"
