"""Experiments and runs as plain values, and the runs that a user's text means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cyclegan.errors import nearest

PARENT = "mlflow.parentRunId"
"""Tag with the id of a run's parent."""
_NAMES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ExperimentInfo:
    """An experiment of the store; every study has one."""

    id: str
    name: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as the store describes it."""

    id: str
    name: str
    experiment_id: str
    experiment: str
    status: str
    """`RUNNING`, `FINISHED`, `FAILED`, `KILLED` or `SCHEDULED`."""
    start_ms: int
    end_ms: int | None
    """Both times in ms since 1970."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """Last value of each metric."""
    artifact_uri: str = ""
    """Address of its files."""
    deleted: bool = False
    """Deleted in the user interface: hidden there, but still stored with its files."""

    @property
    def parent(self) -> str | None:
        """Id of the run below which the interface shows it."""
        return self.tags.get(PARENT)


def hint(name: str, runs: Sequence[RunInfo]) -> str:
    """Return the end of a message about the unknown run `name`; `runs` has the newest first."""
    names = list(dict.fromkeys(run.name for run in runs))
    if not names:
        return "it has no runs"
    end = nearest(name, names)
    if end.startswith("known") and len(names) > _NAMES_SHOWN:
        return "the newest: " + ", ".join(names[:_NAMES_SHOWN])
    return end


# -- Runs by the text that a user gives --------------------------------------------------------
#
# The text may be, tried in this order: a whole id; a name; `demo:3`, trial 3 of the study `demo`;
# the beginning of an id, at least six characters long.

SHORTEST = 6
"""Least number of characters that count as the beginning of an id."""


_ID = re.compile(rf"[0-9a-f]{{{SHORTEST},32}}")
_TRIAL = re.compile(r"(?P<study>.+):(?P<trial>\d{1,9})")


def matching(text: str, search: Callable[[str], list[RunInfo]]) -> list[RunInfo]:
    """Return the runs that `text` can mean, newest first; `search` takes MLflow's search syntax.

    Several runs may have the same name. A study has several runs of one trial if the first was
    lost.
    """
    filters = [f"attributes.run_name = {quoted(text)}"]
    trial = _TRIAL.fullmatch(text)
    if trial:
        study, number = quoted(trial["study"]), int(trial["trial"])
        filters.append(f"tags.study = {study} and tags.trial = '{number}' and tags.kind = 'trial'")
    if _ID.fullmatch(text):
        if len(text) == 32:
            filters.insert(0, f"attributes.run_id = '{text}'")
        else:
            filters.append(f"attributes.run_id LIKE '{text}%'")
    return next((found for found in map(search, filters) if found), [])


def newest(found: list[RunInfo]) -> RunInfo:
    """Return the newest finished run, or the newest one if none has finished."""
    return max(found, key=lambda run: (run.status == "FINISHED", run.start_ms))


def several_ids(text: str, found: list[RunInfo]) -> bool:
    """Return True if `text` is the beginning of several ids rather than a name of several runs."""
    return len(found) > 1 and all(run.id.startswith(text) and run.name != text for run in found)


def quoted(text: str) -> str:
    """Return `text` as a value in MLflow's search syntax, which has no escape character."""
    return f'"{text}"' if "'" in text else f"'{text}'"
