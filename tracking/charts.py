"""Charts of an experiment's page, shipped with a saved view.

MLflow's page puts a chart of every metric below the other, and pictures last, with all parameters
written over them. A saved view can say which charts come first. As with the rest of a view that is
an internal format of MLflow 3 (seen in 3.17); charts that are not named here follow below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
