"""What the store tells of experiments and runs: plain values, no connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cyclegan.errors import nearest

PARENT = "mlflow.parentRunId"
"""The tag with the id of a run's parent."""
_NAMES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ExperimentInfo:
    """An experiment; a study is one."""

    id: str
    name: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What the store knows of a run."""

    id: str
    name: str
    experiment_id: str
    experiment: str
    status: str
    """`RUNNING`, `FINISHED`, `FAILED`, `KILLED` or `SCHEDULED`."""
    start_ms: int
    end_ms: int | None
    """ms since 1970."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each."""
    artifact_uri: str = ""
    """Where its files lie."""
    deleted: bool = False
    """Deleted in the user interface: hidden there, but it and its files are still stored."""

    @property
    def parent(self) -> str | None:
        """Id of the run below which the interface shows it."""
        return self.tags.get(PARENT)


def hint(name: str, runs: Sequence[RunInfo]) -> str:
    """The end of a message about the unknown run `name`; `runs` has the newest first."""
    names = list(dict.fromkeys(run.name for run in runs))
    if not names:
        return "it has no runs"
    end = nearest(name, names)
    if end.startswith("known") and len(names) > _NAMES_SHOWN:
        return "the newest: " + ", ".join(names[:_NAMES_SHOWN])
    return end
