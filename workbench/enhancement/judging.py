"""Judge an enhanced volume: quality against a reference, slices, report, viewer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Statistics, Volume, VolumeEntry, open_dataset
from cyclegan.data.fingerprint import file_hashes
from cyclegan.data.hdf5_source import open_file
from cyclegan.enhance.grid import Grid, output_shape
from cyclegan.errors import DataError, UsageError, nearest
from cyclegan.files import check_outputs, refuse_overwrite
from cyclegan.metrics.quality import (
    QualityRow,
    best_gaussian,
    compare_with_reference,
    on_grid,
    verdict,
)
from viz.console import Console
from viz.enhancement import Halves, ReportSummary, write_report
from viz.pictures import comparison, write_png
from viz.text import table
from viz.viewer import LIMIT, Layer, enhanced_layers, write_viewer
from workbench.enhancement.request import Target, viewer_beside
from workbench.output import Output

Image = NDArray[np.float32]
_LARGE = 200_000_000
"""Volumes of more voxels are not read whole for a picture or a measurement."""


@dataclass(frozen=True, kw_only=True)
class JudgeResult:
    """Measurements and pictures of an enhanced volume."""

    rows: Sequence[QualityRow] = ()
    picture: NDArray[np.uint8] | None = None
    report: ReportSummary | None = None
    viewer: Path | None = None

    @property
    def verdict(self) -> str | None:
        """A sentence that says whether network or filter is closer to the reference."""
        if self.rows or self.report is None:
            return verdict(self.rows) or None
        # The report measures the middle of a volume that is not read whole.
        found = verdict(self.report.quality)
        return f"{found} This was measured on the middle of the volume." if found else None

    def metrics(self) -> dict[str, float]:
        """All numbers under the names they are logged by."""
        values = {} if self.report is None else self.report.metrics()
        for row in self.rows:
            key = row.name.replace(" ", "_")
            values |= {f"psnr/{key}": row.psnr, f"ssim/{key}": row.ssim}
        return values


def judge(
    volume: Volume,
    grid: Grid,
    target: Target,
    reference: Volume | None,
    *,
    halves: Halves,
    warn: Callable[[str], None],
    metadata: Mapping[str, Any],
    with_report: bool = True,
) -> JudgeResult:
    """Measure, draw and report on what was made of the grid's region of a volume."""
    source = _region(volume, grid)
    enhanced = open_dataset(target.output, "data")
    with enhanced.file:
        offset, factor = float(enhanced.attrs["offset"]), float(enhanced.attrs["factor"])
        small = max(enhanced.size, math.prod(source.shape)) <= _LARGE
        image = (np.asarray(enhanced, dtype=np.float32) - offset) / factor if small else None
    rows: list[QualityRow] = []
    picture = None
    if image is not None:
        before = source.read((0, 0, 0), source.shape)[0]
        rows, picture = _compared(before, image[0] if image.ndim == 4 else image, reference)
        write_png(picture, target.picture)
    if not with_report:
        return JudgeResult(rows=rows, picture=picture)
    viewer = write_enhanced_viewer(target.output, source, note=viewer_note(metadata), warn=warn)
    # The report comes last: it tells the next call that this one was complete.
    report = _report(source, target, reference, halves, rows, warn, metadata, viewer)
    return JudgeResult(rows=rows, picture=picture, report=report, viewer=viewer)


def look_at_series(
    frame: Volume,
    grid: Grid,
    target: Target,
    *,
    warn: Callable[[str], None],
    metadata: Mapping[str, Any],
) -> JudgeResult:
    """Only a viewer, of the first frame."""
    note = f"first frame, {viewer_note(metadata)}"
    viewer = write_enhanced_viewer(target.output, frame, region=grid.region, note=note, warn=warn)
    return JudgeResult(viewer=viewer)


def viewer_note(metadata: Mapping[str, Any]) -> str:
    """Return the line below the viewer's title."""
    return ", ".join(f"{name} {value}" for name, value in metadata.items() if name != "tile")


def open_reference(entry: VolumeEntry, volume: Volume, grid: Grid, factor: Fraction) -> Volume:
    """The part of a reference that belongs to the grid's region of the input.

    Errors: `DataError` if the reference is neither of that region nor of the whole volume.
    """
    whole = Volume(entry)
    wanted = grid.output_shape(factor)
    if whole.shape == wanted:
        return whole
    if whole.shape != output_shape(volume.shape, factor):
        raise DataError(
            f"{entry.path}: the reference has {list(whole.shape)} voxels, the enhanced volume "
            f"{list(wanted)}; give one of the same region and resolution"
        )
    roi = tuple(
        (int(first * factor), int(first * factor) + n)
        for (first, _), n in zip(grid.region, wanted, strict=True)
    )
    return whole.part(roi)


def _region(volume: Volume, grid: Grid) -> Volume:
    """The part of the input that was enhanced, in the same grey values."""
    if grid.region == tuple((0, n) for n in volume.shape):
        return volume
    return volume.part(grid.region)


def _compared(
    source: Image, enhanced: Image, reference: Volume | None
) -> tuple[list[QualityRow], NDArray[np.uint8]]:
    """Quality rows if there is a reference, and slices side by side."""
    if reference is None:
        return [], comparison({"input": source, "enhanced": enhanced})
    truth = reference.read((0, 0, 0), reference.shape)[0]
    rows = compare_with_reference(enhanced, source, truth)
    filtered, _ = best_gaussian(on_grid(source, truth.shape), truth)
    columns = {
        "input": source,
        "best Gaussian": filtered,
        "enhanced": enhanced,
        "reference": truth,
    }
    return rows, comparison(columns)


def _report(
    source: Volume,
    target: Target,
    reference: Volume | None,
    halves: Halves,
    rows: Sequence[QualityRow],
    warn: Callable[[str], None],
    metadata: Mapping[str, Any],
    viewer: Path | None,
) -> ReportSummary | None:
    try:
        return write_report(
            target.report,
            target.report_picture,
            source=source,
            enhanced=target.output,
            metadata=metadata,
            reference=reference,
            halves=halves,
            quality=rows or None,
            viewer="" if viewer is None else viewer.name,
            overwrite=True,
        )
    except DataError as error:
        warn(f"no report: {error}")
        return None


def quality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """PSNR and SSIM of the input, of the best plain filter, and of the enhanced volume."""
    header = ["against the reference", "PSNR / dB", "SSIM", "sign of the fit"]
    cells = [
        [
            row["name"],
            f"{row['psnr']:.2f}",
            f"{row['ssim']:.3f}",
            "+" if row["slope"] > 0 else "- (inverted)",
        ]
        for row in rows
    ]
    return table(header, cells)


# -- The viewer of an enhanced volume: beside it, for a browser, and by the command `cyclegan
# viewer`
#
# The page shows true voxels: what does not fit is cropped around the centre, and the page says so.
# Only what it shows is read, so that it costs as little for a volume larger than the memory.

FITS = ("crop", "bin")


_ALL_MAPS = LIMIT
"""Voxels up to which all trust maps are shown; of larger volumes the doubt that sums them up."""


def write_enhanced_viewer(
    enhanced: Path,
    source: Volume | None,
    *,
    region: Sequence[tuple[int, int]] | None = None,
    note: str,
    warn: Callable[[str], None],
    path: Path | None = None,
    fit: Any = "crop",
) -> Path | None:
    """Write the viewer beside `enhanced`, or under `path`; None if that can't be shown, with why.

    `source` is the input, of which `region` was enhanced, or all of it.
    """
    path = path or viewer_beside(enhanced)
    try:
        with h5py.File(enhanced, "r") as file:
            layers = _chosen(enhanced_layers(file, source=source, region=region))
            write_viewer(path, layers, title=enhanced.name, note=note, fit=fit)
    except DataError as error:
        warn(f"no viewer: {error}")
        return None
    return path


def _chosen(layers: list[Layer]) -> list[Layer]:
    if sum(layer.data.size for layer in layers) <= _ALL_MAPS:
        return layers
    return [layer for layer in layers if layer.kind == "image" or layer.name == "doubt"]


def write_viewer_of(
    enhanced: Path,
    *,
    console: Console,
    output: Path | None = None,
    fit: str = "crop",
    overwrite: bool = False,
) -> Output:
    """Write the viewer of a volume that was enhanced before; with its input if that is found."""
    if fit not in FITS:
        raise UsageError(f"--fit {fit}: not known; {nearest(fit, FITS)}")
    open_file(enhanced).close()
    path = output or viewer_beside(enhanced)
    refuse_overwrite(path, overwrite)
    source, name, made = _input_of(enhanced)
    check_outputs({"the viewer": path}, [enhanced, *([source.entry.path] if source else [])])
    note = f"of {name} by {made}"
    try:
        if source is None:
            console.warn(f"without the input: {name} is not there, or has changed")
        written = write_enhanced_viewer(
            enhanced, source, note=note, warn=console.warn, path=path, fit=fit
        )
    finally:
        if source is not None:
            source.close()
    if written is None:
        raise DataError(f"{enhanced}: it has nothing to show")
    data = {"viewer": str(written), "input": None if source is None else name}
    return Output(data=data, text=f"written    {written}, open it in a browser")


def _input_of(enhanced: Path) -> tuple[Volume | None, str, str]:
    """The region of the input that `enhanced` was made of, by its attributes; its name; the model.

    Errors: `DataError` if that is no volume of `cyclegan enhance`.
    """
    try:
        with h5py.File(enhanced, "r") as file:
            attributes = dict(file["data"].attrs)
            shape = file["data"].shape
        path, _, dset = str(attributes["source"]).rpartition(":")
        region = tuple((int(first), int(end)) for first, end in attributes["roi"])
        mean, std = (float(attributes[f"input_{name}"]) for name in ("mean", "std"))
        on_load = bool(attributes["input_standardised_on_load"])
        wanted = str(attributes.get("source_hash", ""))
        made = f"model {attributes.get('model_version', attributes['model'])}"
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{enhanced}: `cyclegan enhance` did not write this file: {error}"
        ) from error
    name = f"{path}:{dset}"
    if len(shape) != 3:  # a series: its input is not a volume by itself
        return None, name, made
    for place in (Path(path), enhanced.parent / path, enhanced.parent / Path(path).name):
        if place.is_file() and wanted in ("", *file_hashes([place]).values()):
            volume = _opened(place, dset, region, Statistics(1, 0, mean, std), on_load)
            return volume, name, made
    return None, name, made


def _opened(
    path: Path, dset: str, region: Any, statistics: Statistics, on_load: bool
) -> Volume | None:
    try:
        return Volume(
            VolumeEntry(path=path, dset=dset, roi=region, fill_missing=True),  # as it was enhanced
            standardise="always" if on_load else "never",
            statistics=statistics,
        )
    except DataError:
        return None
