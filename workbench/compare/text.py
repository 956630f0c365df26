"""A comparison as text for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from tracking.retention import kind_of
from viz import units
from viz.text import table
from workbench.compare.result import ComparedImages, Comparison, MetricRow, PairAgreement
from workbench.compare.runs import ComparedRun, DataCheck

_VALUE = 28
_REASON = 160
_SHORT = 9
"""Most characters of a number that is shown as it is."""


def comparison_text(found: Comparison, width: int | None = None) -> str:
    """Return runs, warnings, differences, metrics, data and agreement of images as text."""
    parts = [
        _runs(found.runs),
        "\n".join(_wrapped(f"warning: {line}", width) for line in found.warnings),
        _parameters(found),
        _metrics(found),
        _data(found.data),
        images_text(found.images, width),
    ]
    return "\n\n".join(part for part in parts if part)


def _runs(runs: Sequence[ComparedRun]) -> str:
    header = ("", "run", "id", "kind", "outcome", "steps", "time", "why")
    rows = [
        (
            str(run.number),
            run.info.name,
            run.info.id[:8],
            kind_of(run.info),
            run.outcome,
            "" if run.steps is None else f"{run.steps:,}",
            units.took(round(1000 * run.seconds)),
            run.reason[:_REASON],
        )
        for run in runs
    ]
    return table(header, rows, words=("run", "id", "kind", "outcome", "why"))


def _parameters(found: Comparison) -> str:
    parts = []
    for what, group in (("parameter", found.parameters), ("made with", found.environment)):
        if group.values:
            header = (what, *(str(run.number) for run in found.runs))
            rows = [
                (name, *(units.shortened(value_text(value or "–"), _VALUE) for value in values))
                for name, values in group.values.items()
            ]
            parts.append(table(header, rows, words=(what,)))
    if not found.parameters.values:
        parts.insert(0, "no parameter differs")
    count = units.count(found.parameters.same, "parameter")
    return "\n\n".join([*parts, f"same: {count}"])


def _metrics(found: Comparison) -> str:
    begins = ("psnr/", "ssim/", "resolution_voxels/")
    shown = [row for row in found.last if row.name == "score" or row.name.startswith(begins)]
    rows = [*_cells(found.judged), *_cells(shown, " at the end")]
    if not rows:
        return "no metrics to compare"
    header = ("metric", *(str(run.number) for run in found.runs))
    told = "* best" if any(row.best for row in (*found.judged, *shown)) else ""
    return "\n".join(filter(None, [table(header, rows, words=("metric",)), told]))


def _cells(rows: Sequence[MetricRow], suffix: str = "") -> list[tuple[str, ...]]:
    return [
        (
            row.name + (suffix if row.name == "score" else ""),
            *(number_text(v) + ("*" if i in row.best else " ") for i, v in enumerate(row.values)),
        )
        for row in rows
    ]


def number_text(value: float | None) -> str:
    """Return a number with four digits, an integer in full, and None as a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) else f"{value:.4g}"


def value_text(value: str) -> str:
    """Return a parameter's value, a long fraction with six digits."""
    try:
        return value if len(value) <= _SHORT else f"{float(value):.6g}"
    except ValueError:
        return value


def _data(data: DataCheck) -> str:
    told = {True: "the same", False: "different", None: "not known whether the same"}
    said = (f"{name} {told[data.equal(name)]}" for name in data.hashes)
    return "data: " + ", ".join(said) if data.hashes else ""


def images_text(images: ComparedImages, width: int | None = None) -> str:
    """Return the agreement of the images, and what is missing, as text."""
    lines = []
    if images.pairs:
        header = ("runs", "correlation", "rms difference", "largest", "agree down to")
        rows = [
            (
                f"{a} and {b}",
                f"{pair.difference.correlation:.4f}",
                f"{pair.difference.rms:.4g}",
                f"{pair.difference.largest:.4g}",
                agreement_text(pair, images.voxel_um),
            )
            for (a, b), pair in images.pairs.items()
        ]
        known = [n for n in images.runs if n in images.iterations]
        at = "; ".join(f"run {n} at iteration {images.iterations[n]:,}" for n in known)
        of = f" ({at})" if at else ""
        lines += [
            _wrapped(f"{images.what}{of}, {images.region}", width),
            table(header, rows, words=("runs",)),
            _wrapped(
                "Two runs stop agreeing where their shell correlation falls below 0.5: at least "
                "one invents finer detail. Noise that both pass on from one input counts as "
                "agreement.",
                width,
            ),
        ]
    lines += [_wrapped(f"missing: {line}", width) for line in images.remarks]
    return "\n".join(lines)


def agreement_text(pair: PairAgreement, voxel_um: float | None) -> str:
    """Return the finest period at which two runs agree, as text."""
    if pair.voxels is None:
        return "–"
    if math.isinf(pair.voxels):
        return "nowhere"
    length = "" if voxel_um is None else f" ({pair.voxels * voxel_um:.3g} um)"
    limit = ", the finest there is" if pair.voxels == 2 else ""
    return f"{pair.voxels:.3g} voxels{length}{limit}"


def _wrapped(line: str, width: int | None) -> str:
    return line if width is None else "\n".join(textwrap.wrap(line, width, subsequent_indent="  "))
