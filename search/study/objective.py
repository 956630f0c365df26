"""What a study maximises."""

from __future__ import annotations

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
