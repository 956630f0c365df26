"""Write an HTML file with volumes in it: three views, curtain, difference, doubt, grey scale.

It needs no network, no storage and no second file, so it works where MLflow shows an HTML
artifact: in a frame that may run scripts and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, get_args

from cyclegan.errors import DataError, UsageError, nearest
from cyclegan.files import write_text
from viz.viewer.fit import Fit, PackedPart, Part, fitted
from viz.viewer.layer import Layer, voxel_sizes

Pair = tuple[str, str]
LIMIT = 20_000_000
"""Default size limit of a page, in bytes."""
MLFLOW_LIMIT = 50 * 1024 * 1024
"""Size of the largest artifact that MLflow's user interface shows, in bytes."""
PAIRS: tuple[Pair, ...] = (
    ("real_A", "fake_B"),
    ("real_A", "rec_A"),
    ("real_B", "fake_A"),
    ("real_B", "rec_B"),
    ("input", "enhanced"),
)
"""Pairs of images that belong together, in a cycle and in an enhancement."""
_SCRIPTS = ("volume.js", "colours.js", "slices.js", "panels.js", "input.js", "viewer.js")


def viewer_page(
    layers: Sequence[Layer],
    *,
    title: str,
    note: str = "",
    pairs: Sequence[Pair] | None = None,
    limit: int = LIMIT,
    fit: Fit = "crop",
) -> str:
    """Return the page as text of at most `limit` bytes in UTF-8.

    `pairs` are images to compare, left and right of the curtain; the first is shown at once. None
    stands for those of `PAIRS` whose images are there. Layers too large are cropped around their
    centre (`fit="crop"`: true voxels) or binned (`"bin"`: the whole volume); the page says so.
    Errors: `DataError` for layers that don't fit together, `UsageError` for wrong arguments.
    """
    _check(layers, limit, fit)
    names = [layer.name for layer in layers if layer.kind == "image"]
    chosen = [p for p in PAIRS if set(p) <= set(names)] if pairs is None else list(pairs)
    for name in (name for pair in chosen for name in pair):
        if name not in names:
            raise UsageError(f"pairs: no image '{name}'; {nearest(name, names)}")
    sizes, unit = voxel_sizes(layers)
    head = {"note": note, "unit": unit, "pairs": chosen}

    def page(found: Sequence[PackedPart]) -> str:
        return _compose(title, head, found)

    def length(found: Sequence[PackedPart]) -> int:
        return len(page(found).encode())

    return page(fitted(layers, sizes, length=length, limit=limit, how=fit))


def write_viewer(
    path: Path,
    layers: Sequence[Layer],
    *,
    title: str,
    note: str = "",
    pairs: Sequence[Pair] | None = None,
    limit: int = LIMIT,
    fit: Fit = "crop",
) -> None:
    """Write `viewer_page` to `path`, atomically."""
    page = viewer_page(layers, title=title, note=note, pairs=pairs, limit=limit, fit=fit)
    write_text(path, page)


def _check(layers: Sequence[Layer], limit: int, fit: str) -> None:
    if not any(layer.kind == "image" for layer in layers):
        raise DataError("viewer: there is no layer of the kind 'image'; add one below the maps")
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"viewer: two layers have the name '{name}'; names must differ")
    if limit > MLFLOW_LIMIT:
        raise UsageError(f"limit is {limit}; MLflow shows no file above {MLFLOW_LIMIT} bytes")
    if fit not in get_args(Fit):
        raise UsageError(f"fit is '{fit}'; use 'crop' or 'bin'")


def _compose(title: str, head: dict[str, Any], found: Sequence[PackedPart]) -> str:
    data = head | {"reduced": reduced(found), "layers": [about(one) for one in found]}
    payloads = (
        f'<script type="text/plain" id="layer-{i}">{one.text}</script>'
        for i, one in enumerate(found)
    )
    # One pass: inserted text is not searched for placeholders again.
    return Template(_read("page.html")).substitute(
        title=escape(title),
        style=_read("viewer.css"),
        data=_json(data),
        payloads="\n".join(payloads),
        script="\n".join(_read(name) for name in _SCRIPTS),
    )


def _read(name: str) -> str:
    return files("viz.viewer").joinpath(name).read_text(encoding="utf-8")


def _json(data: object) -> str:
    """Return JSON that can't end the script element it stands in, whatever its strings contain."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


# -- Descriptions of layers, for the page's script and for its reader --------------------------


def about(one: PackedPart) -> dict[str, Any]:
    """Return the data about a layer that the page's script needs; axes are (z, y, x)."""
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


def reduced(found: Sequence[PackedPart]) -> list[str]:
    """Return one sentence for each shape that is not completely in the page."""
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
            text = f"{whole} voxels are binned: each voxel shown is the mean of {bins}"
            if part.shape != part.layer.data.shape:
                text += ", and voxels left over at the ends are not shown"
        sentences.setdefault(text, []).append(part.layer.name)
    return [
        f"{'All layers' if len(names) == len(found) > 1 else ', '.join(names)}: {text}"
        for text, names in sentences.items()
    ]


def _not_whole(found: Sequence[PackedPart]) -> list[Part]:
    return [one.part for one in found if not one.part.whole]
