"""The figures of a report: slices as PNG bytes, curves as figures that the page draws."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Size
from cyclegan.metrics.correlation import ONE_SEVENTH
from viz.enhancement.measure import Curve, Measurements
from viz.enhancement.reading import DOUBT, DoubtfulPlace, Image, Images
from viz.palette import BEST, CURVES, GREY, RUNS
from viz.pictures import Window, grey_window
from viz.plots import Plot, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 256
"""Most input voxels along each axis of the middle that slices show, voxel by voxel."""
CROP = 32
"""Side, in input voxels, of the surroundings shown of a doubtful place."""
DPI = 110
DOUBT_RANGE = (1.5, 4.0)
"""Doubt at which the overlay begins to show, and at which it is opaque."""
_PLANES = ("xy", "xz", "yz")
_COLOURS = {"input": RUNS[1].light, "enhanced": RUNS[0].light, "reference": BEST}


def slices_figure(images: Images) -> bytes:
    """Draw three orthogonal middle slices of input, enhanced, enhanced with doubt, reference."""
    shape = images.source.shape
    columns = ["input", "enhanced"] + (["doubt"] if DOUBT in images.maps else [])
    columns += ["reference"] if images.reference is not None else []
    planes = [_middle_plane(shape, axis) for axis in range(3)]
    heights = [_extent(size, axis)[0] for axis, (_, size) in enumerate(planes)]
    widths = [_extent(size, axis)[1] for axis, (_, size) in enumerate(planes)]
    figure, axes = _grid(3, len(columns), heights, max(widths))
    for row, (origin, size) in enumerate(planes):
        pictures = _pictures(images, origin, size)
        windows = _windows(pictures)
        for column, name in enumerate(columns):
            _show(axes[row][column], pictures, windows, name, row)
            if row == 0:
                axes[row][column].set_title(_TITLES[name], fontsize=10)
        axes[row][0].set_ylabel(
            f"{_PLANES[row]}, {'ZYX'[row]} = {origin[row] * images.factor}", fontsize=9
        )
    return _png(figure)


def places_figure(images: Images, places: Sequence[DoubtfulPlace]) -> bytes:
    """Draw surroundings of doubtful places in their xy slice: input, enhanced, doubt, reference."""
    columns = ["input", "enhanced", "doubt"]
    columns += ["reference"] if images.reference is not None else []
    figure, axes = _grid(len(places), len(columns), [CROP] * len(places), CROP)
    for row, found in enumerate(places):
        origin, size = _around(found.place, images)
        pictures = _pictures(images, origin, size)
        windows = _windows(pictures)
        for column, name in enumerate(columns):
            _show(axes[row][column], pictures, windows, name, 0)
            if row == 0:
                axes[row][column].set_title(_TITLES[name], fontsize=10)
        axes[row][0].set_ylabel(f"{row + 1}: doubt {found.value:.2g}", fontsize=9)
    return _png(figure)


def spectra_figure(found: Measurements) -> Plot:
    """Draw the radial power before and after, and the noise power."""
    figure, (left, right) = _pair("Radial power spectra, and power of the noise.")
    _lines(left, found.spectra)
    left.set(title="Power spectrum, relative to the variance", yscale="log")
    _lines(right, found.noise)
    right.set(title="Noise power spectrum", yscale="log", ylabel="grey values², per voxel")
    return figure


def correlation_figure(found: Measurements) -> Plot:
    """Draw the Fourier shell correlations with their criteria."""
    figure, (left, right) = _pair("Fourier shell correlations with their criteria.")
    colours = itertools.cycle(CURVES)
    for axes, halves in ((left, True), (right, False)):
        for name, (curve, scale) in found.correlations.items():
            if name.startswith("halves") != halves:
                continue
            frequencies = curve.frequencies / scale
            shade = next(colours)
            axes.plot(frequencies, curve.correlation, label=name, color=shade, linewidth=1.6)
            axes.plot(frequencies, curve.half_bit, ":", label="half-bit criterion", color=shade)
        axes.axhline(ONE_SEVENTH, color=GREY, linewidth=0.8, linestyle="--")
        axes.set(title="Between halves" if halves else "With the reference", ylim=(-0.2, 1.05))
        _finish(axes)
    return figure


def histogram_figure(found: Measurements) -> Plot:
    """Draw histograms of the middle."""
    figure = new_figure(5.5, 3.2)
    figure.about = "Histograms of the grey values in the middle of the volume."
    axes = figure.subplots()
    for name, (values, density) in found.histograms.items():
        axes.plot(values, density, label=name, color=_COLOURS.get(name), linewidth=1.6)
    axes.set(xlabel="grey value", ylabel="density")
    tidy(axes)
    axes.legend(fontsize=8, frameon=False)
    return figure


_TITLES = {
    "input": "input",
    "enhanced": "enhanced",
    "doubt": "enhanced, doubt in colour",
    "reference": "reference",
}


def _middle_plane(shape: Size, axis: int) -> tuple[Size, Size]:
    """Return origin and size, in input voxels, of a slice through the middle."""
    size = [min(n, SHOWN) for n in shape]
    origin = [(n - part) // 2 for n, part in zip(shape, size, strict=True)]
    origin[axis], size[axis] = shape[axis] // 2, 1
    return (origin[0], origin[1], origin[2]), (size[0], size[1], size[2])


def _extent(size: Size, axis: int) -> tuple[int, int]:
    rows, columns = (n for a, n in enumerate(size) if a != axis)
    return rows, columns


def _around(place: Size, images: Images) -> tuple[Size, Size]:
    shape = images.source.shape
    centre = [p // images.factor for p in place]
    size = [1, *(min(CROP, n) for n in shape[1:])]
    origin = [
        min(max(c - part // 2, 0), n - part) for c, part, n in zip(centre, size, shape, strict=True)
    ]
    return (origin[0], origin[1], origin[2]), (size[0], size[1], size[2])


def _pictures(images: Images, origin: Size, size: Size) -> dict[str, Image]:
    """Return planes (rows, columns); fine ones are cut in the middle of their input voxel."""
    read: dict[str, Image | None] = {
        "input": images.input(origin, size),
        "enhanced": images.output(origin, size),
        "reference": images.truth(origin, size),
    }
    if DOUBT in images.maps:
        read["doubt"] = images.map(DOUBT, origin, size)
    axis = size.index(1)
    return {
        name: np.take(image, image.shape[axis] // 2, axis)
        for name, image in read.items()
        if image is not None
    }


def _windows(pictures: Mapping[str, Image]) -> dict[str, Window]:
    return {name: grey_window(image) for name, image in pictures.items()}


def _show(
    axes: Axes, pictures: Mapping[str, Image], windows: Mapping[str, Window], name: str, row: int
) -> None:
    grey = "enhanced" if name == "doubt" else name
    low, high = windows[grey]
    extent = (0, 1, 1, 0)
    options: dict[str, Any] = {"interpolation": "nearest", "extent": extent, "aspect": "auto"}
    axes.imshow(pictures[grey], cmap="gray", vmin=low, vmax=high, **options)
    if name == "doubt":
        least, most = DOUBT_RANGE
        strength = ((pictures["doubt"] - least) / (most - least)).clip(0, 1)
        axes.imshow(_coloured(strength), **options)
    axes.set_xticks([])
    axes.set_yticks([])


def _coloured(strength: Image) -> NDArray[np.float32]:
    """Return RGBA from transparent over yellow to red."""
    colours = np.empty((*strength.shape, 4), np.float32)
    colours[..., 0] = 1
    colours[..., 1] = 0.85 * (1 - strength)
    colours[..., 2] = 0.1
    colours[..., 3] = 0.8 * np.sqrt(strength)
    return colours


def _grid(
    rows: int, columns: int, heights: Sequence[int], width: int
) -> tuple[Figure, Sequence[Sequence[Axes]]]:
    from matplotlib.figure import Figure

    side = 2.6 if columns > 3 else 3.1
    ratios = [max(height / width, 0.15) for height in heights]
    figure = Figure(figsize=(columns * side + 0.4, sum(ratios) * side + 0.5))
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02)
    options = {"height_ratios": ratios}
    axes: Any = figure.subplots(rows, columns, squeeze=False, gridspec_kw=options)
    return figure, axes


def _pair(about: str) -> tuple[Plot, Sequence[Axes]]:
    figure = new_figure(11, 3.6)
    figure.about = about
    axes: Any = figure.subplots(1, 2)
    return figure, axes


def _lines(axes: Axes, curves: Mapping[str, Curve]) -> None:
    for name, (frequencies, power) in curves.items():
        axes.plot(
            frequencies,
            np.maximum(power, 1e-12),
            label=name,
            color=_COLOURS.get(name),
            linewidth=1.6,
        )
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.set_xlabel("cycles per voxel of the enhanced volume")
    axes.set_xlim(0, 0.5)
    tidy(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color=GREY)


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
