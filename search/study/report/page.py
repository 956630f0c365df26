"""The page of a study: one HTML document, readable without scripts; text is escaped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape

from search.study.report.charts import curves
from search.study.report.cost import cost
from search.study.report.facts import Facts
from search.study.report.head import head
from search.study.report.slices import slices
from search.study.report.style import SCRIPT, STYLE
from search.study.report.tables import trials
from search.study.report.values import importance, values
from viz.html import document

Panel = Callable[[Facts], str]

PANELS: dict[str, Panel] = {
    "Trials": trials,
    "Best slices side by side": slices,
    "Learning curves": curves,
    "Importance": importance,
    "Score by searched value": values,
    "Cost": cost,
}
"""Below the head, in this order. One that has nothing to show gives nothing and is left out."""
_log = logging.getLogger(__name__)


def study_page(facts: Facts) -> str:
    """The whole document. A panel that fails is left out with a warning."""
    parts = [head(facts)]
    for title, panel in PANELS.items():
        try:
            content = panel(facts)
        except Exception as error:  # noqa: BLE001  (a picture must never hide the rest)
            _log.warning("report: %s can't be shown: %s: %s", title, type(error).__name__, error)
            content = f'<p class="note">It can\'t be shown: {escape(str(error))}</p>'
        if content:
            parts.append(f"<section><h2>{escape(title)}</h2>\n{content}</section>")
    parts.append('<div id="said" role="status" aria-live="polite"></div>')
    return document(f"Study {facts.name}", STYLE, parts, SCRIPT)
