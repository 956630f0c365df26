"""A comparison as one self-contained HTML document."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from cyclegan.errors import CycleGANError
from viz.html import render
from viz.viewer import LIMIT, viewer_page
from workbench.compare import drawings, panels
from workbench.compare.drawings import History
from workbench.compare.panels import part
from workbench.compare.result import Comparison

_VIEWER = 12_000_000
"""Most bytes of the viewer."""
_ESCAPED = 0.97
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
    }
    sections = {title: _tried(title, panel, found) for title, panel in shown.items()}
    missing = _tried("Missing", panels.missing, found)
    room = LIMIT - sum(len(content.encode()) for content in (*sections.values(), missing))
    title = "Volumes and their differences"
    sections[title] = _tried(title, lambda given: _viewer(given, room), found)
    sections["Missing"] = missing
    names = [run.info.name for run in found.runs]
    return render(
        "comparison.html",
        Path(__file__).parent,
        title=f"Compared: {' and '.join(names)}",
        names=[run.name for run in found.runs],
        moment=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        warnings=found.warnings,
        sections=[(title, content) for title, content in sections.items() if content],
    )


def _viewer(found: Comparison, room: int) -> str:
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
    return part("viewer", inner)


def _tried(title: str, panel: Callable[[Comparison], str], found: Comparison) -> str:
    try:
        return panel(found)
    except CycleGANError as error:  # such as volumes that don't cover the same space
        reason = str(error)
    except Exception as error:  # noqa: BLE001  (a picture must never hide the rest)
        reason = f"{type(error).__name__}: {error}"
    _log.warning("compare: %s can't be shown: %s", title, reason)
    return part("failed", reason)
