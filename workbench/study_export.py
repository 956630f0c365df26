"""A study's trials and its best configuration as files for other programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from cyclegan.errors import UsageError
from cyclegan.files import refuse_overwrite, write_text
from search.study.study import OpenStudy
from workbench.study_tables import study_data

COLUMNS = (
    *("number", "state", "score", "step", "iteration", "seconds"),
    *("run_id", "reason", "deaths", "seeds"),
)
"""Columns of the CSV file before those of the searched keys."""


def export_study(opened: OpenStudy, output: Path, *, overwrite: bool = False) -> int:
    """Write all trials to `output`, as CSV or JSON by its name; the number of trials.

    CSV has one row a trial and one column for each searched key, under its full name; `seeds` is a
    JSON list. JSON has the curves, verdicts and origins too.

    Errors: `UsageError` for another kind of file; `DataError` if it exists and `overwrite` is off.
    """
    kind = output.suffix.lower()
    if kind not in (".csv", ".json"):
        raise UsageError(f"--output {output}: the name must end in .csv or .json")
    refuse_overwrite(output, overwrite)
    data = study_data(opened)
    if kind == ".json":
        write_text(output, json.dumps(data, indent=1, default=str) + "\n")
    else:
        write_text(output, _csv(data["trials"], data["keys"]))
    return len(data["trials"])


def write_best_config(opened: OpenStudy, path: Path, *, overwrite: bool = False) -> None:
    """Write the best trial's resolved configuration as YAML that `cyclegan train` takes.

    Errors: `UsageError` if `path` is no YAML file; `DataError` if it exists and `overwrite` is off,
    or if no trial is complete.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"--config {path}: the name must end in .yaml")
    best = opened.best()
    refuse_overwrite(path, overwrite)
    head = (
        f"# The best trial of the study {opened.definition.name}: trial {best.number}, "
        f"score {best.score:.2f}, MLflow run {best.run_id or 'none'}\n"
        f"#\n#   cyclegan train {path.name}\n"
    )
    write_text(path, head + opened.config_of(best.number).to_yaml())


def _csv(trials: list[dict[str, Any]], keys: list[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *keys])
    for trial in trials:
        cells = trial | {
            "reason": " ".join(trial["reason"].split()),
            "seeds": json.dumps(trial["seeds"]) if trial["seeds"] else "",
        }
        values = [trial["values"].get(key, "") for key in keys]
        writer.writerow([*(cells[name] for name in COLUMNS), *values])
    return buffer.getvalue()
