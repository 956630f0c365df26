"""Charts of a study's page: learning curves, slices, scores by searched value, and importance."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cyclegan.rounding import ceil_div
from search.study.figures.rungs import rung_iterations
from search.study.figures.values import KeyAxis, ordered_keys
from search.study.report.facts import Facts, Slices
from search.study.trials import Trial
from viz.figures import ScoreAxis
from viz.html import figure
from viz.plots import (
    Span,
    across,
    drawing,
    element,
    line,
    mark,
    path,
    round_ticks,
    text,
    title,
    upright,
)
from viz.text import short_names, short_text

_WIDTH, _HEIGHT = 980, 400
_NAMED = 14
"""Number of trials up to which every curve is numbered."""
_APART = 12.0
"""Distance between two numbers in pixels."""
_NAME = 100.0
"""Width of a rung's name in pixels."""
_POINTS = 150
"""Number of points of a curve; longer ones are thinned."""


def curves(facts: Facts) -> str:
    """Return a plot of all curves; empty before the first report."""
    shown = [r for r in facts.records if r.curve]
    if not shown:
        return ""
    definition, best = facts.opened.definition, facts.best
    judged = rung_iterations(definition.pruner, definition.steps)
    begin = judged[0] if judged else 0
    scale = ScoreAxis.of(
        [score for r in shown for i, score in r.curve if i >= begin]
        or [score for r in shown for _, score in r.curve]
    )
    last = max(i for r in shown for i, _ in r.curve)
    x = Span(0.0, 1.02 * last, 62.0, _WIDTH - 48.0)
    y = Span(*scale.limits, _HEIGHT - 46.0, 22.0)
    ticks = [(tick, f"{tick:g}") for tick in scale.ticks()]
    rungs = [r for r in judged if r <= x.high]
    parts = [
        _rim(x, y, scale),
        upright(y, x, ticks, "score (higher is better)"),
        across(x, y.start, round_ticks(0, last), "iteration"),
        _rungs(rungs, x, y),
        # The best is drawn last, above the others, and complete trials above pruned ones.
        *(_curve(r, x, y, scale, best=r is best) for r in reversed(shown)),
        _numbers(shown if len(shown) <= _NAMED else [best] if best in shown else [], x, y, scale),
    ]
    counts = ", ".join(f"{sum(r.state == s for r in shown)} {s}" for s in _states(shown))
    told = f"Scores of {len(shown)} trials over the iteration: {counts}."
    if best is not None:
        told += f" The best is trial {best.number} with {best.score:.2f}."
    return (
        f'<p class="note">{_key(_states(shown))} Dashed lines: the pruner compares trials here. '
        "Scores below the axis lie on its rim. Point at a curve or at a row of the table to find "
        'it in the other.</p><div class="wide">' + drawing(_WIDTH, _HEIGHT, told, *parts) + "</div>"
    )


def thinned(curve: Sequence[tuple[int, float]], most: int = _POINTS) -> list[tuple[int, float]]:
    """Return at most about `most` points of a curve, including its end and its maximum."""
    every = ceil_div(len(curve), most)
    kept = {*range(0, len(curve), every), len(curve) - 1}
    kept.add(max(range(len(curve)), key=lambda i: curve[i][1]))
    return [curve[i] for i in sorted(kept)]


def _curve(record: Trial, x: Span, y: Span, scale: ScoreAxis, *, best: bool) -> str:
    points = [(x(float(i)), _height(score, y, scale)) for i, score in thinned(record.curve)]
    end, score = record.curve[-1]
    told = f"trial {record.number}, {record.state}, {score:.2f} at iteration {end:,}"
    if record.score is not None:
        told += f"; its score is {record.score:.2f}"
    if record.state in ("pruned", "failed") and record.reason:
        told += f"; {' '.join(record.reason.split())[:200]}"
    d = path(points)
    return element(
        "g",
        title(told),
        element("path", d=d, class_="hit"),
        element("path", d=d, class_=f"line {record.state}" + (" best" if best else "")),
        mark(record.state, *points[-1], below=score < scale.low),
        class_="curve",
        data_trial=record.number,
    )


def _height(score: float, y: Span, scale: ScoreAxis) -> float:
    return y(scale.rim if score < scale.low else score)


def _numbers(shown: Sequence[Trial | None], x: Span, y: Span, scale: ScoreAxis) -> str:
    """Draw the numbers of trials at the ends of their curves, moved apart to avoid overlap."""
    ends = sorted(
        (x(float(r.curve[-1][0])), _height(r.curve[-1][1], y, scale), r.number) for r in shown if r
    )
    parts, before = [], (-1.0, 0.0)
    for at, height, number in ends:
        if at == before[0]:
            height = max(height, before[1] + _APART)
        parts.append(text(at + 8, height + 4, str(number), class_="name"))
        before = (at, height)
    return "".join(parts)


def _rim(x: Span, y: Span, scale: ScoreAxis) -> str:
    top = y(scale.low)
    box = element(
        "rect", x=x.start, y=top, width=x.end - x.start, height=y.start - top, class_="rim"
    )
    return box + text(x.end - 4, y(scale.rim) + 4, "lower scores", class_="tick end")


def _rungs(judged: Sequence[int], x: Span, y: Span) -> str:
    """Draw lines where trials are compared, with names where there is room."""
    parts, free = [], 0.0
    for at in judged:
        place = x(float(at))
        parts.append(line(place, y.start, place, y.end, "rung"))
        late = place > x.end - _NAME  # its name would leave the drawing
        if place - late * _NAME >= free:
            side = (place - 3, "tick end") if late else (place + 3, "tick")
            parts.append(text(side[0], y.end - 4, f"judged at {at:,}", class_=side[1]))
            free = place + (not late) * _NAME
    return "".join(parts)


def _states(records: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(r.state for r in records))


def _key(states: Sequence[str]) -> str:
    """Return the legend of the states and their marks."""
    marks = [
        f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{mark(state, 7, 7)}</svg>{state}'
        for state in states
    ]
    return " · ".join(marks) + "."


# -- Images of the same validation patch by the best trials, side by side on one grey scale ----


def slices(facts: Facts) -> str:
    """Return the input, the best trials' enhanced images, and a real slow scan; or nothing."""
    if not facts.slices:
        return ""
    scores = {r.number: r.score for r in facts.records}
    first = facts.slices[0]
    figures = [figure(first.images["real_A"], "real_A", "the fast scan they start from")]
    for shown in facts.slices:
        score = scores.get(shown.trial)
        caption = f"iteration {shown.iteration:,}" + (f", score {score:.2f}" if score else "")
        if shown.real_A != first.real_A:
            caption += "; another patch"
        best = facts.best is not None and shown.trial == facts.best.number
        name = f"fake_B, trial {shown.trial}" + (" (best)" if best else "")
        figures.append(figure(shown.images["fake_B"], name, caption))
    real = "a slow scan, elsewhere: how it should look"
    figures.append(figure(first.images["real_B"], "real_B", real))
    whole = "".join(_whole(shown) for shown in facts.slices)
    return (
        '<p class="note">The same held-out patch at the validation that counted: central slices '
        "xy, xz and yz, greys on the scale of the real images, the same for all trials.</p>"
        f'<div class="slices">{"".join(figures)}</div>'
        f"<details><summary>All six images of each</summary>"
        f'<div class="whole">{whole}</div></details>'
    )


def _whole(shown: Slices) -> str:
    alt = f"The six images of the cycles of trial {shown.trial}"
    return (
        f"<figure><figcaption><b>trial {shown.trial}</b>, iteration {shown.iteration:,}"
        f'</figcaption><img loading="lazy" alt="{alt}" src="{shown.whole}"></figure>'
    )


# -- Scores by searched value, in small plots; and the importance of each key ------------------

_PANEL_WIDTH, _PANEL_HEIGHT = 300, 200


_ENDED = ("complete", "pruned")
_ENOUGH = 3
"""Number of complete trials that suffice to set the score axis."""


def values(facts: Facts) -> str:
    """Return a small plot for each key; empty before the first score."""
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
        '<p class="note">Complete and pruned trials; the score of a pruned trial is from the '
        "earlier iteration at which it was pruned. Triangles lie below the axis.</p>"
        f'<div class="many">{"".join(plots)}</div>'
    )


def _plot(facts: Facts, key: str, name: str, records: Sequence[Trial], scale: ScoreAxis) -> str:
    shown = [r for r in records if key in r.values]
    axis = KeyAxis.of(key, shown)
    x = Span(0.0, 1.0, 48.0, _PANEL_WIDTH - 26.0)
    y = Span(*scale.limits, _PANEL_HEIGHT - 42.0, 10.0)
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
        _PANEL_WIDTH,
        _PANEL_HEIGHT,
        f"Score over {key} of {len(shown)} trials.",
        title(key),
        upright(y, x, ticks),
        across(x, y.start, axis.ticks(), label),
        *points,
    )


def importance(facts: Facts) -> str:
    """Return a bar for each key, and a warning if the shares are unreliable."""
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
