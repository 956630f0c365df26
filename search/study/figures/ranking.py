"""The importance of each searched key."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from cyclegan.errors import DataError
from search.study.importance import importance
from search.study.study import OpenStudy
from search.study.trials import TrialRecord
from viz.figures import COLOURS, new_figure, tidy
from viz.names import short_names


def ranking(opened: OpenStudy, records: Sequence[TrialRecord]) -> Figure | None:
    """A bar for each key; None with too few complete trials."""
    try:
        found = importance(opened)
    except DataError:
        return None
    names = short_names(list(found.shares))
    title = f"{opened.definition.name}: importance over {found.trials} complete trials"
    figure = new_figure(8.0, 1.5 + 0.26 * len(names), title)
    axes = figure.subplots()
    bars = axes.barh([names[k] for k in found.shares], list(found.shares.values()), height=0.65)
    for bar in bars:
        bar.set_color(COLOURS["complete"])
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(found.shares.values()))
    label = f"share (PED-ANOVA: the {found.top} best against all)"
    axes.set_xlabel("\n".join([label, *([found.caution] if found.caution else [])]), fontsize=8)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    return figure
