"""What TIFF files say about themselves, as ImageJ, OME, tifffile and plain tags say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cyclegan.errors import DataError
from cyclegan.prepare.units import VoxelSize, as_voxel_size, micrometres

_DPI = {50, 72, 75, 90, 96, 100, 120, 150, 200, 300, 400, 600, 1200, 2400}
"""Resolutions of screens and printers, which programs write when they know none."""
_COARSEST_DPI = 25.4
"""Voxels of over a millimetre are no microCT: the unit is missing."""


def planes_of(path: Path, opened: tifffile.TiffFile) -> int:
    """Z planes in the file; ImageJ writes one page and its planes behind it beyond 4 GB.

    Errors: `DataError` if it has several channels or frames of several planes.
    """
    _check_axes(path, opened)
    pages = len(opened.pages)
    if pages > 1:
        return pages
    stated = int((opened.imagej_metadata or {}).get("images", 1)) if opened.is_imagej else 1
    if opened.is_shaped:
        stated = int(np.prod((opened.shaped_metadata or ({},))[0].get("shape", [1])[:-2]))
    return max(1, stated)


def axes_of(opened: tifffile.TiffFile) -> dict[str, int]:
    """Lengths of the axes other than rows and columns, as ImageJ and OME state them."""
    if opened.is_imagej:
        known = opened.imagej_metadata or {}
        return {key: int(known.get(key, 1)) for key in ("channels", "frames", "slices")}
    if opened.is_ome:
        pixels = _ome_pixels(opened)
        names = {"SizeC": "channels", "SizeT": "frames", "SizeZ": "slices"}
        return {name: int(pixels.get(key, 1)) for key, name in names.items()}
    return {}


def _check_axes(path: Path, opened: tifffile.TiffFile) -> None:
    sizes = axes_of(opened)
    if sum(n > 1 for n in sizes.values()) > 1:
        text = ", ".join(f"{n} {name}" for name, n in sizes.items())
        raise DataError(f"{path}: one grey volume is wanted, this has {text}; save one by itself")


def voxel_size(opened: tifffile.TiffFile) -> VoxelSize | None:
    """From OME-XML, ImageJ's description or the resolution tags; None if they say nothing credible.

    Plain TIFF knows no third axis: its planes are taken to be as far apart as its rows.
    """
    if opened.is_ome:
        pixels = _ome_pixels(opened)
        sizes = []
        for axis in "ZYX":
            unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "um"))
            size = pixels.get(f"PhysicalSize{axis}")
            sizes.append(float(size) * unit if size and unit else None)
        return as_voxel_size([sizes[0] or sizes[1], *sizes[1:]])
    per_y, per_x = (_per_unit(opened, f"{axis}Resolution") for axis in "YX")
    if not per_x or not per_y:
        return None
    if opened.is_imagej:
        known = opened.imagej_metadata or {}
        unit = micrometres(known.get("unit", ""))
        sizes = [known.get("spacing", 1 / per_y), 1 / per_y, 1 / per_x]
        return as_voxel_size(sizes, unit) if unit else None
    tag = opened.pages.first.tags.get("ResolutionUnit")
    per_tag = {2: 25400.0, 3: 10000.0}.get(int(tag.value) if tag else 2)
    if per_tag is None:
        return None
    dpi = per_x * 25400 / per_tag
    if dpi < _COARSEST_DPI or round(dpi, 2) in _DPI:
        return None
    return as_voxel_size([1 / per_y, 1 / per_y, 1 / per_x], per_tag)


def _per_unit(opened: tifffile.TiffFile, name: str) -> float:
    tag = opened.pages.first.tags.get(name)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return 0.0
    above, below = tag.value
    return float(above) / float(below) if below else 0.0


def _ome_pixels(opened: tifffile.TiffFile) -> dict[str, Any]:
    """Attributes of the first image's `Pixels` in the OME-XML."""
    try:
        image = tifffile.xml2dict(opened.ome_metadata or "")["OME"]["Image"]
        pixels: dict[str, Any] = (image[0] if isinstance(image, list) else image)["Pixels"]
    except (KeyError, TypeError, IndexError, SyntaxError):
        return {}
    return pixels
