"""The tables of `alternatives.py`: on a terminal, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alternatives_judge import CRITERION, RIM
from alternatives_results import Record
from alternatives_rows import ROWS
from alternatives_sets import SETS, DataSet

COLUMNS = {
    "psnr": ("PSNR / dB", 2),
    "ssim": ("SSIM", 3),
    "resolution": ("resolution / voxels", 1),
    "train_seconds": ("training / s", 0),
    "enhance_seconds": ("enhancing / s", 1),
}
"""Heading and decimals by key of a record."""
HEAD = ["", *(title for title, _ in COLUMNS.values()), "parameter"]
Found = Mapping[str, Sequence[Record]]
"""Finished rows by data set."""


def lines_of(records: Sequence[Record]) -> list[list[str]]:
    """Return a line of cells for every finished row: means over seeds, and the spread."""
    lines = []
    for name, same in _by_row(records).items():
        cells = [_cell([r[key] for r in same], digits) for key, (_, digits) in COLUMNS.items()]
        lines.append([name, *cells, _parameters(same)])
    return lines


def text(found: Found) -> str:
    """Return the tables for a terminal."""
    parts = []
    for name, records in found.items():
        rows = [HEAD, *lines_of(records)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        body = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        parts.append("\n".join([f"{SETS[name].title}; against {SETS[name].reference}", *body]))
    return "\n\n".join(parts)


def figures(found: Found) -> dict[str, Any]:
    """Return means over seeds by data set and row, with every seed's own figures."""
    keys = [*COLUMNS, "slope", "parameter", "seed"]
    return {
        name: {
            row: {
                **{key: _mean([r[key] for r in same]) for key in COLUMNS},
                "seeds": [{key: r[key] for key in keys} for r in same],
            }
            for row, same in _by_row(records).items()
        }
        for name, records in found.items()
    }


def markdown(found: Found, command: str, pictures: Mapping[str, str]) -> str:
    """Return the page docs/alternatives.md; `pictures` has their addresses by data set."""
    used = [row for row in ROWS if any(row in _by_row(records) for records in found.values())]
    missing = [row for row in ROWS if row not in used]
    parts = [
        _OPENING.format(command=command, rim=RIM, criterion=CRITERION),
        "| row | what it is |\n|---|---|\n"
        + "\n".join(f"| {row} | {ROWS[row].about} |" for row in used),
    ]
    if missing:
        parts.append(f"Not run here: {', '.join(missing)}.")
    parts += [_section(SETS[name], records, pictures.get(name)) for name, records in found.items()]
    return "\n\n".join(parts) + "\n"


_OPENING = """# What you could use instead

This page compares this software with what you could use instead, on data that its recipes were
not chosen on (docs/recipe.md says on which). The benchmark writes this page:

    {command}

Every image is fitted to the reference by an offset and a slope of 0 or more, in all rows alike.
Then PSNR and SSIM are measured (SSIM in 3D, Gaussian window of 1.5 voxels). The data range of both
is the span from the 0.1 to the 99.9 percentile of the reference. The resolution is the full period,
in voxels of the reference, at which the Fourier shell correlation with the reference falls below
{criterion}; no filter that only weights frequencies changes it much. {rim} voxels at every face
do not count. Figures are means over seeds, ± half the range over seeds; without random draws there
is one figure. Every row was computed on one thread. Seconds are those of the processor; other work
on the same machine can still double them; where it did worse, they were left out. A row that
RESULTS already held, made with the same settings, was not computed again.

Filters are shown at their best: their parameters were chosen with the reference, which nobody has
in practice. At 2x and 4x each was tried before and after cubic interpolation. The last column has
the parameter of a filter, the steps of a training, or the step whose generator was taken."""


def _section(data: DataSet, records: Sequence[Record], picture: str | None) -> str:
    caption = "One slice by every alternative, PSNR and SSIM above it"
    shown = [f"![{caption}]({picture})"] if picture else []
    rows = [HEAD, ["---"] * len(HEAD), *lines_of(records)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([f"## {data.title}", *shown, f"Against {data.reference}.", table])


def _by_row(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records by row, in the order of the table, sorted by seed."""
    ordered = sorted(records, key=lambda record: record["seed"] or 0)
    groups = {name: [r for r in ordered if r["row"] == name] for name in ROWS}
    return {name: group for name, group in groups.items() if group}


def _cell(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{_mean(known):.{digits}f}"
    spread = (max(known) - min(known)) / 2
    return mean if len(known) == 1 else f"{mean} ± {spread:.{digits}f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _parameters(records: Sequence[Record]) -> str:
    texts = list(dict.fromkeys(record["parameter"] for record in records))
    inverted = [r for r in records if r["slope"] < 0]
    note = f"; {len(inverted)} of {len(records)} inverted" if inverted else ""
    return "; ".join(texts) + note
