"""Pruners: when hopeless trials are ended early, and the verdict on each of them in numbers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from pydantic import Field, model_validator

from cyclegan.config import Count, Section
from cyclegan.numbers import round_up
from search.study.judging import JudgedBy, score_of_reports

_OWN = {
    "reduction_factor": ("successive_halving", "hyperband"),
    "startup_trials": ("median", "percentile"),
    "keep_percent": ("percentile",),
    "least_chance": ("thaw",),
    "patience": ("patience",),
    "min_delta": ("patience",),
    "lower": ("threshold",),
}
"""Fields that only some pruners use."""


class Pruner(Section):
    """The pruner of a study: the way in which hopeless trials are ended early."""

    name: Literal[
        "auto",
        "successive_halving",
        "hyperband",
        "median",
        "percentile",
        "patience",
        "threshold",
        "thaw",
        "none",
    ] = "auto"
    """`auto` stands for what `search.study.automatic` takes for the study."""
    prune_after: Count = 1_000
    """Number of iterations before a trial is first judged, by the pruner and by the gates."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One in this many trials passes a rung, and the next rung is this many times later
    (successive_halving, hyperband)."""
    startup_trials: int = Field(default=3, ge=0)
    """Number of complete trials needed before any trial is compared with them (median,
    percentile)."""
    keep_percent: Annotated[float, Field(gt=0.0, lt=100.0)] = 75.0
    """A trial goes on if its best score so far is among this percentage of the best that the
    complete trials had at the same report (percentile)."""
    least_chance: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Probability to beat the best trial below which a paused trial gets no further steps
    (thaw)."""
    patience: Count = 5
    """Number of reports in a row below the trial's own best that end it (patience)."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """Smallest distance below its best for a report to count (patience)."""
    lower: float | None = Field(default=None, allow_inf_nan=False)
    """Score below which a report ends a trial (threshold)."""
    reason: str = ""
    """Reason why `auto` took this pruner."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _only_what_it_looks_at(self) -> Self:
        for field, names in _OWN.items():
            default = type(self).model_fields[field].default
            if self.name not in names and getattr(self, field) != default:
                raise ValueError(f"{field} is for {' and '.join(names)}; {self.name} ignores it")
        if self.name == "threshold" and self.lower is None:
            raise ValueError("threshold needs lower: the score below which it prunes a trial")
        return self

    def build(self, definition_steps: int, judge_by: JudgedBy = "best") -> BasePruner:
        """Return Optuna's pruner of that name, for trials of `definition_steps` steps."""
        first, factor = self.prune_after, self.reduction_factor
        if self.name in ("none", "thaw"):  # `search.study.pruning` decides when to pause a trial
            return optuna.pruners.NopPruner()
        if self.name == "percentile":
            return optuna.pruners.PercentilePruner(
                self.keep_percent, n_startup_trials=self.startup_trials, n_warmup_steps=first
            )
        if self.name == "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=self.startup_trials, n_warmup_steps=first
            )
        if self.name == "threshold":
            return optuna.pruners.ThresholdPruner(lower=self.lower, n_warmup_steps=first)
        if self.name == "patience":
            with warnings.catch_warnings():  # its interface is experimental
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                # Optuna's 0 allows one report below the best; here 1 does.
                return optuna.pruners.PatientPruner(
                    _From(first), self.patience - 1, min_delta=self.min_delta
                )
        if self.name == "hyperband":
            return _hyperband(first, definition_steps, factor, judge_by)
        return _Halving(judge_by, first, factor)

    def rungs(self, steps: int, bracket: int = 0) -> list[int]:
        """Return the iterations at which a trial of `steps` is compared if it gets that far.

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
    """Return the iteration of the report that judges a rung: the first at the rung or later."""
    return round_up(rung, report_every)


def bracket_of(pruner: BasePruner, study: optuna.Study, trial: FrozenTrial) -> int:
    """Return Hyperband's bracket of a trial, by the study's name and the trial's number; else 0.

    Trials are compared only within their bracket.
    """
    if isinstance(pruner, optuna.pruners.HyperbandPruner):
        return pruner._get_bracket_id(study, trial)
    return 0


def _hyperband(first: int, last: int, factor: int, judge_by: JudgedBy) -> BasePruner:
    pruner = _Hyperband(judge_by, first, last, factor)
    # Optuna makes the brackets at the first judgement; until then all trials are in the first one.
    # A process that just started would choose other values than one that has been running.
    unused: Any = None
    pruner._try_initialization(unused)
    return pruner


class _From(BasePruner):
    """Prunes at any report from a given iteration on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        return step is not None and step >= self.first


class _Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Successive halving that compares the scores of trials as `score_of_reports` gives them."""

    def __init__(self, judge_by: JudgedBy, first: int, factor: int) -> None:
        super().__init__(min_resource=first, reduction_factor=factor)
        self.judge_by, self.first = judge_by, first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(study, _as_worth(trial, self.judge_by, self.first))


class _Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband that compares the scores of trials as `score_of_reports` gives them."""

    def __init__(self, judge_by: JudgedBy, first: int, last: int, factor: int) -> None:
        super().__init__(min_resource=first, max_resource=last, reduction_factor=factor)
        self.judge_by, self.first = judge_by, first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(study, _as_worth(trial, self.judge_by, self.first))


def _as_worth(trial: FrozenTrial, judge_by: JudgedBy, first: int) -> FrozenTrial:
    """Return the trial with its score, by `score_of_reports`, in place of its last report."""
    found, reports = copy.copy(trial), trial.intermediate_values
    value = score_of_reports(reports, judge_by, first)
    if value is not None:
        found.intermediate_values = reports | {max(reports): value}
    return found


# -- Verdicts: the reason for pruning a trial, from the same values that Optuna's pruner saw ---
#
# Higher scores are better. The functions are pure; `search.study.pruning` calls them.


_OF_THAW = ("chance", "best", "instead")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The reason for a judgement, in numbers."""

    pruner: str
    """Name of the pruner, or `gate`."""
    step: int
    """Training step at which the trial was judged."""
    value: float
    """The trial's value in the comparison."""
    chance: float | None = None
    """Probability that the trial beats the best complete one (thaw)."""
    best: int | None = None
    """Number of the best complete trial (thaw)."""
    instead: int | None = None
    """Number of the trial that gets the steps; None for a new one, or for none (thaw)."""
    so_far: bool = False
    """True if the value is the best of the reports until `step`, False if it is the last."""
    rung: int | None = None
    """Number of the rung, from 0, for pruners that have rungs."""
    bracket: int | None = None
    """Number of Hyperband's bracket, from 0."""
    rivals: tuple[float, ...] = ()
    """Values of other trials at the same place, best first."""
    cutoff: float | None = None
    """The value needed to pass; None if there was none (a gate)."""
    gate: str = ""
    """Reason why a gate ended the trial."""

    @property
    def margin(self) -> float | None:
        """Distance of the value above the cutoff; negative for a pruned trial."""
        return None if self.cutoff is None else self.value - self.cutoff

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the storage."""
        values = asdict(self) | {"rivals": list(self.rivals), "margin": self.margin}
        if self.pruner != "thaw":
            return {key: value for key, value in values.items() if key not in _OF_THAW}
        return values

    def in_words(self) -> str:
        """Return the verdict as one line."""
        if self.pruner == "gate":
            return f"gate at step {self.step}: {self.gate}"
        if self.pruner == "thaw":
            return _paused_in_words(self)
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
    """Return the value needed to pass a rung for a trial with `value` after `rivals`.

    One in `reduction_factor` passes, rounded down, but the best always does. This is Optuna's
    asynchronous successive halving (Li 2018), which never waits for other trials.
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
    """Judge a trial at a rung of successive halving, or of Hyperband in its bracket."""
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
    """Judge the best of all `values` so far against the median of complete trials at this step."""
    return replace(percentile(values, rivals, keep_percent=50.0, step=step), pruner="median")


def percentile(
    values: Sequence[float], rivals: Sequence[float], *, keep_percent: float, step: int
) -> Verdict:
    """Judge the best of all `values` so far against a percentile of complete trials here."""
    return Verdict(
        pruner="percentile",
        step=step,
        value=max(values),
        so_far=True,
        rivals=_ranked(rivals),
        cutoff=float(np.percentile(rivals, 100.0 - keep_percent)) if rivals else None,
    )


def patience(values: Sequence[float], *, patience: int, min_delta: float, step: int) -> Verdict:
    """Judge the last `patience` of `values` against the best before them."""
    before, late = values[:-patience], values[-patience:]
    return Verdict(
        pruner="patience",
        step=step,
        value=max(late),
        cutoff=max(before) - min_delta if before else None,
    )


def threshold(value: float, *, lower: float, step: int) -> Verdict:
    """Judge the last value against a fixed limit."""
    return Verdict(pruner="threshold", step=step, value=value, cutoff=lower)


def gated(value: float, gate: str, *, step: int) -> Verdict:
    """Return the verdict on an unusable result, whatever the rivals reached."""
    return Verdict(pruner="gate", step=step, value=value, gate=gate)


def rungs_done(attributes: Mapping[str, Any]) -> list[float]:
    """Return a trial's values at the rungs where it was judged, from Optuna's system attributes."""
    found: list[float] = []
    while (key := rung_key(len(found))) in attributes:
        found.append(float(attributes[key]))
    return found


def rung_key(rung: int) -> str:
    """Return the key under which Optuna stores a trial's value at a judged rung."""
    return f"completed_rung_{rung}"


def _ranked(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted((float(value) for value in values), reverse=True))


def _paused_in_words(verdict: Verdict) -> str:
    if verdict.best is None:
        return f"paused at {verdict.step:,}: another trial is worth the steps more"
    assert verdict.chance is not None
    percent = 100.0 * verdict.chance
    chance = f"{percent:.0f}" if percent >= 1.0 else f"{percent:.1f}"
    return f"paused at {verdict.step:,}: {chance} % chance to beat trial {verdict.best}"


def _short_of(verdict: Verdict) -> str:
    assert verdict.cutoff is not None and verdict.margin is not None
    return f"{verdict.cutoff:.2f} was needed, {-verdict.margin:.2f} short"
