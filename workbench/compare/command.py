"""The command `cyclegan compare`: find the runs, compare them, print the result, write the page."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cyclegan.errors import UsageError, nearest
from cyclegan.files import refuse_overwrite, write_text
from viz.console import Console
from viz.text import line_width
from workbench.compare.cycles import At, compare_cycles
from workbench.compare.enhanced import compare_enhanced
from workbench.compare.page import Histories, comparison_page
from workbench.compare.result import ComparedImages, compared
from workbench.compare.runs import ComparedRun, find_runs
from workbench.compare.text import comparison_text
from workbench.output import Output

if TYPE_CHECKING:
    from tracking import Store


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """The runs to compare, and the file of the page."""

    runs: Sequence[str]
    html: Path | None = None
    at: At = "best"
    """Validation to compare, of those whose volumes a run has stored."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.at not in get_args(At):
            raise UsageError(f"--at {self.at}: {nearest(self.at, get_args(At))}")
        if self.html is not None:
            if self.html.suffix.lower() not in (".html", ".htm"):
                raise UsageError(f"--html {self.html}: the name must end in .html")
            refuse_overwrite(self.html, self.overwrite)


def compare_runs(request: CompareRequest, *, store: Store, console: Console) -> Output:
    """Compare runs as asked; write the page to its file, if it is wanted.

    Errors: `UsageError` for too few or too many runs, `DataError` for an unknown one.
    """
    runs = find_runs(store, request.runs)
    with contextlib.ExitStack() as stack:
        found = compared(runs, _images(runs, request, stack))
        if request.html is not None:
            write_text(request.html, comparison_page(found, _losses(runs)))
            console.say(f"written    {request.html}")
    data = {**found.to_dict(), "html": None if request.html is None else str(request.html)}
    return Output(data=data, text=comparison_text(found, line_width(sys.stdout)))


def _images(
    runs: Sequence[ComparedRun], request: CompareRequest, stack: contextlib.ExitStack
) -> ComparedImages:
    pictures = request.html is not None
    if all(run.is_enhancement for run in runs):
        return compare_enhanced(runs, stack, pictures=pictures)
    return compare_cycles(runs, request.at, pictures=pictures)


def _losses(runs: Sequence[ComparedRun]) -> Histories:
    """Return the histories of all losses, by name and by number of the run."""
    names = sorted({name for run in runs for name in run.info.metrics if name.startswith("loss/")})
    return {
        name: {run.number: run.run.history(name) for run in runs if name in run.info.metrics}
        for name in names
    }
