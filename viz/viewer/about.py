"""What the page says of its layers, and what it must know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viz.viewer.fit import Packed, Part


def about(one: Packed) -> dict[str, Any]:
    """What the page must know of a layer; axes are (z, y, x)."""
    part, codes = one.part, one.codes
    origin = [f * size for f, size in zip(part.first, part.voxel_size, strict=True)]
    voxel = [b * size for b, size in zip(part.binned, part.voxel_size, strict=True)]
    return {
        "name": part.layer.name,
        "kind": part.layer.kind,
        "unit": part.layer.unit,
        "domain": part.layer.domain,
        "shape": codes.codes.shape,
        "whole": part.layer.data.shape,
        "first": part.first,
        "binned": part.binned,
        "origin": origin,
        "voxel": voxel,
        "low": codes.low,
        "step": codes.step,
        "top": codes.top,
        "below": codes.below,
        "above": codes.above,
    }


def reduced(found: Sequence[Packed]) -> list[str]:
    """One sentence for each shape of which not all is in the page."""
    sentences: dict[str, list[str]] = {}
    for part in _not_whole(found):
        whole = "×".join(map(str, part.layer.data.shape))
        if part.binned == (1, 1, 1):
            ends = zip(part.first, part.shape, strict=True)
            ranges = ", ".join(
                f"{axis} {f}–{f + n - 1}" for axis, (f, n) in zip("zyx", ends, strict=True)
            )
            text = f"only the centre of {whole} voxels is in this page: {ranges}"
        else:
            bins = "×".join(map(str, part.binned))
            text = f"{whole} voxels are binned: each that is shown is the mean of {bins}"
            if part.shape != part.layer.data.shape:
                text += ", and what is left over at the ends is not shown"
        sentences.setdefault(text, []).append(part.layer.name)
    return [
        f"{'All layers' if len(names) == len(found) > 1 else ', '.join(names)}: {text}"
        for text, names in sentences.items()
    ]


def _not_whole(found: Sequence[Packed]) -> list[Part]:
    return [one.part for one in found if not one.part.whole]
