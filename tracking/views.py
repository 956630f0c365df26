"""Saved views of the runs table and its charts, as tags of an experiment, and links to pages.

MLflow's own table shows no parameters and no metrics and hides children below their parent. Its
user interface reads a saved view from the experiment's tag `mlflow.sharedViewState.<key>`. That is
an internal format of MLflow 3 (seen in 3.17), so a test checks what we write.
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

# Otherwise a first visit opens the tools for language models.
_MODE = {"workflowType": "machine_learning"}


def column(kind: str, name: str) -> str:
    """Return a column's key; `kind` is `metrics`, `params`, `tags` or `attributes`."""
    return f"{kind}.`{name}`"


def tag_name(key: str) -> str:
    """Return the name of the experiment tag that holds the view `key`."""
    return f"mlflow.sharedViewState.{key}"


@dataclass(frozen=True, kw_only=True)
class View:
    """A saved view of an experiment's runs: the table and charts that its link opens."""

    key: str
    """Name in links, e.g. `trials`."""
    name: str
    """Name in the user interface."""
    columns: Sequence[str]
    """Columns of the table, such as `column("metrics", "score")`."""
    order_by: str
    """Column to sort by, highest first unless it ends with ` ASC`."""
    filter: str = ""
    """Filter in MLflow's search syntax, e.g. `tags.kind = 'trial'`."""
    sections: Sequence[Section] = ()
    """Charts that come first; without any, MLflow puts all in its own order."""


def encode(view: View, *, now_ms: int) -> str:
    """Return the value of the view's tag."""
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
    """Return name and state of a view from its tag's value."""
    view = json.loads(value)
    packed = base64.b64decode(view["state"].removeprefix(_PREFIX))
    state: dict[str, Any] = json.loads(zlib.decompress(packed))
    return str(view["name"]), state


def experiment_link(
    server: str, experiment_id: str, key: str | None = None, *, charts: bool = False
) -> str:
    """Return the address of an experiment's runs on `server`, in the view `key` if given.

    It opens the table, or with `charts` the charts. Without a `server` it is relative, for
    descriptions.
    """
    query = _MODE | ({"viewStateShareKey": key} if key else {})
    query |= {"compareRunsMode": "CHART"} if charts else {}
    start = f"{server.rstrip('/')}/" if server else ""
    return f"{start}#/experiments/{experiment_id}/runs?{urlencode(query)}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run on `server`."""
    return f"{server.rstrip('/')}/{link_between_runs(experiment_id, run_id)}"


def artifact_link(experiment_id: str, run_id: str, artifact: str) -> str:
    """Return the address of an artifact's preview, relative to the server."""
    place = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(artifact)}"
    return f"{place}?{urlencode(_MODE)}"


def link_between_runs(experiment_id: str, run_id: str) -> str:
    """Return a run's address relative to any server, for the notes of another run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{urlencode(_MODE)}"


# -- Charts of an experiment's page, as part of a saved view -----------------------------------
#
# MLflow's page stacks one chart per metric and puts pictures last, with all parameters written over
# them. A saved view can name charts that come first; the others follow below. This, too, is an
# internal format of MLflow 3 (seen in 3.17).

# MLflow takes the text before the slash as a section and sorts sections with capital letters first,
# so this one is at the top of a run's page.
CYCLE_PICTURES = "Cycle/slices"
"""Series of pictures with the six images of each validation."""


ROLLBACK_PICTURES = "Cycle/rollbacks"
"""Series of pictures before and after each rollback, and of its outcome."""
COMPARISON_PICTURES = "Comparison/slices"
"""Pictures of an enhancement: input, result, and reference."""
_RUNS = 10
"""Most runs drawn in a chart: the first ones of the table."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts under one heading."""

    name: str
    cards: Sequence[Mapping[str, Any]]
    columns: int = 2
    height: int = 360
    """Height of a chart in pixels."""


def pictures(key: str, step: int, title: str) -> dict[str, Any]:
    """Return a chart with every run's picture `key` at one step, with a slider over the steps."""
    return {
        "type": "IMAGE",
        "imageKeys": [key],
        "step": step,
        "showRunParams": False,
        "displayName": title,
    }


def curves(metric: str) -> dict[str, Any]:
    """Return a chart of a metric of every run over the iterations."""
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
    """Return a chart with a line per run through its parameters, coloured by a metric."""
    return {
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": [metric],
        "showAllRuns": True,
    }


def chart_state(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the part of a view's state that names its charts."""
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


# -- Views of experiments: useful columns, the best run first, pictures side by side -----------

TRIALS, PROMOTED, TRAININGS = KEYS = ("trials", "promoted", "trainings")
"""Keys of the views."""


def trials_view(params: Iterable[str], step: int = 0) -> View:
    """Return the view of a study's trials: score, `params`, outcome.

    `score/value` is the value by which the study ranks a trial, known when the trial ends. `step`
    is the step of the pictures shown first.
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
    """Return the view of runs that trials became; a study gets it with its first promotion.

    `step` is the step of the pictures shown first: a run that continues a trial has none at 0.
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
    """Return the view of trainings that belong to no study."""
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
