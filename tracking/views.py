"""Saved views of the runs table, shipped as tags of an experiment.

MLflow's own table shows no parameter and no metric and folds children away below their parent. Its
user interface reads a saved view from the experiment's tag `mlflow.sharedViewState.<key>`. That is
an internal format of MLflow 3 (seen in 3.17), so a test holds what we write.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

TRIALS = "trials"
"""Key of the view that every study's experiment gets."""
TRIAL_FILTER = "tags.kind = 'trial'"
PROMOTED = "promoted"
"""Key of the view of what trials became; a study gets it with its first promotion."""
PROMOTED_FILTER = "tags.trial LIKE '%' and tags.kind != 'trial'"
"""Runs of the kinds `promoted` and `confirm`: MLflow has no IN for tags."""

_PREFIX = "deflate;"
# Without it a first visit opens the tools for language models.
_TRAININGS = {"workflowType": "machine_learning"}


def column(kind: str, name: str) -> str:
    """A column's key; `kind` is `metrics`, `params`, `tags` or `attributes`."""
    return f"{kind}.`{name}`"


def tag_name(key: str) -> str:
    """The experiment tag that holds the view `key`."""
    return f"mlflow.sharedViewState.{key}"


def encode(
    name: str, columns: Sequence[str], order_by: str, filter_string: str, *, now_ms: int
) -> str:
    """The tag's value. `order_by` is a column and may end with ` ASC` or ` DESC` (the default)."""
    key, ascending = order_by.removesuffix(" DESC"), order_by.endswith(" ASC")
    state = {
        "searchFilter": filter_string,
        "orderByKey": key.removesuffix(" ASC"),
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
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
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode()))
    view = {"name": name, "createdAt": now_ms, "updatedAt": now_ms, "state": None}
    return json.dumps(view | {"state": _PREFIX + packed.decode()})


def decode(value: str) -> tuple[str, dict[str, Any]]:
    """Name and state of a view, from its tag's value."""
    view = json.loads(value)
    packed = base64.b64decode(view["state"].removeprefix(_PREFIX))
    state: dict[str, Any] = json.loads(zlib.decompress(packed))
    return str(view["name"]), state


def experiment_link(server: str, experiment_id: str, key: str | None = None) -> str:
    """Address of an experiment's runs on `server`, through the view `key` if one is given."""
    query = _TRAININGS | ({"viewStateShareKey": key} if key else {})
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Address of a run on `server`."""
    return f"{server.rstrip('/')}/{link_between_runs(experiment_id, run_id)}"


def link_between_runs(experiment_id: str, run_id: str) -> str:
    """The same relative to the server, for the notes of another run: it holds on every server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{urlencode(_TRAININGS)}"
