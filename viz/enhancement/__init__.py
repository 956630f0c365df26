"""The report beside an enhanced volume: an HTML page and a picture by which people judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from cyclegan.data import Volume
from cyclegan.errors import DataError
from cyclegan.files import refuse_overwrite, replacing, write_text
from cyclegan.metrics.quality import QualityRow
from cyclegan.numbers import only_finite
from viz.enhancement import figures
from viz.enhancement.measure import Halves, Measurements, measure, resolution_rows
from viz.enhancement.page import page
from viz.enhancement.reading import DoubtfulPlace, Images, MapSummary
from viz.plots import Plot

__all__ = ["DoubtfulPlace", "Halves", "MapSummary", "ReportSummary", "write_report"]

SHOWN_PLACES = 4
"""Number of doubtful places whose surroundings are shown."""


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """The results of a report, for other programs."""

    html: Path
    png: Path
    maps: tuple[MapSummary, ...]
    places: tuple[DoubtfulPlace, ...]
    """The most doubtful ones, in voxels of the enhanced volume."""
    quality: tuple[QualityRow, ...]
    resolution_voxels: Mapping[str, float]
    """Resolution by curve and criterion, in voxels of the enhanced volume."""
    slope: float | None
    """Slope of the grey match of enhanced volume and input; 0 or less: inverted or lost."""

    def metrics(self) -> dict[str, float]:
        """Return all finite numbers under the names by which they are logged."""
        values: dict[str, float] = {}
        for summary in self.maps:
            for part in ("mean", "p95", "p99"):
                values[f"{summary.name}_{part}"] = getattr(summary, part)
        for row in self.quality:
            key = row.name.replace(" ", "_")
            values |= {f"psnr/{key}": row.psnr, f"ssim/{key}": row.ssim}
        for name, voxels in self.resolution_voxels.items():
            values[f"resolution_voxels/{name}"] = voxels
        return only_finite(values)


def write_report(
    path_html: Path,
    path_png: Path,
    *,
    source: Volume,
    enhanced: Path,
    metadata: Mapping[str, object],
    reference: Volume | None = None,
    halves: Halves | None = None,
    quality: Sequence[QualityRow] | None = None,
    viewer: str = "",
    overwrite: bool = False,
) -> ReportSummary:
    """Write the report on an enhanced volume: an HTML page, and its slices as a PNG.

    Args:
        source: the input, or the region of it that was enhanced.
        enhanced: the HDF5 file with the dataset `data` and, if they were made, `trust/...`.
        metadata: shown as a table: model, run, tile, precision and so on.
        reference: a volume of the same region and resolution as the enhanced one.
        halves: by name, two volumes with the same signal and independent noise, of the input's or
            the enhanced volume's shape, such as `{"input": (even, odd)}`.
        quality: rows against the reference, if they have been computed already.
        viewer: name of a page beside the report that shows the volume, linked at its top.

    Volumes may be larger than memory: the report reads slices, the middle 160^3 voxels and blocks
    spread over the volume, and the trust maps slab by slab. It shows the first of several channels.

    Errors: `DataError` for files that exist or volumes that don't belong together; a one-line error
    for a full disk.
    """
    for path in (path_html, path_png):
        refuse_overwrite(path, overwrite)
    try:
        handle = h5py.File(enhanced, "r")
    except OSError as error:
        raise DataError(f"{enhanced}: not a readable HDF5 file: {error}") from error
    with handle:
        images = Images(source, handle, reference)
        found = measure(images, halves or {}, quality)
        pictures = _pictures(images, found)
        size = None if source.voxel_size_um is None else source.voxel_size_um[0] / images.factor
        title = f"{enhanced.name}: enhanced from {source.name}"
        curves = _curves(found)
        text = page(title, found, pictures, curves, metadata, size, images.factor, viewer)
    with replacing(path_png) as temporary:
        temporary.write_bytes(pictures["slices"])
    write_text(path_html, text)
    return ReportSummary(
        html=path_html,
        png=path_png,
        maps=found.maps,
        places=found.places,
        quality=found.quality,
        resolution_voxels={
            f"{name} {criterion}".replace(": ", "_").replace(" ", "_").replace("/", "_"): voxels
            for name, criterion, voxels, _ in resolution_rows(found, None)
        },
        slope=found.slope,
    )


def _pictures(images: Images, found: Measurements) -> dict[str, bytes]:
    pictures = {"slices": figures.slices_figure(images)}
    if found.places:
        pictures["places"] = figures.places_figure(images, found.places[:SHOWN_PLACES])
    return pictures


def _curves(found: Measurements) -> dict[str, Plot]:
    curves = {
        "spectra": figures.spectra_figure(found),
        "histogram": figures.histogram_figure(found),
    }
    if found.correlations:
        curves["correlation"] = figures.correlation_figure(found)
    return curves
