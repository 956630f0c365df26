"""How hopeless trials are ended early: Optuna's pruners, and when each of them judges."""

from __future__ import annotations

import copy
import warnings
from typing import Annotated, Any, Literal, Self

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from pydantic import Field, model_validator

from cyclegan.config import Count, Section
from search.study.objective import JudgedBy, worth

_OWN = {
    "reduction_factor": ("successive_halving", "hyperband"),
    "startup_trials": ("median",),
    "patience": ("patience",),
    "min_delta": ("patience",),
    "lower": ("threshold",),
}
"""Fields that only some pruners look at."""


class Pruner(Section):
    """How hopeless trials are ended early."""

    name: Literal["successive_halving", "hyperband", "median", "patience", "threshold", "none"] = (
        "successive_halving"
    )
    prune_after: Count = 1_000
    """Iterations before a trial is judged first, by the pruner and by the gates."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One in so many survives a rung; the next rung is so many times later (successive_halving,
    hyperband)."""
    startup_trials: int = Field(default=3, ge=0)
    """Trials that must be complete before their median is a yardstick (median)."""
    patience: Count = 5
    """Reports in a row below the trial's own best that end it (patience)."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """How far below its best a report must stay to count (patience)."""
    lower: float | None = Field(default=None, allow_inf_nan=False)
    """Reports below it end a trial (threshold)."""

    @model_validator(mode="after")
    def _only_what_it_looks_at(self) -> Self:
        for field, names in _OWN.items():
            default = type(self).model_fields[field].default
            if self.name not in names and getattr(self, field) != default:
                raise ValueError(
                    f"{field} is for {' and '.join(names)}; {self.name} does not look at it"
                )
        if self.name == "threshold" and self.lower is None:
            raise ValueError("threshold needs lower: the score below which a trial is ended")
        return self

    def build(self, definition_steps: int, judge_by: JudgedBy = "best") -> BasePruner:
        """Optuna's pruner of that name, for trials of `definition_steps` steps."""
        first, factor = self.prune_after, self.reduction_factor
        if self.name == "none":
            return optuna.pruners.NopPruner()
        if self.name == "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=self.startup_trials, n_warmup_steps=first
            )
        if self.name == "threshold":
            return optuna.pruners.ThresholdPruner(lower=self.lower, n_warmup_steps=first)
        if self.name == "patience":
            with warnings.catch_warnings():  # that its interface may still change
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                # Optuna's 0 lets one report be below the best; here 1 does.
                return optuna.pruners.PatientPruner(
                    _From(first), self.patience - 1, min_delta=self.min_delta
                )
        if self.name == "hyperband":
            return _hyperband(first, definition_steps, factor, judge_by)
        return _Halving(judge_by, first, factor)

    def rungs(self, steps: int, bracket: int = 0) -> list[int]:
        """Iterations at which a trial of `steps` is compared at a rung, if it gets so far.

        Rung k lies at `prune_after` times `reduction_factor` to the power `bracket` + k. The other
        pruners have no rungs: they judge every report from `prune_after` on.
        """
        if self.name not in ("successive_halving", "hyperband"):
            return []
        found, at = [], self.prune_after * self.reduction_factor**bracket
        while at < steps:
            found.append(at)
            at *= self.reduction_factor
        return found


def judged_at(rung: int, report_every: int) -> int:
    """The report at which a rung is judged: the first at it or later."""
    return -(-rung // report_every) * report_every


def bracket_of(pruner: BasePruner, study: optuna.Study, trial: FrozenTrial) -> int:
    """Hyperband's bracket of a trial, which follows from the study's name and its number; else 0.

    Trials are compared within their bracket only.
    """
    if isinstance(pruner, optuna.pruners.HyperbandPruner):
        return pruner._get_bracket_id(study, trial)
    return 0


def _hyperband(first: int, last: int, factor: int, judge_by: JudgedBy) -> BasePruner:
    pruner = _Hyperband(judge_by, first, last, factor)
    # It makes its brackets when it judges first, and before that says that all trials are in the
    # first one: a process just started would choose other values than one that has been running.
    unused: Any = None
    pruner._try_initialization(unused)
    return pruner


class _From(BasePruner):
    """Agrees from an iteration on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        return step is not None and step >= self.first


class _Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Successive halving that compares what reports are worth."""

    def __init__(self, judge_by: JudgedBy, first: int, factor: int) -> None:
        super().__init__(min_resource=first, reduction_factor=factor)
        self.judge_by, self.first = judge_by, first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(study, _as_worth(trial, self.judge_by, self.first))


class _Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband that compares what reports are worth."""

    def __init__(self, judge_by: JudgedBy, first: int, last: int, factor: int) -> None:
        super().__init__(min_resource=first, max_resource=last, reduction_factor=factor)
        self.judge_by, self.first = judge_by, first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(study, _as_worth(trial, self.judge_by, self.first))


def _as_worth(trial: FrozenTrial, judge_by: JudgedBy, first: int) -> FrozenTrial:
    """The trial with what its reports are worth in the place of the last one."""
    found, reports = copy.copy(trial), trial.intermediate_values
    value = worth(reports, judge_by, first)
    if value is not None:
        found.intermediate_values = reports | {max(reports): value}
    return found
