"""When a study ends, and what it leaves on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from cyclegan.config import Count, Section

if TYPE_CHECKING:
    from search.study.trials import Trial


class StopRules(Section):
    """What ends a study before it has all its trials; running trials are finished."""

    hours: float | None = Field(default=None, gt=0.0)
    """Wall-clock hours of running, over all its calls together."""
    iterations: int | None = Field(default=None, ge=1)
    """Optimisation steps of all trials together."""
    no_improvement: int | None = Field(default=None, ge=1)
    """Finished trials in a row without a new best."""


class Checkpoints(Section):
    """Which trials keep the checkpoints they can be promoted or revived from."""

    keep_trials: Count = 5
    """Of the complete ones so many best, and of the pruned ones so many best."""
    disk_gb: float | None = Field(default=None, gt=0.0)
    """The study stops before its results take more than this many GB."""


def why_stop(rules: StopRules, trials: Sequence[Trial], hours: float) -> str | None:
    """Why no further trial may begin, in words, or None.

    `trials`: all of the study, in any order; `hours`: wall-clock hours of running so far.
    """
    if rules.hours is not None and hours >= rules.hours:
        return f"stop.hours: {hours:.2f} of {rules.hours:g} hours are used"
    spent = sum(trial.iteration for trial in trials)
    if rules.iterations is not None and spent >= rules.iterations:
        return f"stop.iterations: {spent} of {rules.iterations} iterations are used"
    if rules.no_improvement is None:
        return None
    since, best = _since_the_best(trials)
    if since < rules.no_improvement:
        return None
    what = f"better than {best:.2f}" if best is not None else "complete"
    return f"stop.no_improvement: none of the last {since} trials was {what}"


def _since_the_best(trials: Sequence[Trial]) -> tuple[int, float | None]:
    """Finished trials after the best complete one, by number, and its score.

    Pruned ones count, failed ones don't: they say nothing about the values they had.
    """
    since, best = 0, None
    for trial in sorted(trials, key=lambda t: t.number):
        score = trial.score if trial.state == "complete" else None
        if score is not None and (best is None or score > best):
            since, best = 0, score
        elif trial.state in ("complete", "pruned"):
            since += 1
    return since, best
