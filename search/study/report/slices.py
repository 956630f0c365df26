"""What the best trials made of the same validation patch, side by side on one scale of greys."""

from __future__ import annotations

from search.study.report.evidence import Slices
from search.study.report.facts import Facts
from viz.images import figure


def slices(facts: Facts) -> str:
    """Input, the enhanced images of the best trials, and a real slow scan; nothing without any."""
    if not facts.slices:
        return ""
    scores = {r.number: r.score for r in facts.records}
    first = facts.slices[0]
    figures = [figure(first.images["real_A"], "real_A", "the fast scan they start from")]
    for shown in facts.slices:
        score = scores.get(shown.trial)
        caption = f"iteration {shown.iteration:,}" + (f", score {score:.2f}" if score else "")
        if shown.real_A != first.real_A:
            caption += "; of another patch"
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
