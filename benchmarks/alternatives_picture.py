"""One small PNG per data set: the same slice by every alternative, with its PSNR and SSIM."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from alternatives_judge import Judge
from alternatives_results import Record, Store
from alternatives_rows import ROWS
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cyclegan.files import replacing
from cyclegan.numbers import ceil_div

Slice = NDArray[np.floating]
Panel = tuple[str, Slice]

LARGEST_BYTES = 150_000
_SIDES = (96, 88, 80, 72, 64, 56, 48)
"""Sizes of a panel in pixels, tried from the largest until the file is small enough."""
_COLUMNS, _ZOOM, _TITLE, _GAP, _GREYS = 4, 2, 18, 6, 48


def draw(path: Path, store: Store, data: str, records: Sequence[Record], judge: Judge) -> None:
    """Write the picture of a data set: all rows with their first seed, the reference last."""
    first = sorted(records, key=lambda record: -(record["seed"] or 0))
    by_row = {record["row"]: record for record in first}
    panels = [_panel(store, data, by_row[name]) for name in ROWS if name in by_row]
    reference = judge.reference[len(judge.reference) // 2]
    panels.append(("reference", reference))
    low, high = np.percentile(judge.reference, [0.5, 99.5])
    for side in _SIDES:
        content = _png(panels, side, (float(low), float(high)))
        if len(content) <= LARGEST_BYTES:
            break
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _panel(store: Store, data: str, record: Record) -> Panel:
    name = record["row"]
    title = f"{name}  {record['psnr']:.2f} / {record['ssim']:.3f}"
    return title, np.load(store.slice_path(data, name, record["seed"])).astype(np.float32)


def _png(panels: Sequence[Panel], side: int, window: tuple[float, float]) -> bytes:
    width, height = side * _ZOOM + _GAP, side * _ZOOM + _TITLE + _GAP
    rows = ceil_div(len(panels), _COLUMNS)
    sheet = Image.new("L", (_COLUMNS * width, rows * height), 255)
    pen = ImageDraw.Draw(sheet)
    for number, (title, image) in enumerate(panels):
        x, y = number % _COLUMNS * width, number // _COLUMNS * height
        pen.text((x, y + 2), title, fill=0, font=_font(pen, title, width - _GAP))
        sheet.paste(_grey(image[:side, :side], window), (x, y + _TITLE))
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _font(pen: ImageDraw.ImageDraw, title: str, width: int) -> ImageFont.FreeTypeFont:
    """Return the largest font with which the title fits its panel."""
    for size in (12, 11, 10, 9, 8, 7):
        font = ImageFont.load_default(size)
        if pen.textlength(title, font=font) <= width:
            break
    return font


def _grey(image: Slice, window: tuple[float, float]) -> Image.Image:
    """Return the picture in few greys, because noise in 256 greys hardly compresses."""
    low, high = window
    levels = np.rint(np.clip((image - low) / (high - low), 0, 1) * (_GREYS - 1))
    grey = np.rint(levels * 255 / (_GREYS - 1)).astype(np.uint8)
    return Image.fromarray(np.kron(grey, np.ones((_ZOOM, _ZOOM), np.uint8)))
