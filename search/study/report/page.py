"""The page of a study: one HTML document, readable without scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from search.study.report.facts import Facts
from search.study.report.head import settings, tiles
from search.study.report.panels import (
    FOLDER,
    curves,
    history,
    importance,
    slices,
    values,
)
from search.study.report.tables import cost, trials
from viz.html import render

Panel = Callable[[Facts], str]
"""Returns `Markup`; a plain text is escaped."""
PANELS: dict[str, Panel] = {
    "Trials": trials,
    "Best slices side by side": slices,
    "Learning curves": curves,
    "Scores of all trials": history,
    "Importance": importance,
    "Score by searched value": values,
    "Cost": cost,
}
"""The panels below the head, in this order. An empty panel is left out."""
_log = logging.getLogger(__name__)


def study_page(facts: Facts) -> str:
    """Return the whole document. A panel that fails is replaced by its error, with a warning."""
    panels = []
    for title, panel in PANELS.items():
        try:
            content = panel(facts)
        except Exception as error:  # noqa: BLE001  (a picture must never hide the rest)
            _log.warning("report: %s can't be shown: %s: %s", title, type(error).__name__, error)
            content = f"This can't be shown: {error}"
        if content:
            panels.append((title, content))
    page = render(
        "study.html",
        FOLDER,
        title=f"Study {facts.name}",
        kind=facts.state.partition(":")[0],
        state=facts.state,
        written=f"{facts.written:%Y-%m-%d %H:%M:%S}",
        tiles=tiles(facts),
        setup=settings(facts),
        panels=panels,
    )
    return str(page)  # a `Markup` would escape what is added to it
