"""Pictures of volumes: the six images of a cycle, volumes side by side, and their differences.

Grey windows: the standardised intensities of two domains have different scales, so each domain has
its own window, set by its *real* image: `real_A`, `rec_A` and `fake_A` use A's, `real_B`, `fake_B`
and `rec_B` use B's. Within a domain equal grey means equal intensity: an image that a generator
made too bright looks too bright. Voxels that are not finite are red.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.files import replacing
from cyclegan.numbers import ceil_div, round_up

if TYPE_CHECKING:
    from torch import Tensor


Grey = NDArray[np.uint8]
Picture = NDArray[np.uint8]
Window = tuple[float, float]
Shape = tuple[int, int, int]
PERCENTILES = (0.5, 99.5)
CYCLES = (("real_A", "fake_B", "rec_A"), ("real_B", "fake_A", "rec_B"))
"""The rows of `six_images`."""
_TITLES = {
    "fake_B": "fake_B = G_A(real_A)",
    "rec_A": "rec_A = G_B(fake_B)",
    "fake_A": "fake_A = G_B(real_B)",
    "rec_B": "rec_B = G_A(fake_A)",
}
_PIXELS = (128, 192)
"""Longest side of a small slice in `six_images`: minimum and maximum in pixels."""
_GAP = 4
_FONT_SIZE = 14
_LINE = 20
_RED = (255, 0, 0)


def grey_window(image: NDArray[Any]) -> Window:
    """Return the intensities for black and white: percentiles 0.5 and 99.5 of finite voxels."""
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)


def to_uint8(slices: NDArray[Any], window: Window) -> Grey:
    """Return grey values: `window`'s ends become 0 and 255, values beyond are clipped, NaN is 0."""
    low, high = window
    scaled = (slices.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
    grey: Grey = np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)).astype(np.uint8)
    return grey


def six_images(images: Mapping[str, Tensor]) -> Picture:
    """Draw the six images of one cycle as an RGB picture (Y, X, 3).

    `images`: `real_A fake_B rec_A real_B fake_A rec_B`, (B, C, Z, Y, X); the first channel of the
    first patch is shown. The picture has two rows: the cycle that starts in A and the one that
    starts in B. Each image appears as three central slices: xy on top, xz and yz below it at half
    the scale with Z downwards. The picture is about square, like the panels that show it. Small
    patches are enlarged without smoothing; with super resolution both domains show the same extent.
    """
    volumes = {n: images[n][0, 0].detach().float().cpu().numpy() for row in CYCLES for n in row}
    windows = {domain: grey_window(volumes[f"real_{domain}"]) for domain in "AB"}
    shape = _display_shape(_finest(volumes.values()))
    rows = [
        _side_by_side(
            [
                _titled(_three_slices(volumes[name], windows[name[-1]], shape), [_title(name)])
                for name in names
            ],
            gap=4 * _GAP,
        )
        for names in CYCLES
    ]
    return _framed(_stacked(rows))


def cut_six(picture: Picture) -> dict[str, Picture]:
    """Cut a picture from `six_images` into its images, by name and without their titles."""
    inner = picture[_GAP:-_GAP, _GAP:-_GAP]
    height = (inner.shape[0] - _GAP) // 2
    width = (inner.shape[1] - 8 * _GAP) // 3
    return {
        name: inner[
            row * (height + _GAP) + _LINE : row * (height + _GAP) + height,
            column * (width + 4 * _GAP) : column * (width + 4 * _GAP) + width,
        ]
        for row, names in enumerate(CYCLES)
        for column, name in enumerate(names)
    }


def comparison(
    columns: Mapping[str, Any],
    *,
    captions: Mapping[str, str] | None = None,
    window: Window | None = None,
    pixels: int = 300,
) -> Picture:
    """Draw volumes side by side as an RGB picture (Y, X, 3): central xy slice on top, xz below.

    Args:
        columns: title -> volume (Z, Y, X), an array or an open HDF5 dataset. All show the same
            region, but their resolution may differ.
        captions: second line below a title, e.g. `{"enhanced": "27.9 dB"}`.
        window: grey window of all columns; by default that of the slices in the last column, which
            shows the reference (the slow scan).
        pixels: side of a slice. A larger volume shows its centre voxel by voxel, as shrinking would
            hide its noise; a smaller one is enlarged without smoothing.
    """
    finest = _finest(columns.values())
    shown = tuple(min(n, pixels) for n in finest)  # in voxels of the finest volume
    zoom = max(1, pixels // max(shown[1:]))
    slices = {title: _central_slices(v, shown, finest) for title, v in columns.items()}
    reference = next(reversed(slices.values()))
    window = window or grey_window(np.concatenate([plane.ravel() for plane in reference]))
    depth, height, width = (n * zoom for n in shown)
    cells = []
    for title, (xy, xz) in slices.items():
        tiles = [
            _tile(xy, window, (height, width), "xy"),
            _tile(xz, window, (depth, width), "xz"),
        ]
        text = [title] if captions is None else [title, captions.get(title, "")]
        cells.append(_titled(_stacked(tiles), text))
    return _framed(_side_by_side(cells))


def captioned(pictures: Mapping[str, Picture]) -> Picture:
    """Join finished pictures side by side, each below a caption whose first line is larger."""
    cells = []
    for caption, picture in pictures.items():
        title, *rest = caption.split("\n")
        strip = _paper(_LINE + 10, picture.shape[1])
        strip = _written(strip, title, (2 * _GAP, 4), size=20, colour=(0, 0, 0))
        below = _titled(picture, [f"  {line}" for line in rest]) if rest else picture
        cells.append(np.concatenate([strip, below]))
    return _side_by_side(cells, gap=6 * _GAP)


# -- slices ------------------------------------------------------------------------------------
def _finest(volumes: Iterable[Any]) -> Shape:
    """Return the largest extent in voxels along Z, Y, X."""
    z, y, x = (max(lengths) for lengths in zip(*(v.shape for v in volumes), strict=True))
    return z, y, x


def _display_shape(finest: Shape) -> Shape:
    """Return the size of small slices in pixels: small patches enlarged, large ones shrunk."""
    longest, (least, most) = max(finest), _PIXELS
    side = min(round_up(least, longest), most)
    z, y, x = (max(1, round(side * n / longest)) for n in finest)
    return z, y, x


def _central_slices(
    volume: Any, shown: tuple[int, ...], finest: Shape
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the xy and xz slices through the middle, cut to the middle part that is shown."""
    parts = []
    for length, part, whole in zip(volume.shape, shown, finest, strict=True):
        size = max(1, round(part * length / whole))
        start = (length - size) // 2
        parts.append(slice(start, start + size))
    z, y, _ = (length // 2 for length in volume.shape)
    xy, xz = volume[z, parts[1], parts[2]], volume[parts[0], y, parts[2]]
    return np.asarray(xy, dtype=np.float32), np.asarray(xz, dtype=np.float32)


def _three_slices(volume: NDArray[Any], window: Window, shape: Shape) -> Picture:
    """Draw the central xy slice, and below it xz and yz side by side at half the scale."""
    z, y, x = (length // 2 for length in volume.shape)
    depth, height, width = shape
    below = [
        _tile(volume[:, y], window, (depth, width), "xz"),
        _tile(volume[:, :, x], window, (depth, height), "yz"),
    ]
    return _stacked([_tile(volume[z], window, (2 * height, 2 * width), "xy"), _side_by_side(below)])


# -- drawing -----------------------------------------------------------------------------------
def _tile(plane: NDArray[Any], window: Window, size: tuple[int, int], label: str) -> Picture:
    grey = np.repeat(to_uint8(plane, window)[..., None], 3, axis=2)
    grey[~np.isfinite(plane)] = _RED
    rows, columns = (
        (np.arange(pixels) + 0.5) * voxels // pixels
        for pixels, voxels in zip(size, plane.shape, strict=True)
    )
    tile = grey[rows.astype(int)[:, None], columns.astype(int)[None, :]]
    return _written(tile, label, (3, 1), size=11, colour=(255, 255, 160), outline=1)


def _titled(picture: Picture, lines: Sequence[str]) -> Picture:
    strip = _paper(len(lines) * _LINE, picture.shape[1])
    for i, text in enumerate(lines):
        strip = _written(strip, text, (1, i * _LINE), size=_FONT_SIZE, colour=(0, 0, 0))
    return np.concatenate([strip, picture])


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _written(
    picture: Picture,
    text: str,
    at: tuple[int, int],
    *,
    size: int,
    colour: tuple[int, int, int],
    outline: int = 0,
) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).text(
        at, text, fill=colour, font=font, stroke_width=outline, stroke_fill=(0, 0, 0)
    )
    return np.asarray(image)


def _paper(height: int, width: int) -> Picture:
    return np.full((height, width, 3), 255, np.uint8)


def _side_by_side(pictures: Sequence[Picture], gap: int = _GAP) -> Picture:
    height = max(picture.shape[0] for picture in pictures)
    parts: list[Picture] = []
    for picture in pictures:
        missing = height - picture.shape[0]
        parts += [np.pad(picture, ((0, missing), (0, 0), (0, 0)), constant_values=255)]
        parts += [_paper(height, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _stacked(pictures: Sequence[Picture]) -> Picture:
    return _side_by_side([p.transpose(1, 0, 2) for p in pictures]).transpose(1, 0, 2)


def _framed(picture: Picture) -> Picture:
    return np.pad(picture, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)


def write_png(picture: Picture, path: Path) -> None:
    """Write a picture, grey (Y, X) or RGB (Y, X, 3), as PNG, atomically."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


# -- Pictures of the difference of two volumes -------------------------------------------------
#
# Red where the second is brighter, blue where it is darker, white where they are equal, so that the
# eye finds structure in the disagreement of two networks.

_HOT, _BLUE = (178.0, 24.0, 43.0), (33.0, 102.0, 172.0)


_WHITE = (255.0, 255.0, 255.0)
_GREY = (128, 128, 128)


def difference_picture(
    first: NDArray[Any], second: NDArray[Any], limit: float, *, pixels: int = 256
) -> Picture:
    """Draw `second` minus `first`, planes (Y, X) of one shape, as an RGB picture (Y', X', 3).

    `limit`: the difference shown in full colour; larger ones are clipped. `pixels`: minimum of the
    longest side; each voxel gets a whole number of pixels. Values that are not finite are grey.
    """
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    finite = np.isfinite(difference)
    share = np.clip(np.where(finite, difference, 0.0) / max(limit, 1e-30), -1, 1)[..., None]
    ends = np.where(share > 0, _HOT, _BLUE)
    colours = _WHITE + np.abs(share) * (ends - np.asarray(_WHITE))
    picture: Picture = np.rint(colours).astype(np.uint8)
    picture[~finite] = _GREY
    times = max(1, ceil_div(pixels, max(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
