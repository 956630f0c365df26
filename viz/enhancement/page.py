"""The values of the report's page, which the template report.html shows; it has no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cyclegan.metrics.quality import verdict
from viz.enhancement.measure import Measurements, resolution_rows
from viz.html import drawn, render

WARNING = (
    "A CycleGAN can invent detail. It has learned what good scans look like, and where the input "
    "leaves room it draws what is usual: it may add a fibre, close a crack or fill a void. "
    "Such hallucinations look as sharp and convincing as real structure. Compare the enhanced "
    "volume with its input, above all at the doubtful places below, before you measure anything in "
    "it. Low doubt is no proof: docs/trust.md says what these maps cannot see."
)
INVERTED = (
    "The enhanced volume gets darker where the input gets brighter: its contrast is inverted or "
    "lost. Do not use it."
)


def page(
    title: str,
    found: Measurements,
    pictures: Mapping[str, bytes],
    figures: Mapping[str, Figure],
    metadata: Mapping[str, object],
    voxel_size_um: float | None,
    factor: int,
    viewer: str = "",
) -> str:
    """Return the whole document. `pictures` are PNG bytes by name; missing ones are left out."""
    size = voxel_size_um
    return render(
        "report.html",
        Path(__file__).parent,
        title=title,
        warning=WARNING,
        alarms=_alarms(found),
        viewer=viewer,
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()},
        drawings={name: drawn(figure, name) for name, figure in figures.items()},
        numbers=("", "number", "number", "number", "number"),
        maps=[
            (s.name.removeprefix("trust/"), *map(_number, (s.mean, s.p95, s.p99, s.highest)))
            for s in found.maps
        ],
        places=_places(found, size, factor),
        places_header=(
            *("", "doubt", "z, y, x (enhanced)", "z, y, x (input)"),
            *(("z, y, x / µm",) if size else ()),
        ),
        quality=_quality(found),
        verdict=verdict(found.quality) if found.quality else "",
        resolution=_resolution(found, size),
        resolution_header=(
            *("Fourier shell correlation", "criterion", "resolution / enhanced voxels"),
            *(() if size is None else ("µm",)),
        ),
        noise_source=found.noise_source,
        metadata=[(key, str(value)) for key, value in metadata.items()],
        remarks=found.remarks,
    )


def _alarms(found: Measurements) -> list[str]:
    alarms = [INVERTED] if found.slope is not None and found.slope <= 0 else []
    return alarms + [
        f"'{row.name}' fits the reference with a negative slope: its contrast is inverted."
        for row in found.quality
        if row.slope < 0
    ]


def _places(found: Measurements, voxel_size_um: float | None, factor: int) -> list[list[str]]:
    rows = []
    for rank, spot in enumerate(found.places, start=1):
        row = [str(rank), _number(spot.value), _place(spot.place)]
        row.append(_place([p // factor for p in spot.place]))
        if voxel_size_um:
            row.append(", ".join(f"{p * voxel_size_um:.1f}" for p in spot.place))
        rows.append(row)
    return rows


def _quality(found: Measurements) -> Sequence[tuple[str, ...]]:
    rows = []
    for row in found.quality:
        name = row.name if row.sigma is None else f"{row.name}, {row.sigma:g} voxels"
        sign = "+" if row.slope > 0 else "− (inverted)" if row.slope < 0 else "0"
        rows.append((name, f"{row.psnr:.2f}", f"{row.ssim:.3f}", f"{row.slope:.3g}", sign))
    return rows


def _resolution(found: Measurements, voxel_size_um: float | None) -> list[list[str]]:
    rows = []
    for name, criterion, voxels, length in resolution_rows(found, voxel_size_um):
        row = [name, criterion, f"{voxels:.2f}"]
        row += [] if voxel_size_um is None else ["" if length is None else f"{length:.2f}"]
        rows.append(row)
    return rows


def _number(value: float) -> str:
    return f"{value:.3g}"


def _place(place: Sequence[int]) -> str:
    return ", ".join(map(str, place))
