"""The command `cyclegan runs list`: list the stored runs and their sizes."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cyclegan.errors import UsageError, nearest
from tracking import RunInfo
from tracking.deletion import survey
from tracking.retention import StoredRuns, kind_of, score_of
from viz import units
from viz.text import line_width, table
from workbench.output import Output

if TYPE_CHECKING:
    from tracking import Store

KINDS = ("study", "trial", "seed", "confirm", "promoted", "train", "enhance")
_STATUSES = ("running", "dead", "scheduled", "finished", "failed", "killed", "deleted")
_OUTCOMES = ("completed", "pruned", "stopped", "interrupted")
_SORTS = ("start", "score", "size")
_ID = 8
_COLUMNS = ("id", "run", "experiment", "kind", "state", "score", "steps", "start", "took", "size")
_LEFT_OUT = ("experiment", "steps", "took", "kind")
"""Columns to leave out on a narrow terminal, in this order."""
_LEAST = {"run": 14, "experiment": 8}
"""Least useful width of each column of names, in characters."""


@dataclass(frozen=True, kw_only=True)
class RunQuery:
    """The choice and the order of the runs."""

    experiment: str | None = None
    kind: str | None = None
    status: str | None = None
    limit: int = 30
    sort: str = "start"
    sizes: bool = False
    """Ask a server for the sizes, too."""

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--kind", self.kind, KINDS),
            ("--status", self.status, _STATUSES + _OUTCOMES),
            ("--sort", self.sort, _SORTS),
        ):
            if value is not None and value not in known:
                raise UsageError(f"{option} {value}: {nearest(value, known)}")


def list_runs(store: Store, wanted: RunQuery) -> Output:
    """Return the runs, newest first or as sorted, and the disk space that they take."""
    if wanted.experiment is not None:
        found = store.find_experiment(wanted.experiment, "all")
        wanted = replace(wanted, experiment=found.name)
    stored = survey(store)
    chosen = [run for run in stored.runs if _matches(run, wanted, stored)]
    measured = wanted.sizes or wanted.sort == "size" or not store.location.is_server
    sizes: dict[str, int | None] = {}

    def measure(runs: Iterable[RunInfo]) -> None:
        for run in runs:
            if measured and run.id not in sizes:
                files = store.artifacts(run).files()
                sizes[run.id] = None if files is None else sum(file.bytes for file in files)

    if wanted.sort == "size":
        measure(chosen)
        chosen.sort(key=lambda run: -(sizes[run.id] or 0))
    elif wanted.sort == "score":
        chosen.sort(key=_by_score)
    shown = chosen[: wanted.limit or None]
    measure(shown)
    rows = [_data(run, stored, sizes.get(run.id)) for run in shown]
    hidden = [run for run in stored.runs if run.deleted]
    if wanted.status != "deleted":
        measure(hidden)
    data = {
        "runs": rows,
        "matching": len(chosen),
        "bytes": sum(row["bytes"] or 0 for row in rows) if measured else None,
        "deleted_runs": len(hidden),
        "deleted_bytes": sum(sizes.get(run.id) or 0 for run in hidden) if measured else None,
    }
    text = _text(data, stored, wanted, where=str(store.location), width=line_width(sys.stdout))
    return Output(data=data, text=text)


def _matches(run: RunInfo, wanted: RunQuery, stored: StoredRuns) -> bool:
    if run.deleted != (wanted.status == "deleted"):
        return False
    if wanted.experiment not in (None, run.experiment) or wanted.kind not in (None, kind_of(run)):
        return False
    return wanted.status in (None, "deleted", stored.state(run), run.status.lower())


def _by_score(run: RunInfo) -> float:
    score = score_of(run)
    return math.inf if score is None else -score


def _data(run: RunInfo, stored: StoredRuns, size: int | None) -> dict[str, Any]:
    return described(run, stored) | {"deleted": run.deleted, "bytes": size}


def described(run: RunInfo, stored: StoredRuns) -> dict[str, Any]:
    """Return the fields of a run that every command prints as JSON."""
    return {
        "id": run.id,
        "name": run.name,
        "experiment": run.experiment,
        "kind": kind_of(run),
        "status": run.status,
        "state": stored.state(run),
        "outcome": run.tags.get("outcome"),
        "score": score_of(run),
        "steps": steps_of(run),
        "start_ms": run.start_ms,
        "end_ms": run.end_ms,
    }


def steps_of(run: RunInfo) -> int | None:
    """Return the training step that a run reached."""
    step = run.metrics.get("step")
    return None if step is None else round(step)


def _text(
    data: Mapping[str, Any], stored: StoredRuns, wanted: RunQuery, *, where: str, width: int | None
) -> str:
    rows = data["runs"]
    if not rows:
        lines = ["no such run" if stored.runs else f"no run is stored in {where} yet"]
    else:
        cells = [_cells(row, stored.now_ms) for row in rows]
        columns = [c for c in _COLUMNS if any(line[c] for line in cells)]
        if wanted.experiment is not None or len({row["experiment"] for row in rows}) == 1:
            columns = [c for c in columns if c != "experiment"]
        lines = [fitted(columns, cells, width), "", _total(data, wanted)]
    if data["deleted_runs"] and wanted.status != "deleted":
        size = "" if data["deleted_bytes"] is None else f", {units.size(data['deleted_bytes'])}"
        lines.append(f"deleted but still stored: {data['deleted_runs']}{size}: cyclegan runs gc")
    return "\n".join(lines)


def _total(data: Mapping[str, Any], wanted: RunQuery) -> str:
    count, matching = len(data["runs"]), data["matching"]
    text = units.count(count, "run")
    if data["bytes"] is None:
        text += "; add --sizes to measure them"
    else:
        text += f", {units.size(data['bytes'])}"
    return text + (f"; --limit 0 shows all {matching}" if matching > count else "")


def _cells(row: Mapping[str, Any], now_ms: int) -> dict[str, str]:
    end = row["end_ms"] or (now_ms if row["state"] == "running" else None)
    return {
        "id": row["id"][:_ID],
        "run": row["name"],
        "experiment": row["experiment"],
        "kind": row["kind"],
        "state": row["state"],
        "score": units.score(row["score"]),
        "steps": "" if row["steps"] is None else str(row["steps"]),
        "start": units.moment(row["start_ms"], now_ms=now_ms),
        "took": units.took(None if end is None else end - row["start_ms"]),
        "size": "" if row["bytes"] is None else units.size(row["bytes"]),
    }


def fitted(columns: Sequence[str], cells: Sequence[Mapping[str, str]], width: int | None) -> str:
    """Return a table no wider than `width`; shorten names and leave out columns to fit."""
    left = list(columns)
    for column in (None, *_LEFT_OUT):
        if column in left:
            left.remove(column)
        taken = {c: max(len(c), *(len(line[c]) for line in cells)) for c in left}
        over = 0 if width is None else sum(taken.values()) + 2 * (len(left) - 1) - width
        flexible = [c for c in _LEAST if c in left]
        if over <= sum(max(taken[c] - _LEAST[c], 0) for c in flexible):
            break
    for _ in range(max(over, 0)):  # shorten the longer name
        longest = max(flexible, key=lambda c: taken[c] - _LEAST[c])
        taken[longest] -= 1
    rows = [[units.shortened(line[c], taken[c]) for c in left] for line in cells]
    return table(left, rows, words={"id", "run", "experiment", "kind", "state"})
