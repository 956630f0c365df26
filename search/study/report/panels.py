"""The panels of a study's page: tables of trials and cost, slices, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from search.study.figures import FIGURES
from search.study.objective import TIME, short
from search.study.report.facts import PARTS, Facts
from search.study.trials import Trial, declared_keys, front_of, searched_keys
from tracking.views import link_between_runs
from viz.html import drawn, render
from viz.plots import Plot
from viz.text import short_names, short_text
from viz.units import short_time

FOLDER = Path(__file__).parent
"""Folder of the page's templates."""


def curves(facts: Facts) -> Markup:
    """Return the learning curves of all trials."""
    return _drawing(
        facts,
        "rungs",
        "Dashed lines: the pruner compares trials here. Scores below the axis are drawn on it. "
        "Point at a curve or at a row of the table to find it in the other.",
    )


def history(facts: Facts) -> Markup:
    """Return the scores by trial number."""
    return _drawing(
        facts,
        "history",
        "The score of a pruned trial is from the iteration at which it was pruned.",
    )


def front(facts: Facts) -> Markup:
    """Return the values of all trials by several objectives; empty with one."""
    numbers = [record.number for record in front_of(facts.records)]
    if not numbers:
        return Markup("")
    shown, last = ", ".join(map(str, numbers)), numbers[-1]
    return _drawing(
        facts,
        "pareto",
        f"No trial is better by all objectives than one of these: {shown}. Promote the one that "
        f"you want, for example: cyclegan promote {facts.name} --trial {last}",
    )


def importance(facts: Facts) -> Markup:
    """Return a bar for each key and a warning if the shares are unreliable."""
    found = facts.importance
    if found is None:
        note = f"{facts.no_importance}."
        return render("drawing.html", FOLDER, note=note, caution="", svg="")
    return _drawing(
        facts,
        "importance",
        f"PED-ANOVA compares where the {found.top} best of {found.trials} complete trials lie "
        "along a key with where all lie.",
        found.caution,
    )


def values(facts: Facts) -> Markup:
    """Return the score over the values of each key."""
    return _drawing(
        facts,
        "slices",
        "Complete and pruned trials; the score of a pruned trial is from the earlier iteration at "
        "which it was pruned. Triangles lie below the axis.",
    )


def _drawing(facts: Facts, name: str, note: str, caution: str = "") -> Markup:
    """Return a figure below a note; empty before it can be drawn."""
    figure = figure_of(facts, name)
    if figure is None:
        return Markup("")
    svg = drawn(figure, name)
    return render("drawing.html", FOLDER, note=note, caution=caution, svg=svg)


def figure_of(facts: Facts, name: str) -> Plot | None:
    """Draw one of `search.study.figures.FIGURES`."""
    return FIGURES[name](facts.handle, sorted(facts.shown, key=lambda record: record.number))


# -- Images of the same validation patch by the best trials, side by side on one grey scale ----


class _Image(NamedTuple):
    source: str
    name: str
    caption: str


def slices(facts: Facts) -> Markup:
    """Return the input, the best trials' enhanced images, and a real slow scan; or why not."""
    if not facts.slices:
        if facts.state == "running" or all(record.score is None for record in facts.records):
            return Markup("")
        note = "This store has no images of these trials: they are in another, or were removed."
        return render("drawing.html", FOLDER, note=note, caution="", svg="")
    scores = {r.number: r.score for r in facts.records}
    first = facts.slices[0]
    images = [_Image(first.images["real_A"], "real_A", "the fast scan they start from")]
    for shown in facts.slices:
        score = scores.get(shown.trial)
        caption = f"iteration {shown.iteration:,}" + (f", score {score:.2f}" if score else "")
        if shown.real_A != first.real_A:
            caption += "; another patch"
        best = facts.best is not None and shown.trial == facts.best.number
        name = f"fake_B, trial {shown.trial}" + (" (best)" if best else "")
        images.append(_Image(shown.images["fake_B"], name, caption))
    real = "a slow scan of another place: how it should look"
    images.append(_Image(first.images["real_B"], "real_B", real))
    return render("slices.html", FOLDER, shown=images, whole=facts.slices)


_ID = 8
"""Number of leading digits that tell a run's id from the others."""
_REASON = 400
_STATE = Markup('<span class="state {0}">{0}</span>')
_BOLD = Markup("<b>{}</b>")
_VALUE = Markup('<span title="{}">{}</span>')
_RUN = Markup('<span class="run" data-at="{}">{}</span> <code title="{}">{}</code>')
_NO_LINK = Markup("{} <code>{}</code>")


@dataclass(frozen=True)
class _Cell:
    content: str
    order: float | str = ""
    """Value by which its column is sorted; empty cells stay at the bottom."""
    kind: str = ""


@dataclass(frozen=True)
class _Row:
    number: int
    best: bool
    cells: Sequence[_Cell]


def trials(facts: Facts) -> Markup:
    """Return the table of trials, with a note on how to use it."""
    if not facts.records:
        return Markup('<p class="note">No trial has begun yet.</p>')
    keys = searched_keys(facts.records, declared_keys(facts.handle.definition.space))
    names = short_names(keys)
    with_parts = any(facts.parts.values())
    columns = ["rank", "trial", "run in MLflow", "state", "score"]
    columns += [*(short(name) for name in _further(facts)), "why it ended"]
    columns += [*(names[k] for k in keys), *(PARTS.values() if with_parts else ())]
    columns += ["step", "iterations", "time"]
    full = {names[k]: k for k in keys} | {short: name for name, short in PARTS.items()}
    shown = sum(bool(parts) for parts in facts.parts.values())
    return render(
        "trials.html",
        FOLDER,
        columns=[(name, full.get(name, name)) for name in columns],
        rows=[_row(facts, record, keys, with_parts) for record in facts.shown],
        selection=_selection(facts),
        with_parts=with_parts,
        whose="" if shown >= len(facts.records) else f" of the {shown} best",
    )


def _selection(facts: Facts) -> str:
    """Return in a sentence which trials the page shows; empty if it shows all."""
    if len(facts.shown) == len(facts.records):
        return ""
    return (
        f"This page shows {len(facts.shown)} of {len(facts.records):,} trials: the best, the "
        "unfinished, and evenly many of the others. All are in trials.json of this run."
    )


def run_name(facts: Facts, record: Trial) -> str:
    """Return the name of a trial's run in MLflow."""
    return f"{facts.name}-{record.number:03d}"


def _row(facts: Facts, record: Trial, keys: list[str], with_parts: bool) -> _Row:
    rank, best, seconds = facts.ranks.get(record.number), facts.best, record.seconds
    found = facts.parts.get(record.number, {})
    cells = [
        _Cell("" if rank is None else _BOLD.format(rank), rank or "", "number"),
        _Cell(str(record.number), record.number, "number"),
        _Cell(_run(facts, record), run_name(facts, record), "plain"),
        _Cell(_STATE.format(record.state), record.state),
        _number(record.score, "score"),
        *(_number(record.objectives.get(name)) for name in _further(facts)),
        _Cell(_reason(record), "".join(record.reason.split()), "reason"),
        *(_value(record.values.get(key)) for key in keys),
        *(_number(found.get(name)) for name in (PARTS if with_parts else ())),
        _Cell(f"{record.step:,}", record.step, "number"),
        _Cell(f"{record.iteration:,}", record.iteration, "number"),
        _Cell(short_time(seconds), seconds or 0.0, "number plain"),
    ]
    return _Row(record.number, best is not None and record is best, cells)


def _further(facts: Facts) -> list[str]:
    """Return the objectives after the first that have no other column."""
    further = facts.handle.definition.objective[1:]
    return [name for name in further if name != TIME and name not in PARTS]


def _number(value: float | None, kind: str = "") -> _Cell:
    if value is None:
        return _Cell("–", "", "number")
    shown = f"{value:.2f}" if kind == "score" else f"{value:.3g}"
    return _Cell(shown, value, f"number {kind}".strip())


def _value(value: object) -> _Cell:
    if value is None:
        return _Cell("–")
    shown = _VALUE.format(value, short_text(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Cell(shown, value, "number")
    return _Cell(shown, str(value))


def _reason(record: Trial) -> str:
    text = " ".join(record.reason.split())
    if record.revives is not None:
        text = f"continues trial {record.revives}; {text}".removesuffix("; ")
    return text[:_REASON] or ("all steps" if record.state == "complete" else "")


def _run(facts: Facts, record: Trial) -> str:
    """Return the run's name, short id and address, which the script turns into a link."""
    if not record.run_id:
        return "–"
    name, short = run_name(facts, record), record.run_id[:_ID]
    if not facts.experiment_id:
        return _NO_LINK.format(name, short)
    place = link_between_runs(facts.experiment_id, record.run_id)
    return _RUN.format(place, name, record.run_id, short)


# -- Cost of a study: iterations and time by state, and the timeline of the trials -------------

_SUMS = ("", "trials", "iterations", "share", "time", "per trial", "s per iteration")


def cost(facts: Facts) -> Markup:
    """Return a table of sums and a timeline; empty before the first trial."""
    shown = [r for r in facts.records if r.started is not None]
    figure = figure_of(facts, "timeline")
    if figure is None:
        return Markup("")
    states = dict.fromkeys(r.state for r in shown)
    rows = [_sums(facts, _STATE.format(s), [r for r in shown if r.state == s]) for s in states]
    rows.append(_sums(facts, _BOLD.format("all"), shown))
    kinds = ("", *["number"] * (len(_SUMS) - 1))
    svg = drawn(figure, "timeline")
    return render("cost.html", FOLDER, names=_SUMS, rows=rows, kinds=kinds, svg=svg)


def _sums(facts: Facts, name: str, records: Sequence[Trial]) -> tuple[str, ...]:
    spent = sum(r.iteration for r in records)
    every = sum(r.iteration for r in facts.records)
    seconds = sum(r.seconds or 0.0 for r in records)
    return (
        name,
        f"{len(records)}",
        f"{spent:,}",
        f"{spent / every:.0%}" if every else "–",
        short_time(seconds),
        short_time(seconds / len(records)),
        f"{seconds / spent:.3g}" if spent else "–",
    )
