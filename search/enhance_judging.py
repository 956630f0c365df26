"""What can be said about an enhanced volume: quality against a reference, slices, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Volume, VolumeEntry, open_dataset
from cyclegan.enhance import Enhanced
from cyclegan.errors import DataError
from cyclegan.grid import Grid, output_shape
from cyclegan.pictures import comparison, write_png
from cyclegan.quality import QualityRow, best_gaussian, compare_with_reference
from cyclegan.report import ReportSummary, write_report
from search.enhance_request import Target
from search.tables import table

Image = NDArray[np.float32]
_LARGE = 200_000_000
"""Volumes of more voxels are not read whole for a picture or a measurement."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was measured and drawn."""

    rows: Sequence[QualityRow] = ()
    picture: NDArray[np.uint8] | None = None
    report: ReportSummary | None = None

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
    done: Enhanced,
    target: Target,
    *,
    dataset: str,
    reference: Path | None,
    series: bool,
    say: Callable[[str], None],
    metadata: Mapping[str, Any],
) -> Judged:
    """Measure, draw and report; of a series the volumes are all there is."""
    if series:
        return Judged()
    source = _region(volume, grid)
    enhanced = open_dataset(done.path, "data")
    with enhanced.file:
        factor = float(enhanced.attrs["factor"]), float(enhanced.attrs["offset"])
        small = max(enhanced.size, int(np.prod(source.shape))) <= _LARGE
        image = (np.asarray(enhanced) - factor[1]) / factor[0] if small else None
    rows, picture = [], None
    truth = None if reference is None else _reference(reference, dataset, volume, grid, done.shape)
    if image is not None:
        before = source.read((0, 0, 0), source.shape)[0]
        rows, picture = _compared(before, image[-1] if image.ndim == 4 else image, truth)
        write_png(picture, target.picture)
    report = _report(source, target, truth, rows, say, metadata)
    return Judged(rows=rows, picture=picture, report=report)
