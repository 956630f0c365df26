"""How hopeless trials are ended early: Optuna's pruners, and when each of them judges."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from pydantic import Field, model_validator

from cyclegan.config import Count, Section
from cyclegan.rounding import round_up
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
    return round_up(rung, report_every)


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


# -- Why a trial was pruned, in numbers: computed from the same values that Optuna's pruner saw
#
# All scores are to be high. Functions here are pure; `search.study.pruning` feeds them.


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a trial was judged by."""

    pruner: str
    """Its name, or `gate`."""
    step: int
    """Of the training, when it was judged."""
    value: float
    """The trial's, as it was compared."""
    so_far: bool = False
    """Whether that is the best of its reports until `step`, rather than the last."""
    rung: int | None = None
    """Counted from 0, for the pruners that have rungs."""
    bracket: int | None = None
    """Hyperband's, counted from 0."""
    rivals: tuple[float, ...] = ()
    """Other trials' values there, best first."""
    cutoff: float | None = None
    """What it would have had to reach; None where there was nothing to reach (a gate)."""
    gate: str = ""
    """Why a gate ended it, in words."""

    @property
    def margin(self) -> float | None:
        """Value above the cutoff; negative for what was pruned."""
        return None if self.cutoff is None else self.value - self.cutoff

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be stored."""
        return asdict(self) | {"rivals": list(self.rivals), "margin": self.margin}

    def in_words(self) -> str:
        """One line."""
        if self.pruner == "gate":
            return f"gate at step {self.step}: {self.gate}"
        rung = "" if self.rung is None else f", rung {self.rung}"
        text = f"score {self.value:.2f} at step {self.step}{rung}"
        if self.so_far:
            text = f"best score {self.value:.2f} until step {self.step}{rung}"
        if self.pruner == "patience":
            text = f"at best score {self.value:.2f} in the last reports at step {self.step}"
        if self.rivals:
            rank = 1 + sum(rival > self.value for rival in self.rivals)
            text += f": rank {rank} of {len(self.rivals) + 1} there (best {self.rivals[0]:.2f}"
            return text + (f", {_short_of(self)})" if self.cutoff is not None else ")")
        return text + (f": {_short_of(self)}" if self.cutoff is not None else "")


def halving_cutoff(value: float, rivals: Sequence[float], reduction_factor: int) -> float:
    """The value that a trial with `value` needs to pass a rung where `rivals` were before.

    One in `reduction_factor` passes, rounded down, but the best always does: Optuna's asynchronous
    successive halving (Li 2018), which never waits for trials to come.
    """
    ranked = sorted([*rivals, value], reverse=True)
    return ranked[max(len(ranked) // reduction_factor, 1) - 1]


def halving(
    value: float,
    rivals: Sequence[float],
    *,
    reduction_factor: int,
    step: int,
    rung: int,
    bracket: int | None = None,
    so_far: bool = False,
) -> Verdict:
    """Judgement at a rung of successive halving, or of Hyperband in its bracket."""
    return Verdict(
        pruner="successive_halving" if bracket is None else "hyperband",
        step=step,
        value=value,
        so_far=so_far,
        rung=rung,
        bracket=bracket,
        rivals=_ranked(rivals),
        cutoff=halving_cutoff(value, rivals, reduction_factor),
    )


def median(values: Sequence[float], rivals: Sequence[float], *, step: int) -> Verdict:
    """Judgement of the best of all `values` so far against the median of complete trials here."""
    return Verdict(
        pruner="median",
        step=step,
        value=max(values),
        so_far=True,
        rivals=_ranked(rivals),
        cutoff=float(np.median(rivals)) if rivals else None,
    )


def patience(values: Sequence[float], *, patience: int, min_delta: float, step: int) -> Verdict:
    """Judgement of the last `patience` of `values` against the best before them."""
    before, late = values[:-patience], values[-patience:]
    return Verdict(
        pruner="patience",
        step=step,
        value=max(late),
        cutoff=max(before) - min_delta if before else None,
    )


def threshold(value: float, *, lower: float, step: int) -> Verdict:
    """Judgement of the last value against a fixed one."""
    return Verdict(pruner="threshold", step=step, value=value, cutoff=lower)


def gated(value: float, gate: str, *, step: int) -> Verdict:
    """An unusable result, whatever the rivals have."""
    return Verdict(pruner="gate", step=step, value=value, gate=gate)


def rungs_done(attributes: Mapping[str, Any]) -> list[float]:
    """A trial's values at the rungs it was judged at, from Optuna's system attributes."""
    found: list[float] = []
    while (key := rung_key(len(found))) in attributes:
        found.append(float(attributes[key]))
    return found


def rung_key(rung: int) -> str:
    """Under which Optuna stores that a rung was judged, and with which value."""
    return f"completed_rung_{rung}"


def _ranked(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted((float(value) for value in values), reverse=True))


def _short_of(verdict: Verdict) -> str:
    assert verdict.cutoff is not None and verdict.margin is not None
    return f"{verdict.cutoff:.2f} was needed, {-verdict.margin:.2f} short"
