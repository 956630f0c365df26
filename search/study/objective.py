"""The objective that a study maximises, and the score of a trial by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cyclegan.callbacks import Callback
from cyclegan.files import write_text
from cyclegan.score import GATED
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport

OBJECTIVE_NAME = "objective.json"
"""File that `ObjectiveRecord` writes in a training's folder."""

Objective = Literal[
    "score",
    "score/pseudo_pair_gain_db",
    "score/pseudo_pair_fitted_gain_db",
    "score/lowpass_correlation",
]
"""Metrics of a validation for which higher is better: the score, or one of its parts alone."""


def objective_of(report: ValidationReport, name: Objective) -> float:
    """Return the objective of a validation; `GATED` if the generator is unusable."""
    if report.gate is not None:
        return GATED
    return float(report.metrics[name])


JudgedBy = Literal["best", "last"]
"""The validation that counts for a trial: the best since judging began, or the last."""


def score_of_reports(reports: Mapping[int, float], judge_by: JudgedBy, since: int) -> float | None:
    """Return a trial's score from its reports (objective by iteration); None without any.

    With `best`, reports before iteration `since` don't count; if there are no others, the last one
    does. Young generators smooth, which scores well for a while and says nothing about their later
    quality.
    """
    if not reports:
        return None
    last = reports[max(reports)]
    if judge_by == "last":
        return last
    return max((value for at, value in reports.items() if at >= since), default=last)


class ObjectiveRecord(Callback):
    """Writes the objective of every validation to a file: a complete training need not rerun."""

    def __init__(self, path: Path, objective: Objective) -> None:
        self.path, self.objective = path, objective
        self._reports: dict[int, float] = {}

    def on_train_start(self, trainer: Trainer) -> None:
        """Continue from the values recorded up to this iteration."""
        known = recorded_reports(self.path)
        self._reports = {at: value for at, value in known.items() if at <= trainer.iteration}

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Record the value of this validation."""
        self._reports[report.iteration] = objective_of(report, self.objective)
        write_text(self.path, json.dumps(self._reports))


def recorded_reports(path: Path) -> dict[int, float]:
    """Return the recorded values of a training, objective by iteration; empty without a record."""
    if not path.is_file():
        return {}
    return {int(at): value for at, value in json.loads(path.read_text(encoding="utf-8")).items()}
