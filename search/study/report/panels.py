"""Panels of a study's page with images, or with figures that are also written as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from search.study.figures import FIGURES
from search.study.report.facts import Facts
from viz.html import drawn, render
from viz.plots import Plot

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
    return FIGURES[name](facts.handle, sorted(facts.records, key=lambda record: record.number))


# -- Images of the same validation patch by the best trials, side by side on one grey scale ----


class _Image(NamedTuple):
    source: str
    name: str
    caption: str


def slices(facts: Facts) -> Markup:
    """Return the input, the best trials' enhanced images, and a real slow scan; or nothing."""
    if not facts.slices:
        return Markup("")
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
