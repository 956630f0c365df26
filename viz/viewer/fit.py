"""Making layers small enough for a page: the centre of them, or all of them binned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from viz.viewer.codes import Codes, packed, quantised
from viz.viewer.layer import Layer, Triple

Fit = Literal["crop", "bin"]
Index = tuple[int, int, int]

_AIM = 0.97
"""Of the room: a second try rarely needs a third."""
_DENSEST = 0.25
"""Characters a voxel that no real volume goes below: what surely can't fit is not tried."""

_BRICK = 192
"""Voxels along an axis that are read at once to be binned."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What of a layer is in the page."""

    layer: Layer
    voxel_size: Triple
    """Of the layer, before binning."""
    first: Index = (0, 0, 0)
    """The first voxel shown, in voxels of the layer."""
    shape: Index
    """Voxels shown, before binning."""
    binned: Index = (1, 1, 1)
    """Voxels of the layer in one that is shown."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.shape == self.layer.data.shape and self.binned == (1, 1, 1)

    def data(self) -> NDArray[Any]:
        """The voxels shown (Z, Y, X); the mean of those binned, of the finite ones."""
        window = tuple(slice(f, f + n) for f, n in zip(self.first, self.shape, strict=True))
        if self.binned == (1, 1, 1):
            return np.asarray(self.layer.data[window])
        return _binned(self.layer.data, self.shape, self.binned)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A part as text."""

    part: Part
    codes: Codes
    text: str


def fitted(
    layers: Sequence[Layer],
    sizes: Sequence[Triple],
    *,
    length: Callable[[Sequence[Packed]], int],
    limit: int,
    how: Fit,
) -> list[Packed]:
    """The layers packed, cropped or binned so that the `length` of their page is within `limit`.

    A crop keeps the cube around the centre that fits, short axes whole. Binning takes means of
    k x k x k voxels of the finest layer and of as many of coarser ones as lie in them.
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


def _pack(part: Part) -> Packed:
    # The outliers of a map, such as doubt, are what is to be seen.
    codes = quantised(part.data(), clip=part.layer.kind == "image")
    return Packed(part=part, codes=codes, text=packed(codes))


def _voxels(parts: Sequence[Part]) -> int:
    return sum(_pixels(part) for part in parts)


def _pixels(part: Part) -> int:
    return math.prod(n // b for n, b in zip(part.shape, part.binned, strict=True))


def _cropped(parts: Sequence[Part], share: float) -> list[Part]:
    """The centre that holds about `share` of the space, on voxel faces of the coarsest layer."""
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
    """Edge of the cube that, cut to the extents, has `share` of their volume."""
    low, high = 0.0, max(extents)
    for _ in range(50):
        middle = (low + high) / 2
        small = math.prod(min(middle, e) for e in extents) <= share * math.prod(extents)
        low, high = (middle, high) if small else (low, middle)
    return low


def _all_binned(parts: Sequence[Part], share: float) -> list[Part]:
    """All layers with voxels of one size, about, and at most `share` of the voxels."""
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
    """Means of the finite values in blocks of `bins` voxels of the first `shape` voxels."""
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
    """Of the finite values in blocks of `bins` voxels, which divide the shape; NaN of none."""
    parts = (part for n, b in zip(values.shape, bins, strict=True) for part in (n // b, b))
    blocks = values.reshape(*parts)
    finite = np.isfinite(blocks)
    count = finite.sum(axis=(1, 3, 5))
    total = np.where(finite, blocks, 0).sum(axis=(1, 3, 5), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _index(values: Sequence[int]) -> Index:
    z, y, x = values
    return z, y, x
