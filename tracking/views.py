"""Saved views of the runs table and its charts, shipped as tags of an experiment.

MLflow's own table shows no parameter and no metric and folds children away below their parent. Its
user interface reads a saved view from the experiment's tag `mlflow.sharedViewState.<key>`. That is
an internal format of MLflow 3 (seen in 3.17), so a test holds what we write.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tracking.charts import Section, chart_state

_PREFIX = "deflate;"
# Without it a first visit opens the tools for language models.
_MODE = {"workflowType": "machine_learning"}


def column(kind: str, name: str) -> str:
    """A column's key; `kind` is `metrics`, `params`, `tags` or `attributes`."""
    return f"{kind}.`{name}`"


def tag_name(key: str) -> str:
    """The experiment tag that holds the view `key`."""
    return f"mlflow.sharedViewState.{key}"


@dataclass(frozen=True, kw_only=True)
class View:
    """What the page of an experiment's runs shows when it is opened through its link."""

    key: str
    """What links call it, e.g. `trials`."""
    name: str
    """What the interface calls it."""
    columns: Sequence[str]
    """Of the table, such as `column("metrics", "score")`."""
    order_by: str
    """A column, highest first unless it ends with ` ASC`."""
    filter: str = ""
    """In MLflow's search syntax, e.g. `tags.kind = 'trial'`."""
    sections: Sequence[Section] = ()
    """Charts that come first; without any all are in MLflow's own order."""


def encode(view: View, *, now_ms: int) -> str:
    """The tag's value."""
    state = {
        "searchFilter": view.filter,
        "orderByKey": view.order_by.removesuffix(" ASC"),
        "orderByAsc": view.order_by.endswith(" ASC"),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(view.columns),
        "columnOrder": list(view.columns),
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        **(chart_state(view.sections) if view.sections else {}),
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode()))
    shared = {"name": view.name, "createdAt": now_ms, "updatedAt": now_ms}
    return json.dumps(shared | {"state": _PREFIX + packed.decode()})


def decode(value: str) -> tuple[str, dict[str, Any]]:
    """Name and state of a view, from its tag's value."""
    view = json.loads(value)
    packed = base64.b64decode(view["state"].removeprefix(_PREFIX))
    state: dict[str, Any] = json.loads(zlib.decompress(packed))
    return str(view["name"]), state


def experiment_link(
    server: str, experiment_id: str, key: str | None = None, *, charts: bool = False
) -> str:
    """Address of an experiment's runs on `server`, through the view `key` if one is given.

    As a table, or as `charts`. Without a `server` it is relative, for descriptions.
    """
    query = _MODE | ({"viewStateShareKey": key} if key else {})
    query |= {"compareRunsMode": "CHART"} if charts else {}
    start = f"{server.rstrip('/')}/" if server else ""
    return f"{start}#/experiments/{experiment_id}/runs?{urlencode(query)}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Address of a run on `server`."""
    return f"{server.rstrip('/')}/{link_between_runs(experiment_id, run_id)}"


def artifact_link(experiment_id: str, run_id: str, artifact: str) -> str:
    """Address of an artifact's preview, relative to the server."""
    place = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(artifact)}"
    return f"{place}?{urlencode(_MODE)}"


def link_between_runs(experiment_id: str, run_id: str) -> str:
    """The same relative to the server, for the notes of another run: it holds on every server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{urlencode(_MODE)}"
