"""What a study maximises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cyclegan.score import GATED
from cyclegan.validation import ValidationReport

Objective = Literal[
    "score",
    "score/pseudo_pair_gain_db",
    "score/pseudo_pair_fitted_gain_db",
    "score/lowpass_correlation",
]
"""Metrics of a validation of which more is better: the score, or one of its parts alone."""


def objective_of(report: ValidationReport, name: Objective) -> float:
    """The value of a validation; an unusable generator gets the score's value for those."""
    if report.gate is not None:
        return GATED
    return float(report.metrics[name])


JudgedBy = Literal["best", "last"]
"""Which of a trial's validations counts: the best so far, or the last."""


def worth(reports: Mapping[int, float], judge_by: JudgedBy) -> float | None:
    """What a trial is worth by its reports (objective by iteration); None if it has none."""
    if not reports:
        return None
    return max(reports.values()) if judge_by == "best" else reports[max(reports)]
