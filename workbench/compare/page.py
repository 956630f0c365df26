"""A comparison as one self-contained HTML document."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from html import escape

from cyclegan.errors import CycleGANError
from viz import plots
from viz.html import BASE, document
from viz.viewer import LIMIT, viewer_page
from workbench.compare import drawings, panels
from workbench.compare.drawings import History
from workbench.compare.result import Comparison

_VIEWER = 12_000_000
"""Most bytes of the viewer."""
_ESCAPED = 0.97
_STYLE = """
.warning { border-left: 4px solid var(--warm); background: var(--card); padding: .5em .9em;
  margin: .5em 0; }
.many.plots { grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); }
.slices figure { max-width: 300px; }
iframe { width: 100%; height: 780px; border: 1px solid var(--line); }
td { overflow-wrap: break-word; }
"""
_log = logging.getLogger(__name__)
Histories = Mapping[str, Mapping[int, History]]


def comparison_page(found: Comparison, histories: Histories) -> str:
    """Return the whole document, below 20 MB. A panel that fails shows the reason instead.

    `histories` holds values by name of the metric, number of the run and iteration.
    """
    shown: dict[str, Callable[[Comparison], str]] = {
        "Runs": panels.runs,
        "Parameters that differ": panels.parameters,
        "Data": panels.data,
        "Metrics": panels.metrics,
        "Score": drawings.score,
        "Losses": lambda given: drawings.losses(given, histories),
        "Slices side by side": drawings.slices,
        "Differences": drawings.differences,
        "Power spectra": drawings.spectra,
        "Where the runs agree": drawings.agreement,
        "Missing": panels.missing,
    }
    parts = [_head(found)]
    for title, panel in shown.items():
        content = _tried(title, panel, found)
        if content:
            parts.append(f"<section><h2>{escape(title)}</h2>\n{content}</section>")
    room = LIMIT - sum(len(part.encode()) for part in parts)
    parts.insert(
        -1 if found.images.remarks else len(parts), _tried("Volumes", _viewer(room), found)
    )
    names = " and ".join(run.info.name for run in found.runs)
    return document(f"Compared: {names}", BASE + plots.STYLE + _STYLE, parts, plots.SCRIPT)


def _head(found: Comparison) -> str:
    moment = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    warnings = "".join(f'<p class="warning">{escape(line)}</p>' for line in found.warnings)
    return (
        f"<h1>{len(found.runs)} runs compared</h1>"
        f'<p class="note">Written {moment}. A click on a run hides it in plots and slices.</p>'
        f"{plots.legend([run.name for run in found.runs])}{warnings}"
    )


def _viewer(room: int) -> Callable[[Comparison], str]:
    """Return a panel with the viewer as a page within the page; it needs no second file."""

    def panel(found: Comparison) -> str:
        layers = found.images.layers
        if not layers:
            return ""
        names = [run.name for run in found.runs if run.number in found.images.runs]
        pairs = [(names[0], name) for name in names[1:]]
        pairs += [("real_A", name) for name in names if layers[-1].name == "real_A"]
        inner = viewer_page(
            layers,
            title=f"{found.images.what} of {len(names)} runs",
            note="Choose two runs for the curtain; the difference is among the overlays.",
            pairs=pairs,
            limit=min(_VIEWER, int(_ESCAPED * room)),
        )
        return (
            "<section><h2>Volumes and their differences</h2>"
            '<iframe title="Volumes" loading="lazy" sandbox="allow-scripts" '
            f'srcdoc="{escape(inner)}"></iframe></section>'
        )

    return panel


def _tried(title: str, panel: Callable[[Comparison], str], found: Comparison) -> str:
    try:
        return panel(found)
    except CycleGANError as error:  # such as volumes that don't cover the same space
        reason = str(error)
    except Exception as error:  # noqa: BLE001  (a picture must never hide the rest)
        reason = f"{type(error).__name__}: {error}"
    _log.warning("compare: %s can't be shown: %s", title, reason)
    return f'<p class="note">It can\'t be shown: {escape(reason)}</p>'
