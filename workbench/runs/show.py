"""The command `cyclegan runs show`: all about one run on one screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking import RunInfo, project_root
from tracking.artifacts import Artifact, walk
from tracking.deletion import survey
from tracking.retention import Stored, guard, kind_of, trial_state
from viz.terminal import line_width
from workbench.runs.listing import described
from workbench.runs.page import page
from workbench.session import Session

if TYPE_CHECKING:
    from tracking import Store

_RECORD = "run.json"
"""File of a training's folder with the id of its run; see `search.launch`."""
_WIDTH = 100
"""Of lines where standard output is no terminal."""


def run_showing(session: Session, text: str) -> None:
    """Print the run that `text` means."""
    store = session.store
    run = store.find_run(text)
    stored = survey(store)
    files = store.artifacts(run).files()
    data = _data(run, stored, store, files)
    session.result(data, page(run, data, line_width(sys.stdout) or _WIDTH))


def _data(
    run: RunInfo, stored: Stored, store: Store, files: Sequence[Artifact] | None
) -> dict[str, Any]:
    parent = stored.by_id.get(run.parent or "")
    children = stored.children.get(run.id, ())
    folder = training_folder(run)
    return described(run, stored) | {
        "reason": run.tags.get("reason", ""),
        "study": run.tags.get("study"),
        "trial": run.tags.get("trial"),
        "trial_state": trial_state(run) if kind_of(run) == "trial" else None,
        "place": stored.places.get(run.id),
        "parent": _link(parent) if parent else None,
        "children": [_link(child) | {"kind": kind_of(child)} for child in children],
        "promoted_from": _named(run.tags.get("promoted_from"), stored),
        "promoted_to": _named(run.tags.get("promoted_to"), stored),
        "model": stored.registered.get(run.id),
        "stays": guard(run, stored),
        "metrics": dict(run.metrics),
        "params": dict(run.params),
        "tags": dict(run.tags),
        "artifacts": None if files is None else [{"path": f.path, "bytes": f.bytes} for f in files],
        "bytes": None if files is None else sum(file.bytes for file in files),
        "artifact_uri": run.artifact_uri,
        "folder": None if folder is None else str(folder),
        "folder_bytes": None if folder is None else sum(f.bytes for f in walk(folder)),
        "url": store.run_url(run.id),
    }


def _link(run: RunInfo) -> dict[str, str]:
    return {"id": run.id, "name": run.name}


def _named(run_id: str | None, stored: Stored) -> dict[str, str] | None:
    if not run_id:
        return None
    found = stored.by_id.get(run_id)
    return _link(found) if found else {"id": run_id, "name": "(not in this store)"}


def training_folder(run: RunInfo) -> Path | None:
    """The folder of this project's `results` where the run was trained; None if there is none."""
    results = project_root() / "results"
    for pattern in ("*", "*/*", "*/*/*"):  # a training, a trial, another seed of a trial
        for path in sorted(results.glob(f"{pattern}/{_RECORD}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # being written, or not ours
                continue
            if isinstance(record, dict) and record.get("run_id") == run.id:
                return path.parent
    return None
