"""The page of a study as a file, for those who have no MLflow server at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.errors import DataError, UsageError
from cyclegan.files import refuse_overwrite, write_text
from search.study.report.evidence import Evidence
from search.study.report.facts import gather
from search.study.report.page import study_page
from search.study.study import OpenStudy

if TYPE_CHECKING:
    from tracking import Store


def write_report(opened: OpenStudy, store: Store, output: Path, *, overwrite: bool = False) -> None:
    """Write the page to `output`, without slices and parts of scores where the store lacks them.

    Errors: `UsageError` if `output` is no HTML file; `DataError` if it exists and `overwrite` is
    off; `CycleGANError` if the store fails.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output}: the name must end in .html")
    refuse_overwrite(output, overwrite)
    write_text(output, study_page(gather(opened, _evidence(opened, store), state_of(opened))))


def state_of(opened: OpenStudy) -> str:
    """`running`, `finished` or `interrupted`, by the study's trials."""
    states = {trial.state for trial in opened.trials()}
    if "running" in states:
        return "running"
    return "interrupted" if "interrupted" in states or not states else "finished"


def _evidence(opened: OpenStudy, store: Store) -> Evidence | None:
    run_id = opened.study.user_attrs.get("mlflow_run_id")
    try:
        return Evidence(store, run_id) if run_id else None
    except DataError:  # deleted, or in another store
        return None
