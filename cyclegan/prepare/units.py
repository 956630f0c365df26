"""Voxel sizes: units of length as the formats spell them, and the option `--voxel-size`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cyclegan.errors import UsageError

VoxelSize = tuple[float, float, float]
"""(z, y, x) in micrometres."""

_MICROMETRES = {
    "angstrom": 1e-4,
    "ångström": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    r"\u00b5m": 1.0,  # as ImageJ writes it
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
}


def micrometres(unit: Any) -> float | None:
    """Micrometres in one `unit`; None for a unit of something else, or none at all."""
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    text = text.strip().lower().replace("metre", "meter")
    return _MICROMETRES.get(text, _MICROMETRES.get(text.removesuffix("s")))


def as_voxel_size(values: Any, factor: float = 1.0) -> VoxelSize | None:
    """One length or three (z, y, x) times `factor`; None if they are no positive lengths."""
    try:
        numbers = [float(v) * factor for v in np.asarray(values, dtype=np.float64).ravel()]
    except (TypeError, ValueError):
        return None
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]


def parse_voxel_size(text: str) -> VoxelSize:
    """`0.8` or `1.6,0.8,0.8` (z, y, x), in micrometres. Errors: `UsageError`."""
    parts: Sequence[str] = text.split(",")
    size = as_voxel_size(parts) if len(parts) in (1, 3) else None
    if size is None:
        raise UsageError(
            f"--voxel-size {text}: one positive length in micrometres is wanted, or three (z,y,x), "
            "e.g. 0.8 or 1.6,0.8,0.8"
        )
    return size


def voxel_size_text(size: VoxelSize | None) -> str:
    """`0.8 um`, `1.6 x 0.8 x 0.8 um (z, y, x)`, `unknown`."""
    if size is None:
        return "unknown"
    if len({f"{n:.4g}" for n in size}) == 1:
        return f"{size[0]:.4g} um"
    return " x ".join(f"{n:.4g}" for n in size) + " um (z, y, x)"
