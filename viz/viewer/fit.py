"""Fit layers into a page: crop them to their centre or bin them, and compress them to text."""

from __future__ import annotations

import base64
import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from viz.viewer.layer import Layer, Triple

Fit = Literal["crop", "bin"]
Index = tuple[int, int, int]
_AIM = 0.97
"""Share of the room to aim for: a second try is then rarely too large."""
_DENSEST = 0.25
"""Fewest characters per voxel of a real volume: sizes that surely can't fit are not tried."""
_BRICK = 192
"""Voxels along an axis that are read at once for binning."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a layer that is in the page."""

    layer: Layer
    voxel_size: Triple
    """Voxel size of the layer, before binning."""
    first: Index = (0, 0, 0)
    """The first voxel shown, in voxels of the layer."""
    shape: Index
    """Voxels shown, before binning."""
    binned: Index = (1, 1, 1)
    """Voxels of the layer in one voxel shown."""

    @property
    def whole(self) -> bool:
        """True if nothing is left out."""
        return self.shape == self.layer.data.shape and self.binned == (1, 1, 1)

    def data(self) -> NDArray[Any]:
        """Return the voxels shown (Z, Y, X); binned ones are means of the finite voxels."""
        window = tuple(slice(f, f + n) for f, n in zip(self.first, self.shape, strict=True))
        if self.binned == (1, 1, 1):
            return np.asarray(self.layer.data[window])
        return _binned(self.layer.data, self.shape, self.binned)


@dataclass(frozen=True, kw_only=True)
class PackedPart:
    """A part as compressed text."""

    part: Part
    codes: Codes
    text: str


def fitted(
    layers: Sequence[Layer],
    sizes: Sequence[Triple],
    *,
    length: Callable[[Sequence[PackedPart]], int],
    limit: int,
    how: Fit,
) -> list[PackedPart]:
    """Pack the layers, cropped or binned so that the `length` of their page is within `limit`.

    Cropping leaves the cube around the centre that fits, with short axes whole. Binning takes means
    of k x k x k voxels of the finest layer, and of as many of coarser ones as lie in them.
    Errors: `DataError` if nothing fits.
    """
    whole = [
        Part(layer=layer, voxel_size=size, shape=_index(layer.data.shape))
        for layer, size in zip(layers, sizes, strict=True)
    ]
    share = min(1.0, limit / (_DENSEST * _voxels(whole)))
    while True:
        parts = _cropped(whole, share) if how == "crop" else _all_binned(whole, share)
        result = [_pack(part) for part in parts]
        needed = length(result)
        if needed <= limit:
            return result
        text = sum(len(one.text) for one in result)
        room = limit - (needed - text)
        if room <= 0 or all(_pixels(part) == 1 for part in parts):
            raise DataError(
                f"viewer: the page needs {needed - text} bytes besides its voxels, and its limit "
                f"is {limit}; raise the limit or shorten title, note and names"
            )
        share = min(share, _voxels(parts) / _voxels(whole)) * _AIM * room / text


def _pack(part: Part) -> PackedPart:
    # The outliers of a map, such as doubt, must be visible.
    codes = quantised(part.data(), clip=part.layer.kind == "image")
    return PackedPart(part=part, codes=codes, text=packed(codes))


def _voxels(parts: Sequence[Part]) -> int:
    return sum(_pixels(part) for part in parts)


def _pixels(part: Part) -> int:
    return math.prod(n // b for n, b in zip(part.shape, part.binned, strict=True))


def _cropped(parts: Sequence[Part], share: float) -> list[Part]:
    """Crop to the centre with about `share` of the space, at voxel faces of the coarsest layer."""
    if share >= 1:
        return list(parts)
    coarsest = min(parts, key=lambda part: part.layer.data.size)
    faces = coarsest.voxel_size
    extents = [n * size for n, size in zip(coarsest.shape, faces, strict=True)]
    edge = _edge(extents, share)
    counts = [max(1, math.floor(min(edge, e) / f)) for e, f in zip(extents, faces, strict=True)]
    starts = [(n - count) // 2 for n, count in zip(coarsest.shape, counts, strict=True)]
    result = []
    for part in parts:
        scale = [f / size for f, size in zip(faces, part.voxel_size, strict=True)]
        n = part.layer.data.shape
        first = [min(round(starts[a] * scale[a]), n[a] - 1) for a in range(3)]
        end = [min(round((starts[a] + counts[a]) * scale[a]), n[a]) for a in range(3)]
        shape = _index([max(1, end[a] - first[a]) for a in range(3)])
        result.append(replace(part, first=_index(first), shape=shape))
    return result


def _edge(extents: Sequence[float], share: float) -> float:
    """Return the edge of the cube that, cut to the extents, has `share` of their volume."""
    low, high = 0.0, max(extents)
    for _ in range(50):
        middle = (low + high) / 2
        small = math.prod(min(middle, e) for e in extents) <= share * math.prod(extents)
        low, high = (middle, high) if small else (low, middle)
    return low


def _all_binned(parts: Sequence[Part], share: float) -> list[Part]:
    """Bin all layers to voxels of about one size, with at most `share` of the voxels."""
    finest = max(parts, key=lambda part: part.layer.data.size).voxel_size
    longest = max(max(part.layer.data.shape) for part in parts)
    result = list(parts)
    for factor in range(1, longest + 1):
        result = [_bin(part, factor, finest) for part in parts]
        if _voxels(result) <= share * _voxels(parts):
            break
    return result


def _bin(part: Part, factor: int, finest: Triple) -> Part:
    n = part.layer.data.shape
    scale = [math.floor(factor * finest[a] / part.voxel_size[a] + 1e-6) for a in range(3)]
    binned = [max(1, min(scale[a], n[a])) for a in range(3)]
    shape = [n[a] // binned[a] * binned[a] for a in range(3)]
    return replace(part, binned=_index(binned), shape=_index(shape))


def _binned(data: NDArray[Any], shape: Index, bins: Index) -> NDArray[np.float32]:
    """Return means of the finite values in blocks of `bins` voxels of the first `shape` voxels."""
    blocks = _index([n // b for n, b in zip(shape, bins, strict=True)])
    result = np.empty(blocks, np.float32)
    # A brick at a time: little memory, and chunks of a file are read about once.
    steps = [max(1, _BRICK // b) for b in bins]
    starts = (range(0, n, step) for n, step in zip(blocks, steps, strict=True))
    for first in itertools.product(*starts):
        ends = [min(f + s, n) for f, s, n in zip(first, steps, blocks, strict=True)]
        place = tuple(slice(f, e) for f, e in zip(first, ends, strict=True))
        window = tuple(slice(f * b, e * b) for f, e, b in zip(first, ends, bins, strict=True))
        result[place] = _means(np.asarray(data[window]), bins)
    return result


def _means(values: NDArray[Any], bins: Index) -> NDArray[Any]:
    """Return means of finite values in blocks of `bins`, which divide the shape; NaN of none."""
    parts = (part for n, b in zip(values.shape, bins, strict=True) for part in (n // b, b))
    blocks = values.reshape(*parts)
    finite = np.isfinite(blocks)
    count = finite.sum(axis=(1, 3, 5))
    total = np.where(finite, blocks, 0).sum(axis=(1, 3, 5), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _index(values: Sequence[int]) -> Index:
    z, y, x = values
    return z, y, x


# -- Volumes as one byte per voxel, compressed for the page ------------------------------------
#
# ```
# values -> codes 0..255 (value = low + step * code)   quantised
#        -> differences from a prediction              predicted
#        -> zlib -> base64                             packed
# ```
# The prediction of a voxel from the seven neighbours that come before it is the mean of the three
# planes through two of its neighbours, `(2 (x + y + z) - (xy + xz + yz)) / 3`: the linear predictor
# of lossless image coding (JPEG-LS, Lorenzo predictor), averaged against noise. On measured and on
# generated volumes it saves 16 to 44 % over zlib alone; the best difference along one axis saves 7
# to 29 %. On noise without any structure it costs 9 %.

_TAIL = 0.1
"""Percentage of the voxels at each end that may be outliers."""


_MARGIN = 1.0
"""Margin beyond the tails, in ranges between them; values farther out are clipped."""
_SAMPLE = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A volume of bytes; `value = low + step * code`, exact to half a step unless clipped."""

    codes: NDArray[np.uint8]
    """Bytes (Z, Y, X)."""
    low: float
    step: float
    """Difference of the values of two codes; 0 for a constant volume."""
    invalid: int | None
    """Code of values that are not finite; None if all are finite."""
    below: int
    above: int
    """Numbers of voxels that were clipped, as they lie outside the codes' range."""

    @property
    def top(self) -> int:
        """The highest code of a value."""
        return 255 if self.invalid is None else 254

    def values(self) -> NDArray[np.float64]:
        """Return the values that the page shows (Z, Y, X); NaN where they are not finite."""
        values = self.low + self.step * self.codes.astype(np.float64)
        if self.invalid is not None:
            values[self.codes == self.invalid] = np.nan
        return values


def quantised(data: NDArray[Any], *, clip: bool = True) -> Codes:
    """Return codes of a volume (Z, Y, X). Integers that fit into a byte's range stay exact.

    `clip`: clip outliers that would cost the other values their resolution.
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
    """Return the least and greatest finite value, and True if all values are finite."""
    least, greatest, whole = np.inf, -np.inf, True
    for values in data:
        finite = values[np.isfinite(values)]
        whole = whole and finite.size == values.size
        if finite.size:
            least, greatest = min(least, float(finite.min())), max(greatest, float(finite.max()))
    return (least, greatest, whole) if least <= greatest else (0.0, 0.0, whole)


def _robust(data: NDArray[Any], least: float, greatest: float) -> tuple[float, float]:
    """Return the range between the tails plus a margin, from percentiles of a regular sample."""
    every = max(1, round((data.size / _SAMPLE) ** (1 / 3)))
    sample = data[::every, ::every, ::every].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return least, greatest
    left, right = np.percentile(sample, [_TAIL, 100 - _TAIL])
    if left == right:  # few voxels differ from the rest: they must be visible
        return least, greatest
    margin = _MARGIN * (right - left)
    return max(least, float(left - margin)), min(greatest, float(right + margin))


def predicted(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each code minus its prediction, modulo 256; before an axis's first voxel lies 0."""
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
    """Return the codes as text for a page; `viewer/volume.js` unpacks it."""
    # Z_FILTERED: a predictor leaves small numbers, not repeated strings; as small, but faster.
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    data = deflate.compress(predicted(codes.codes).tobytes()) + deflate.flush()
    return base64.b64encode(data).decode("ascii")
