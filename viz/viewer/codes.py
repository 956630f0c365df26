"""Volumes as one byte a voxel, compressed: what of a layer goes into the page.

```
values -> codes 0..255 (value = low + step * code)   quantised
       -> differences from a prediction              predicted
       -> zlib -> base64                             packed
```
The prediction of a voxel from the seven neighbours that come before it is the mean of the three
planes through two of its neighbours, `(2 (x + y + z) - (xy + xz + yz)) / 3`: the linear predictor
of lossless image coding (JPEG-LS, Lorenzo predictor), averaged against noise. On measured and on
generated volumes it saves 16 to 44 % over zlib alone, the best difference along one axis 7 to 29 %;
on noise without any structure it costs 9 %.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.1
"""Percent of the voxels on each side that may be outliers."""
_MARGIN = 1.0
"""What lies farther out than this times the range between the tails is clipped."""
_SAMPLE = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A volume of bytes; `value = low + step * code`, exact to half a step but where clipped."""

    codes: NDArray[np.uint8]
    """(Z, Y, X)."""
    low: float
    step: float
    """0 for a constant volume."""
    invalid: int | None
    """The code of what is not finite; None if all values are."""
    below: int
    above: int
    """Voxels that were clipped: they lie outside the codes' range."""

    @property
    def top(self) -> int:
        """The highest code of a value."""
        return 255 if self.invalid is None else 254

    def values(self) -> NDArray[np.float64]:
        """What the page shows, (Z, Y, X); NaN where not finite."""
        values = self.low + self.step * self.codes.astype(np.float64)
        if self.invalid is not None:
            values[self.codes == self.invalid] = np.nan
        return values


def quantised(data: NDArray[Any], *, clip: bool = True) -> Codes:
    """Codes of a volume (Z, Y, X). Integers that fit into a byte's range stay exact.

    `clip` outliers that would cost the others their resolution.
    """
    least, greatest, whole = _range(data)
    top = 255 if whole else 254
    low, high = _robust(data, least, greatest) if clip else (least, greatest)
    step = (high - low) / top
    if data.dtype.kind in "biu" and greatest - least <= top:
        low, high, step = least, least + top, 1.0
    codes = np.zeros(data.shape, np.uint8)
    below = above = 0
    for values, target in zip(data, codes, strict=True):  # a slice at a time: little memory
        exact = values.astype(np.float64)
        finite = np.isfinite(exact)
        exact[~finite] = low
        below += int(np.count_nonzero(exact < low))
        above += int(np.count_nonzero(exact > high))
        if step > 0:
            target[:] = np.clip(np.rint((exact - low) / step), 0, top)
        target[~finite] = 255
    invalid = None if whole else 255
    return Codes(codes=codes, low=low, step=step, invalid=invalid, below=below, above=above)


def _range(data: NDArray[Any]) -> tuple[float, float, bool]:
    """Least and greatest finite value, and whether all are finite."""
    least, greatest, whole = np.inf, -np.inf, True
    for values in data:
        finite = values[np.isfinite(values)]
        whole = whole and finite.size == values.size
        if finite.size:
            least, greatest = min(least, float(finite.min())), max(greatest, float(finite.max()))
    return (least, greatest, whole) if least <= greatest else (0.0, 0.0, whole)


def _robust(data: NDArray[Any], least: float, greatest: float) -> tuple[float, float]:
    """The range between the tails and a margin around it; percentiles of a regular sample."""
    every = max(1, round((data.size / _SAMPLE) ** (1 / 3)))
    sample = data[::every, ::every, ::every].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return least, greatest
    left, right = np.percentile(sample, [_TAIL, 100 - _TAIL])
    if left == right:  # few voxels differ from the rest: they are what is to be seen
        return least, greatest
    margin = _MARGIN * (right - left)
    return max(least, float(left - margin)), min(greatest, float(right + margin))


def predicted(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each code less its prediction, modulo 256; before the first voxel of an axis lies 0."""
    result = np.empty_like(codes)
    before = np.zeros([n + 1 for n in codes.shape[1:]], np.int16)
    for now, target in zip(codes, result, strict=True):
        here = np.zeros_like(before)
        here[1:, 1:] = now
        x, y, z = here[1:, :-1], here[:-1, 1:], before[1:, 1:]
        xy, xz, yz = here[:-1, :-1], before[1:, :-1], before[:-1, 1:]
        guess = np.clip((2 * (x + y + z) - (xy + xz + yz)) // 3, 0, 255)
        target[:] = now - guess.astype(np.uint8)
        before = here
    return result


def packed(codes: Codes) -> str:
    """The codes as text for a page; `viewer/volume.js` undoes it."""
    # Z_FILTERED: what a predictor leaves is small numbers, not repeated strings; as small, faster.
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    data = deflate.compress(predicted(codes.codes).tobytes()) + deflate.flush()
    return base64.b64encode(data).decode("ascii")
