"""Figures of a study: history, importance, slices, parallel coordinates, rungs, Pareto front.

Each is drawn by one function. `write_figures` writes them as PNG, and `search.study.report` shows
them in the study's page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.files import replacing
from search.study.figures.overview import history, ranking, timeline
from search.study.figures.pareto import pareto
from search.study.figures.rungs import rungs
from search.study.figures.values import parallel_coordinates, slices
from search.study.study import StudyHandle
from search.study.trials import Trial, selected
from viz.plots import Plot, pixels

if TYPE_CHECKING:
    from tracking import Run

Draw = Callable[[StudyHandle, Sequence[Trial]], Plot | None]
FIGURES: dict[str, Draw] = {
    "history": history,
    "importance": ranking,
    "slices": slices,
    "parallel_coordinates": parallel_coordinates,
    "rungs": rungs,
    "timeline": timeline,
    "pareto": pareto,
}
"""Functions that draw the trials, given in order of their numbers; None if it is too early."""
_log = logging.getLogger(__name__)


def figures_folder(handle: StudyHandle) -> Path:
    """Return the default folder of a study's figures."""
    return handle.results / "figures"


def write_figures(handle: StudyHandle, folder: Path) -> list[Path]:
    """Write every figure that can be drawn by now as PNG into `folder`, over earlier ones.

    Figures that need more trials are left out; of thousands a selection is drawn.
    Figures that fail are left out with a warning.

    Errors: `CycleGANError` if the folder can't be written to.
    """
    records = selected(handle.trials())
    written = []
    for name, draw in FIGURES.items():
        try:
            figure = draw(handle, records)
        except Exception as error:  # noqa: BLE001  (a picture must never end a study)
            _log.warning("figure %s can't be drawn: %s: %s", name, type(error).__name__, error)
            continue
        if figure is None:
            continue
        path = folder / f"{name}.png"
        with replacing(path) as temporary:
            pixels(figure).save(temporary, format="PNG", optimize=True)
        written.append(path)
    return written


def log_figures(handle: StudyHandle, run: Run) -> list[Path]:
    """Write the figures into the study's results, and log them as `figures/` of its MLflow run.

    This is for running studies: any error becomes a warning.
    """
    try:
        written = write_figures(handle, figures_folder(handle))
        for path in written:
            run.log_file(path, "figures")
    except Exception as error:  # noqa: BLE001  (a picture must never end a study)
        _log.warning("the study's figures can't be written or logged: %s", error)
        return []
    return written
