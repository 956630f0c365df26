"""The report as one HTML page without scripts or external files; all text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

from cyclegan.metrics.quality import verdict
from viz.enhancement.measure import Measurements, resolution_rows
from viz.html import document

WARNING = (
    "A CycleGAN can invent. It has learned what good scans look like, and where the input does not "
    "decide, it draws what is usual: a fibre that is not there, a crack closed, a void filled. "
    "Such hallucinations look as sharp and as convincing as what is real. Compare the enhanced "
    "volume with its input, above all at the doubtful places below, before you measure anything in "
    "it. Low doubt is no proof: docs/trust.md says what these maps cannot see."
)
INVERTED = (
    "The enhanced volume gets darker where the input gets brighter: its contrast is inverted or "
    "lost. Do not use it."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
       max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin: 1.8em 0 .4em; }
table { border-collapse: collapse; margin: .5em 0; }
th, td { padding: .2em .9em .2em 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
p.note { color: #555; font-size: .9em; margin: .3em 0; }
.warning { border-left: 5px solid #d9a400; background: #fff8e1; padding: .6em 1em; }
.alarm { border-left: 5px solid #c62828; background: #fdecea; padding: .6em 1em; font-weight: 600; }
"""


def page(
    title: str,
    found: Measurements,
    figures: Mapping[str, bytes],
    metadata: Mapping[str, object],
    voxel_size_um: float | None,
    factor: int,
    viewer: str = "",
) -> str:
    """Return the whole document. `figures` are PNG bytes by name; missing ones are left out."""
    alarms = [INVERTED] if found.slope is not None and found.slope <= 0 else []
    alarms += [
        f"'{row.name}' fits the reference with a negative slope: its contrast is inverted."
        for row in found.quality
        if row.slope < 0
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="alarm">{escape(text)}</p>' for text in alarms),
        f'<p class="warning">{escape(WARNING)}</p>',
        _look(viewer),
        _section("Slices through the middle", _image(figures, "slices")),
        _section("Where to doubt it", _trust(found, figures, voxel_size_um, factor)),
        _section("Against the reference", _quality(found)) if found.quality else "",
        _section("Resolution", _resolution(found, figures, voxel_size_um)),
        _section("Spectra and noise", _spectra(found, figures)),
        _section("Grey values", _image(figures, "histogram")),
        _section("How it was made", _table(("", ""), [(k, str(v)) for k, v in metadata.items()])),
        *(f'<p class="note">{escape(remark)}</p>' for remark in found.remarks),
    ]
    return document(title, _STYLE, parts)


def _look(viewer: str) -> str:
    if not viewer:
        return ""
    return (
        f'<p><a href="{quote(viewer)}">Look into the volume</a>: the viewer {escape(viewer)} lies '
        "beside this page; in MLflow it is viewer.html among the same run's artifacts.</p>"
    )


def _trust(
    found: Measurements, figures: Mapping[str, bytes], voxel_size_um: float | None, factor: int
) -> str:
    if not found.maps:
        return _note("No trust maps were made; enhance with them to see where to doubt the result.")
    rows = [
        (s.name.removeprefix("trust/"), *map(_number, (s.mean, s.p95, s.p99, s.highest)))
        for s in found.maps
    ]
    text = _table(("map", "mean", "95 % are below", "99 % are below", "highest"), rows)
    text += _note(
        "consistency: enhanced against input, low-passed. cycle: translated back against input. "
        "disagreement: spread over flipped passes. All in grey values. doubt: their combination; 1 "
        "is typical of this volume, 3 and more deserves a look."
    )
    if not found.places:
        return text
    header = ["", "doubt", "z, y, x (enhanced)", "z, y, x (input)"]
    header += ["z, y, x / µm"] if voxel_size_um else []
    lines = []
    for rank, spot in enumerate(found.places, start=1):
        line = [str(rank), _number(spot.value), _place(spot.place)]
        line.append(_place([p // factor for p in spot.place]))
        if voxel_size_um:
            line.append(", ".join(f"{p * voxel_size_um:.1f}" for p in spot.place))
        lines.append(tuple(line))
    text += "<h3>The most doubtful places</h3>" + _table(header, lines)
    return text + _image(figures, "places")


def _quality(found: Measurements) -> str:
    rows = []
    for row in found.quality:
        name = row.name if row.sigma is None else f"{row.name}, {row.sigma:g} voxels"
        sign = "+" if row.slope > 0 else "− (inverted)" if row.slope < 0 else "0"
        rows.append((name, f"{row.psnr:.2f}", f"{row.ssim:.3f}", f"{row.slope:.3g}", sign))
    text = _table(("", "PSNR / dB", "SSIM", "slope of the fit", "sign"), rows)
    text += f"<p>{escape(verdict(found.quality))}</p>"
    return text + _note(
        "Each image is first fitted to the reference by one slope and one offset. After that an "
        "inverted image scores as high as an upright one: mind the sign."
    )


def _resolution(
    found: Measurements, figures: Mapping[str, bytes], voxel_size_um: float | None
) -> str:
    if not found.correlations:
        return _note(
            "No Fourier shell correlation: it needs a reference, or two independent halves of the "
            "scan (such as even and odd projections)."
        )
    rows = []
    for name, criterion, voxels, length in resolution_rows(found, voxel_size_um):
        row = [name, criterion, f"{voxels:.2f}"]
        row += [] if voxel_size_um is None else ["" if length is None else f"{length:.2f}"]
        rows.append(tuple(row))
    header = ["Fourier shell correlation", "criterion", "resolution / enhanced voxels"]
    header += [] if voxel_size_um is None else ["µm"]
    text = _image(figures, "correlation") + _table(header, rows)
    return text + _note(
        "Full periods, at the first crossing. 2 voxels of the volume compared is the finest "
        "possible. Enhanced halves agree on what the network invents in both, too: only the "
        "input's halves, or a reference, measure the scan."
    )


def _spectra(found: Measurements, figures: Mapping[str, bytes]) -> str:
    text = _image(figures, "spectra")
    return text + (_note(f"Noise measured on {found.noise_source}.") if found.noise_source else "")


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _image(figures: Mapping[str, bytes], name: str) -> str:
    if name not in figures:
        return ""
    data = base64.b64encode(figures[name]).decode("ascii")
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = f"<thead><tr>{top}</tr></thead>" if any(header) else ""
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _place(place: Sequence[int]) -> str:
    return ", ".join(map(str, place))
