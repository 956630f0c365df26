"""What a study maximises, and what a training is worth by it."""

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
"""File of `ObjectiveRecord` in a training's folder."""

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
"""Which of a trial's validations counts: the best since it is judged at all, or the last."""


def worth(reports: Mapping[int, float], judge_by: JudgedBy, since: int) -> float | None:
    """What a trial is worth by its reports (objective by iteration); None if it has none.

    With `best` the reports before iteration `since` don't count, but for the last one: young
    generators smooth, which scores well for a while and says nothing of what becomes of them.
    """
    if not reports:
        return None
    last = reports[max(reports)]
    if judge_by == "last":
        return last
    return max((value for at, value in reports.items() if at >= since), default=last)


class ObjectiveRecord(Callback):
    """Keeps the objective of every validation in a file: a complete training is not run again."""

    def __init__(self, path: Path, objective: Objective) -> None:
        self.path, self.objective = path, objective
        self._reports: dict[int, float] = {}

    def on_train_start(self, trainer: Trainer) -> None:
        """Go on from what is known up to here."""
        known = recorded_reports(self.path)
        self._reports = {at: value for at, value in known.items() if at <= trainer.iteration}

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Add one."""
        self._reports[report.iteration] = objective_of(report, self.objective)
        write_text(self.path, json.dumps(self._reports))


def recorded_reports(path: Path) -> dict[int, float]:
    """The record of a training: objective by iteration; empty without one."""
    if not path.is_file():
        return {}
    return {int(at): value for at, value in json.loads(path.read_text(encoding="utf-8")).items()}
