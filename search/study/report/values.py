"""The score over each searched value, small and many; and how much each key mattered."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from search.study.figures.values import KeyAxis, ordered_keys
from search.study.report.facts import Facts
from search.study.trials import TrialRecord
from viz.figures import ScoreAxis
from viz.names import short_names, short_text
from viz.svg import Span, across, drawing, element, mark, title, upright

_WIDTH, _HEIGHT = 300, 200
_ENDED = ("complete", "pruned")
_ENOUGH = 3
"""Complete trials that make a score axis by themselves."""


def values(facts: Facts) -> str:
    """A small plot for each key; nothing before the first score."""
    shown = [r for r in facts.records if r.state in _ENDED and r.score is not None]
    keys = ordered_keys(facts.opened, shown)
    if not keys:
        return ""
    # Pruned trials were judged earlier, when scores are lower; they must not flatten the others.
    done = [r.score for r in shown if r.state == "complete"]
    scale = ScoreAxis.of(done if len(done) >= _ENOUGH else [r.score for r in shown])
    names = short_names(keys)
    plots = [_plot(facts, key, names[key], shown, scale) for key in keys]
    return (
        '<p class="note">Complete and pruned trials; a pruned one has the score it was pruned '
        "with, of an earlier iteration. Triangles lie below the axis.</p>"
        f'<div class="many">{"".join(plots)}</div>'
    )


def _plot(
    facts: Facts, key: str, name: str, records: Sequence[TrialRecord], scale: ScoreAxis
) -> str:
    shown = [r for r in records if key in r.values]
    axis = KeyAxis.of(key, shown)
    x = Span(0.0, 1.0, 48.0, _WIDTH - 26.0)
    y = Span(*scale.limits, _HEIGHT - 42.0, 10.0)
    ticks = [(tick, f"{tick:g}") for tick in scale.ticks()[::2]]
    label = f"{name} (log)" if axis.log else name
    best = facts.best
    points = []
    for record in reversed(shown):
        below = scale.below(record.score)
        height = y(scale.rim if below or record.score is None else record.score)
        told = f"trial {record.number}, {record.state}: {name} {short_text(record.values[key])}"
        at = x(axis.share(record.values[key]))
        points.append(
            element(
                "g",
                title(f"{told}, score {record.score:.2f}"),
                mark(record.state, at, height, below=below),
                class_="point best" if record is best else "point",
                data_trial=record.number,
            )
        )
    return drawing(
        _WIDTH,
        _HEIGHT,
        f"Score over {key} of {len(shown)} trials.",
        title(key),
        upright(y, x, ticks),
        across(x, y.start, axis.ticks(), label),
        *points,
    )


def importance(facts: Facts) -> str:
    """A bar for each key, and how far to trust it."""
    found = facts.importance
    if found is None:
        return f'<p class="note">{escape(facts.no_importance)}.</p>'
    names = short_names(list(found.shares))
    most = max(found.shares.values()) or 1.0
    rows = "".join(
        f'<tr><th title="{escape(key)}">{escape(names[key])}</th>'
        f'<td class="number">{share:.2f}</td>'
        f'<td class="bar"><i style="width:{100 * share / most:.1f}%"></i></td></tr>'
        for key, share in found.shares.items()
    )
    caution = f' <b class="caution">{escape(found.caution)}.</b>' if found.caution else ""
    return (
        f'<p class="note">Shares from the {found.top} best of {found.trials} complete trials '
        f"(PED-ANOVA): where the best lie along a key, against where all lie.{caution}</p>"
        f'<table class="bars"><tbody>{rows}</tbody></table>'
    )
