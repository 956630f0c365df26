"""What can be said about an enhanced volume: quality against a reference, slices, the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Volume, VolumeEntry, open_dataset
from cyclegan.enhance.grid import Grid, output_shape
from cyclegan.errors import DataError
from cyclegan.metrics.quality import (
    QualityRow,
    best_gaussian,
    compare_with_reference,
    on_grid,
    verdict,
)
from viz.enhancement import Halves, ReportSummary, write_report
from viz.pictures import comparison, write_png
from viz.text import table
from workbench.enhance.request import Target
from workbench.enhance.viewer import write_enhanced_viewer

Image = NDArray[np.float32]
_LARGE = 200_000_000
"""Volumes of more voxels are not read whole for a picture or a measurement."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was measured and drawn."""

    rows: Sequence[QualityRow] = ()
    picture: NDArray[np.uint8] | None = None
    report: ReportSummary | None = None
    viewer: Path | None = None

    @property
    def verdict(self) -> str | None:
        """Who is closer to the reference, in words; None if there is none to compare with."""
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
    say: Callable[[str], None],
    metadata: Mapping[str, Any],
    with_report: bool = True,
) -> Judged:
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
        return Judged(rows=rows, picture=picture)
    viewer = write_enhanced_viewer(target.output, source, note=viewer_note(metadata), say=say)
    # The report comes last: by it a call tells that the one before was complete.
    report = _report(source, target, reference, halves, rows, say, metadata, viewer)
    return Judged(rows=rows, picture=picture, report=report, viewer=viewer)


def look_at_series(
    frame: Volume,
    grid: Grid,
    target: Target,
    *,
    say: Callable[[str], None],
    metadata: Mapping[str, Any],
) -> Judged:
    """Only a viewer, of the first frame."""
    note = f"first frame, {viewer_note(metadata)}"
    viewer = write_enhanced_viewer(target.output, frame, region=grid.region, note=note, say=say)
    return Judged(viewer=viewer)


def viewer_note(metadata: Mapping[str, Any]) -> str:
    """What the viewer says below its title."""
    return ", ".join(f"{name} {value}" for name, value in metadata.items() if name != "tile")


def open_reference(
    path: Path, dataset: str, volume: Volume, grid: Grid, factor: Fraction
) -> Volume:
    """The part of a reference that belongs to the grid's region of the input.

    Errors: `DataError` if the reference is neither of that region nor of the whole volume.
    """
    whole = Volume(VolumeEntry(path=path, dset=dataset))
    wanted = grid.output_shape(factor)
    if whole.shape == wanted:
        return whole
    if whole.shape != output_shape(volume.shape, factor):
        raise DataError(
            f"{path}: the reference has {list(whole.shape)} voxels, the enhanced volume "
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
    say: Callable[[str], None],
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
        say(f"no report: {error}")
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
