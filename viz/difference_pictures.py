"""Pictures of what differs between two volumes.

Red where the second is brighter, blue where it is darker, white where nothing differs, so that the
eye finds structure in what two networks disagree about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viz.pictures import Picture

_RED, _BLUE = (178.0, 24.0, 43.0), (33.0, 102.0, 172.0)
_WHITE = (255.0, 255.0, 255.0)
_GREY = (128, 128, 128)


def difference_picture(
    first: NDArray[Any], second: NDArray[Any], limit: float, *, pixels: int = 256
) -> Picture:
    """`second` less `first`, planes (Y, X) of one shape, as an RGB picture (Y', X', 3).

    `limit`: the difference that full colour stands for, beyond is cut; `pixels`: longest side at
    least, in whole multiples of a voxel. What is not finite is grey.
    """
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    finite = np.isfinite(difference)
    share = np.clip(np.where(finite, difference, 0.0) / max(limit, 1e-30), -1, 1)[..., None]
    ends = np.where(share > 0, _RED, _BLUE)
    colours = _WHITE + np.abs(share) * (ends - np.asarray(_WHITE))
    picture: Picture = np.rint(colours).astype(np.uint8)
    picture[~finite] = _GREY
    times = max(1, -(-pixels // max(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
