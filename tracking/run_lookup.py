"""Experiments and runs as plain values, and the runs that a user's text means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cyclegan.errors import nearest

PARENT = "mlflow.parentRunId"
"""Tag with the id of a run's parent."""
MADE_AS = "cyclegan.name"
"""Tag of experiments and models with the name they were made for; people may rename them."""
_NAMES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ExperimentInfo:
    """An experiment of the store; every study has one."""

    id: str
    name: str
    """The name that MLflow's interface shows now."""
    tags: Mapping[str, str]
    deleted: bool = False

    @property
    def made_as(self) -> str:
        """The name it was made for, such as that of its study."""
        return self.tags.get(MADE_AS, self.name)


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


def called(name: str, experiments: Sequence[ExperimentInfo]) -> ExperimentInfo | None:
    """Return the experiment made for `name`, else the one that is called so now, or None."""
    made = (each for each in experiments if each.made_as == name)
    return next(made, next((each for each in experiments if each.name == name), None))


def hint(name: str, runs: Sequence[RunInfo]) -> str:
    """Return the end of a message about the unknown run `name`; `runs` has the newest first."""
    names = list(dict.fromkeys(run.name for run in runs))
    if not names:
        return "it has no runs; --tracking-uri names another store"
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
_TRIAL = re.compile(r"(?P<study>.+):(?P<trial>\d{1,9})", re.DOTALL)


def matching(text: str, search: Callable[[str], list[RunInfo]]) -> list[RunInfo]:
    """Return the runs that `text` can mean, newest first; `search` takes MLflow's search syntax.

    Several runs may have the same name. A study has several runs of one trial if the first was
    lost.
    """
    conditions = [Condition(equal("attributes.run_name", text), lambda run: run.name == text)]
    trial = _TRIAL.fullmatch(text)
    if trial:
        study, number = trial["study"], int(trial["trial"])
        numbered = f"tags.trial = '{number}' and tags.kind = 'trial'"
        clauses = " and ".join(filter(None, [equal("tags.study", study), numbered]))
        conditions.append(Condition(clauses, lambda run: run.tags.get("study") == study))
    if _ID.fullmatch(text):
        if len(text) == 32:
            conditions.insert(0, Condition(f"attributes.run_id = '{text}'"))
        else:
            conditions.append(Condition(f"attributes.run_id LIKE '{text}%'"))
    for condition in conditions:
        found = [run for run in search(condition.filter) if condition.holds(run)]
        if found:
            return found
    return []


@dataclass(frozen=True)
class Condition:
    """A condition on runs: what MLflow's search syntax can say of it, and the whole of it."""

    filter: str
    holds: Callable[[RunInfo], bool] = lambda run: True


def equal(key: str, text: str) -> str:
    """Return the clause `key = text` in MLflow's search syntax; empty if it can't express that.

    The syntax has no escape character: such a text must be compared here.
    """
    return f"{key} = '{text}'" if not set(text) & set("'\"\\") and text.isprintable() else ""


def newest(found: list[RunInfo]) -> RunInfo:
    """Return the newest finished run, or the newest one if none has finished."""
    return max(found, key=lambda run: (run.status == "FINISHED", run.start_ms))


def several_ids(text: str, found: list[RunInfo]) -> bool:
    """Return True if `text` is the beginning of several ids rather than a name of several runs."""
    return len(found) > 1 and all(run.id.startswith(text) and run.name != text for run in found)
