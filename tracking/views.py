"""Saved views of the runs table and its charts, shipped as tags of an experiment.

MLflow's own table shows no parameter and no metric and folds children away below their parent. Its
user interface reads a saved view from the experiment's tag `mlflow.sharedViewState.<key>`. That is
an internal format of MLflow 3 (seen in 3.17), so a test holds what we write.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

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


# -- Charts of an experiment's page, shipped with a saved view ---------------------------------
#
# MLflow's page puts a chart of every metric below the other, and pictures last, with all parameters
# written over them. A saved view can say which charts come first. As with the rest of a view that
# is an internal format of MLflow 3 (seen in 3.17); charts that are not named here follow below.

# MLflow makes a section of what stands before the slash. In the order of its sections, capital
# letters first, this one is on top of a run's page.
CYCLE_PICTURES = "Cycle/slices"
"""Series of the six images of each validation."""


ROLLBACK_PICTURES = "Cycle/rollbacks"
"""Series of what a rollback was about."""
COMPARISON_PICTURES = "Comparison/slices"
"""Of an enhancement: input, result, and what it is measured against."""
_RUNS = 10
"""At most that many runs are drawn, the first ones of the table."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts below one heading."""

    name: str
    cards: Sequence[Mapping[str, Any]]
    columns: int = 2
    height: int = 360
    """Of a chart, in pixels."""


def pictures(key: str, step: int, title: str) -> dict[str, Any]:
    """The picture `key` of every run at one step, side by side, with a slider over the steps."""
    return {
        "type": "IMAGE",
        "imageKeys": [key],
        "step": step,
        "showRunParams": False,
        "displayName": title,
    }


def curves(metric: str) -> dict[str, Any]:
    """A metric of every run over the iterations."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
    }


def parallel_coordinates(params: Sequence[str], metric: str) -> dict[str, Any]:
    """A line a run through its parameters, coloured by a metric."""
    return {
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": [metric],
        "showAllRuns": True,
    }


def chart_state(sections: Sequence[Section]) -> dict[str, Any]:
    """The part of a view's state that says which charts are shown."""
    cards = [
        {
            "uuid": f"{section.name}-{number}",
            "runsCountToCompare": _RUNS,
            "metricSectionId": section.name,
            "deleted": False,
            "isGenerated": False,
            **card,
        }
        for section in sections
        for number, card in enumerate(section.cards)
    ]
    headings = [
        {
            "uuid": section.name,
            "name": section.name,
            "display": True,
            "isReordered": True,
            "deleted": False,
            "isGenerated": False,
            "columns": section.columns,
            "cardHeight": section.height,
        }
        for section in sections
    ]
    return {
        "compareRunSections": headings,
        "compareRunCharts": cards,
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
    }


# -- The views that experiments get: useful columns, the best run first, pictures side by side

TRIALS, PROMOTED, TRAININGS = KEYS = ("trials", "promoted", "trainings")
"""Keys of the views."""


def trials_view(params: Iterable[str], step: int = 0) -> View:
    """Of a study's trials: score, `params`, outcome.

    `score/value` is what the study ranks a trial by, of which it knows when the trial ends.
    `step` is that of the pictures first shown.
    """
    searched = list(params)
    value = column("metrics", "score/value")
    charts = [curves("score"), parallel_coordinates(searched, "score/value")]
    return View(
        key=TRIALS,
        name="Trials",
        columns=[
            value,
            column("metrics", "score"),
            *(column("params", name) for name in searched),
            column("tags", "outcome"),
            column("metrics", "iteration"),
        ],
        order_by=value,
        filter="tags.kind = 'trial'",
        sections=[_side_by_side(step), Section(name="Score", cards=charts)],
    )


def promoted_view(step: int = 0) -> View:
    """Of what trials became; a study gets it with its first promotion.

    `step` is that of the pictures first shown: one that continues a trial has none at 0.
    """
    tags = ("kind", "trial", "seed", "start", "model_version", "outcome")
    best = column("metrics", "score/best")
    return View(
        key=PROMOTED,
        name="Promoted",
        columns=[best, *(column("tags", tag) for tag in tags)],
        order_by=best,
        # Runs of the kinds `promoted` and `confirm`: MLflow has no IN for tags.
        filter="tags.trial LIKE '%' and tags.kind != 'trial'",
        sections=[_side_by_side(step), _scores()],
    )


def trainings_view() -> View:
    """Of trainings that belong to no study."""
    best = column("metrics", "score/best")
    return View(
        key=TRAININGS,
        name="Trainings",
        columns=[
            best,
            column("metrics", "step"),
            *(column("params", name) for name in ("steps", "lr_g", "lr_d", "net_A")),
            *(column("tags", tag) for tag in ("outcome", "data_A")),
        ],
        order_by=best,
        filter="tags.kind = 'train'",
        sections=[_side_by_side(), _scores()],
    )


def _side_by_side(step: int = 0) -> Section:
    shown = pictures(CYCLE_PICTURES, step, "Six images of each run, on the same patches")
    return Section(name="Pictures", cards=[shown], columns=1, height=980)


def _scores() -> Section:
    return Section(name="Score", cards=[curves("score"), curves("score/best")])
