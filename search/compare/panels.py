"""The panels of a comparison's page: HTML from facts; empty where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from cyclegan.agreement import HALF
from search.compare.metrics import MetricRow
from search.compare.parameters import short_hash
from search.compare.result import Comparison
from search.compare.text import agreement_text, number_text
from search.pages.images import address, figure
from search.pages.plot import Axes, Series, plot
from search.runs import words
from search.study.figures.style import score_range
from search.study.tables import short_time
from tracking.stored import kind_of

History = Mapping[int, float]
_WIDE, _SMALL = (980.0, 320.0), (480.0, 280.0)
_LONG = 120


def runs(found: Comparison) -> str:
    """One line a run: what it is and how it ended."""
    names = ("", "run", "id", "kind", "outcome", "score", "steps", "time", "why it ended")
    rows = [
        [
            _chip(run.number),
            escape(run.info.name),
            f"<code>{escape(run.info.id)}</code>",
            escape(kind_of(run.info)),
            escape(run.outcome),
            "–" if run.score is None else f"{run.score:.2f}",
            "–" if run.steps is None else f"{run.steps:,}",
            short_time(run.seconds),
            escape(run.reason[:400]),
        ]
        for run in found.runs
    ]
    return _table(names, rows)


def parameters(found: Comparison) -> str:
    """Only those that differ."""
    count = words.count(found.parameters.same, "parameter")
    tables = [
        _values(found, group.values, what)
        for what, group in (("parameter", found.parameters), ("made with", found.environment))
        if group.values
    ]
    if not found.parameters.values:
        tables.insert(0, "<p>No parameter differs.</p>")
    return "".join(tables) + f'<p class="note">The same in all runs: {count}.</p>'


def data(found: Comparison) -> str:
    """What each run was judged on."""
    told = {True: "the same", False: "<b>different</b>", None: "not known"}
    rows = [
        [
            escape(name),
            told[found.data.equal(name)],
            *(escape(words.shortened(short_hash(value), 40)) for value in values),
        ]
        for name, values in found.data.hashes.items()
    ]
    return _table(("data", "", *_numbers(found)), rows) if rows else ""


def metrics(found: Comparison) -> str:
    """The score where it was judged, then the last value of all metrics."""
    if not found.judged and not found.last:
        return ""
    note = '<p class="note">Bold: the best. Parts are those of the validation that counted.</p>'
    judged = _metric_table(found, found.judged) if found.judged else ""
    last = _metric_table(found, found.last)
    return f"{note}{judged}<details><summary>Every metric at the end</summary>{last}</details>"


def score(found: Comparison) -> str:
    """The score of all runs on one plot."""
    curves = {run.number: run.curve for run in found.runs if run.curve}
    if not curves:
        return ""
    low, high = score_range([value for curve in curves.values() for value in curve.values()])
    margin = 0.06 * (high - low)
    axes = Axes(
        x="iteration",
        y="score (higher is better)",
        about=f"Scores of {len(curves)} runs by iteration.",
        limits=(low - margin, high + margin),
        size=_WIDE,
    )
    rim = '<p class="note">What lies far below the others is drawn on the lower rim.</p>'
    return f'{rim}<div class="wide">{plot(_series(found, curves), axes)}</div>'


def losses(found: Comparison, histories: Mapping[str, Mapping[int, History]]) -> str:
    """One plot a loss with all runs on it."""
    plots = []
    for name, curves in histories.items():
        values = [value for curve in curves.values() for value in curve.values()]
        axes = Axes(
            x="iteration",
            y=name.removeprefix("loss/"),
            about=f"{name} of {len(curves)} runs by iteration.",
            log_y=bool(values) and min(values) > 0 and max(values) > 10 * min(values),
            size=_SMALL,
        )
        plots.append(plot(_series(found, curves), axes))
    return f'<div class="many plots">{"".join(plots)}</div>' if any(plots) else ""


def slices(found: Comparison) -> str:
    """Input, what each run made of it, and a real slow scan, on one scale of greys."""
    shown = found.images.shown
    if not shown:
        return ""
    names = {run.number: run.name for run in found.runs}
    first = next(iter(shown.values()))
    figures = []
    if "real_A" in first.slices:
        source = address(first.slices["real_A"], lossless=True)
        figures.append(figure(source, "real_A", "what they start from"))
    for number, one in shown.items():
        made = one.slices.get("fake_B", one.slices.get("enhanced"))
        if made is None:
            continue
        caption = one.caption + ("" if one.same_input else "; of another patch, on its own greys")
        drawn = figure(address(made, lossless=True), names[number], caption)
        figures.append(drawn.replace("<figure", f'<figure data-runs="{number}"', 1))
    if "real_B" in first.slices:
        source = address(first.slices["real_B"], lossless=True)
        figures.append(figure(source, "real_B", "a slow scan, elsewhere: how it should look"))
    whole = "".join(
        f'<figure data-runs="{number}"><figcaption><b>{escape(names[number])}</b>, '
        f'{escape(one.caption)}</figcaption><img loading="lazy" '
        f'alt="The six images of {escape(names[number])}" src="{address(one.whole)}"></figure>'
        for number, one in shown.items()
        if one.whole is not None
    )
    more = f"<details><summary>All six images of each</summary>{_whole(whole)}</details>"
    return (
        '<p class="note">Central slices of the same held-out region, greys on one scale.</p>'
        f'<div class="slices">{"".join(figures)}</div>{more if whole else ""}'
    )


def differences(found: Comparison) -> str:
    """Central slices of each run less the first."""
    images = found.images
    names = {run.number: run.name for run in found.runs}
    figures = "".join(
        f'<figure data-runs="{a} {b}"><figcaption><b>{escape(names[b])}</b><br>less '
        f"{escape(names[a])}: rms {images.pairs[a, b].difference.rms:.3g}</figcaption>"
        f'<img alt="Difference of {escape(names[b])} and {escape(names[a])}" '
        f'src="{address(picture, lossless=True)}"></figure>'
        for (a, b), picture in images.differences.items()
        if (a, b) in images.pairs
    )
    if not figures:
        return ""
    return (
        f'<p class="note">Central xy slice; red is brighter, blue darker, full colour '
        f"{images.limit:.3g} grey values. Noise here is harmless, structure is not: one of the two "
        f'shows what is not there, or hides what is.</p><div class="slices">{figures}</div>'
    )


def spectra(found: Comparison) -> str:
    """Radial power of every run, and of what it should be like."""
    images = found.images
    named = {run.number: run.name for run in found.runs}
    series = [
        Series(name=named[n], points=_points(curve), runs=(n,), label=str(n))
        for n, curve in images.spectra.items()
    ]
    series += [
        Series(name=name, points=_points(curve), label=name, dashed=True)
        for name, curve in images.references.items()
    ]
    about = f"Radial power spectra of {images.what} of {len(images.spectra)} runs."
    axes = Axes(
        x="cycles per voxel", y="power", about=about, log_y=True, x_end=0.5, size=(980.0, 340.0)
    )
    drawn = plot(series, axes)
    note = (
        "Dashed: real images. A spectrum below real_B's is too smooth, one above it too rough."
        if images.references
        else "Mean over blocks spread over the volume."
    )
    return f'<p class="note">{note}</p><div class="wide">{drawn}</div>' if drawn else ""


def agreement(found: Comparison) -> str:
    """Shell correlation of every pair, where it ends, and how far they lie apart."""
    images = found.images
    if not images.pairs:
        return ""
    series = [
        Series(
            name=f"{a} and {b}: agree down to {agreement_text(pair, images.voxel_um)}",
            points=_points((pair.curve.frequencies, pair.curve.correlation)),
            runs=(b, a) if a == images.runs[0] else (a, b),
            label=f"{a}–{b}",
            dashed=a != images.runs[0],
        )
        for (a, b), pair in images.pairs.items()
        if pair.curve is not None
    ]
    axes = Axes(
        x="cycles per voxel",
        y="shell correlation (FSC)",
        about=f"Fourier shell correlation of {len(series)} pairs of runs.",
        limits=(min(0.0, *(v for s in series for _, v in s.points), 0.0), 1.02),
        level=HALF,
        x_end=0.5,
        size=(980.0, 340.0),
    )
    return (
        f'<p class="note">{escape(images.region)}. Below 0.5 (dashed) more of what two runs show '
        "is their own than they have in common: of detail finer than that at least one of them "
        "invents. Where they agree both may still be wrong.</p>"
        f'<div class="wide">{plot(series, axes)}</div>{_matrix(found)}'
    )


def missing(found: Comparison) -> str:
    """What could not be compared, and why."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.images.remarks)
    return f"<ul>{lines}</ul>" if lines else ""


def _matrix(found: Comparison) -> str:
    """Above the diagonal where pairs stop agreeing, below it how they correlate."""
    images, numbers = found.images, found.images.runs
    rows = []
    for a in numbers:
        cells = []
        for b in numbers:
            if a == b:
                cells.append("")
            elif a < b:
                cells.append(escape(agreement_text(images.pairs[a, b], images.voxel_um)))
            else:
                difference = images.pairs[b, a].difference
                cells.append(
                    f"{difference.correlation:.4f} <small>rms {difference.rms:.3g}</small>"
                )
        rows.append([_chip(a), *cells])
    note = "Above the diagonal: the finest period at which two runs agree. Below it: correlation."
    return f'<p class="note">{note}</p>' + _table(("", *map(_chip, numbers)), rows)


def _series(found: Comparison, curves: Mapping[int, History]) -> list[Series]:
    names = {run.number: run.name for run in found.runs}
    return [
        Series(name=names[n], points=sorted(curve.items()), runs=(n,), label=str(n))
        for n, curve in curves.items()
    ]


def _points(curve: tuple[Sequence[float], Sequence[float]]) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(*curve, strict=True)]


def _values(found: Comparison, values: Mapping[str, Sequence[str | None]], what: str) -> str:
    rows = [
        [escape(name), *(_value(value) for value in row)] for name, row in sorted(values.items())
    ]
    return _table((what, *_numbers(found)), rows)


def _value(value: str | None) -> str:
    if value is None:
        return "–"
    return f'<span title="{escape(value)}">{escape(words.shortened(value, _LONG))}</span>'


def _metric_table(found: Comparison, rows: Sequence[MetricRow]) -> str:
    lines = [
        [
            escape(row.name),
            *(
                f"<b>{number_text(value)}</b>" if i in row.best else number_text(value)
                for i, value in enumerate(row.values)
            ),
        ]
        for row in rows
    ]
    return _table(("metric", *_numbers(found)), lines)


def _numbers(found: Comparison) -> list[str]:
    return [_chip(run.number) for run in found.runs]


def _chip(number: int) -> str:
    return f'<span class="r{number}"><span class="dot"></span>{number}</span>'


def _whole(figures: str) -> str:
    return f'<div class="whole">{figures}</div>'


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names and cells are markup."""
    top = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
