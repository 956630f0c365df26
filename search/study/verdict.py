"""Why a trial was pruned, in numbers: computed from the same values that Optuna's pruner saw.

All scores are to be high. Functions here are pure; `search.study.pruning` feeds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


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
