"""Draw a picture to check a prepared volume: three middle slices and the histograms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.files import replacing
from cyclegan.numbers import ceil_div
from cyclegan.prepare.partial import DATASET
from cyclegan.prepare.transform import Histogram
from viz.pictures import grey_window

_PIXELS = 1024
"""Most pixels along a side; longer sides show only every n-th voxel."""
_SHOWN_BINS = 256


def write_check_picture(
    output: Path, title: str, before: Histogram, after: Histogram | None
) -> None:
    """Write `output`'s middle slices and histograms as a PNG file of the same name.

    The slices share one grey window (percentiles 0.5 to 99.5) and show voxels at their true
    proportions, in micrometres if the voxel size is known. The histograms have logarithmic counts,
    before standardisation and, unless `after` is None, after it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with h5py.File(output, "r") as handle:
        data = handle[DATASET]
        size = data.attrs.get("voxel_size_um")
        step = np.ones(3) if size is None else np.asarray(size, np.float64)
        units = data.attrs.get("units_before", data.attrs.get("units", ""))
        planes = _middle_planes(data)
        shape = data.shape
    figure = Figure(figsize=(13, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    halves: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    top, bottom = halves
    window = grey_window(np.concatenate([p.ravel() for p in planes.values()]))
    for axis, name in zip(top.subplots(1, 3).flat, planes, strict=True):
        shown = _show(
            axis, planes[name], name, shape, step, window, "voxels" if size is None else "um"
        )
    top.colorbar(shown, ax=top.axes, label="value stored", shrink=0.8)
    panels = [(f"before {f'({units})' if units else ''}", before)]
    panels += [("after standardisation (standard deviations)", after)] if after else []
    for axis, (label, histogram) in zip(
        bottom.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _histogram(axis, label, histogram)
    with replacing(output.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _middle_planes(data: h5py.Dataset) -> dict[str, NDArray[np.float32]]:
    z, y, x = (n // 2 for n in data.shape)
    windows: dict[str, Any] = {
        f"xy at z = {z}": (z, slice(None), slice(None)),
        f"xz at y = {y}": (slice(None), y, slice(None)),
        f"yz at x = {x}": (slice(None), slice(None), x),
    }
    planes = {name: np.asarray(data[window], np.float32) for name, window in windows.items()}
    return {name: plane[_every(plane.shape)] for name, plane in planes.items()}


def _every(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(None, None, max(1, ceil_div(n, _PIXELS))) for n in shape)


def _show(
    axis: Any,
    plane: NDArray[np.float32],
    name: str,
    shape: tuple[int, ...],
    step: NDArray[np.float64],
    window: tuple[float, float],
    unit: str,
) -> Any:
    down, across = name[1], name[0]
    height, width = (shape["zyx".index(a)] * step["zyx".index(a)] for a in (down, across))
    shown = axis.imshow(
        plane,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    axis.set_title(name, fontsize=9)
    axis.set_xlabel(f"{across} / {unit}")
    axis.set_ylabel(f"{down} / {unit}")
    if unit != "voxels":
        _scale_bar(axis, width, height, unit)
    return shown


def _scale_bar(axis: Any, width: float, height: float, unit: str) -> None:
    """Draw a bar of length 1, 2 or 5 x 10^n, at most a third of the width."""
    power = 10.0 ** math.floor(math.log10(width / 3))
    length = max(n * power for n in (1, 2, 5) if n * power <= width / 3)
    left, y = 0.05 * width, 0.93 * height
    axis.plot([left, left + length], [y, y], color="black", linewidth=6, solid_capstyle="butt")
    axis.plot([left, left + length], [y, y], color="yellow", linewidth=3, solid_capstyle="butt")
    axis.text(
        left + length / 2,
        y - 0.02 * height,
        f"{length:g} {unit}",
        color="yellow",
        ha="center",
        va="bottom",
        fontsize=9,
        bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
    )


def _histogram(axis: Any, label: str, histogram: Histogram) -> None:
    counts = histogram.counts.reshape(_SHOWN_BINS, -1).sum(axis=1)
    edges = histogram.edges[:: histogram.counts.size // _SHOWN_BINS]
    axis.stairs(counts, edges, fill=True, color="0.4")
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.5)
    axis.set_xlabel(label)
    axis.set_ylabel("voxels")
