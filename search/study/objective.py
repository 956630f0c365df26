"""The objectives of a study, and the values of a trial by them.

The first objective is one for which higher is better: its curve is what pruners, pictures and the
choice of checkpoints look at. A study may have further ones; then it searches a Pareto front.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from cyclegan.callbacks import Callback
from cyclegan.files import write_text
from cyclegan.score import GATED

if TYPE_CHECKING:
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
TIME = "seconds"
"""Objective: the seconds that workers spent on a trial, all its seeds and validations included."""
Further = Literal[
    Objective,
    "score/shell_gain",
    "score/spectrum_distance_db",
    "score/sliced_wasserstein",
    "score/checkerboard",
    "seconds",
]
"""Objectives that may follow the first one."""
_MINIMISED = (
    TIME,
    "score/spectrum_distance_db",
    "score/sliced_wasserstein",
    "score/checkerboard",
)
Objectives = Annotated[
    tuple[Further, ...],
    Field(min_length=1, max_length=3),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    PlainSerializer(lambda names: names[0] if len(names) == 1 else list(names)),
]
"""One objective, by its name alone, or up to three for a Pareto front."""


def is_minimised(name: str) -> bool:
    """Return True for an objective for which lower is better."""
    return name in _MINIMISED


def short(name: str) -> str:
    """Return the name of an objective without its group."""
    return name.rpartition("/")[2]


def is_in_db(name: str) -> bool:
    """Return True for an objective that learning curves of other trainings can forecast."""
    return name == "score" or name.endswith("gain_db")


def values_of(report: ValidationReport, names: Sequence[Further]) -> tuple[float, ...]:
    """Return the values of a validation by all objectives but the time, in their order.

    If the generator is unusable, they are `GATED`, or `-GATED` where lower is better: not all parts
    of the score are measured then.
    """
    measured = [name for name in names if name != TIME]
    if report.gate is not None:
        return tuple(-GATED if is_minimised(name) else GATED for name in measured)
    return tuple(float(report.metrics[name]) for name in measured)


class ObjectiveRecord(Callback):
    """Writes the values of every validation to a file: a complete training need not rerun."""

    def __init__(self, path: Path, names: Sequence[Further]) -> None:
        self.path, self.names = path, names
        self._reports: dict[int, tuple[float, ...]] = {}

    def on_train_start(self, trainer: Trainer) -> None:
        """Continue from the values recorded up to this iteration."""
        known = recorded_values(self.path)
        self._reports = {at: values for at, values in known.items() if at <= trainer.iteration}

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Record the values of this validation."""
        self._reports[report.iteration] = values_of(report, self.names)
        write_text(self.path, json.dumps(self._reports))


def recorded_values(path: Path) -> dict[int, tuple[float, ...]]:
    """Return the recorded values of a training by iteration; empty without a record."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {int(at): _tuple(values) for at, values in found.items()}


def recorded_reports(path: Path) -> dict[int, float]:
    """Return the recorded values of a training by the first objective, by iteration."""
    return {at: values[0] for at, values in recorded_values(path).items()}


def _tuple(values: float | list[float]) -> tuple[float, ...]:
    # Before studies had several objectives, a record held plain numbers.
    return tuple(values) if isinstance(values, list) else (values,)
