"""Rules of a study: when it ends, and which checkpoints its trials keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from cyclegan.config import Count, Section
from search.study.trials import Trial, dominates


class StopRules(Section):
    """Conditions that end a study before it has all its trials; running trials are finished."""

    hours: float | None = Field(default=None, gt=0.0)
    """Hours of running, summed over all calls."""
    iterations: int | None = Field(default=None, ge=1)
    """Optimisation steps of all trials together."""
    no_improvement: int | None = Field(default=None, ge=1)
    """Number of finished trials in a row without a new best; with several objectives, without one
    that no earlier trial beats by all of them."""
    expected_gain: float | None = Field(default=None, gt=0.0)
    """Expected gain in score of another trial below which none begins; needs a space of fixed
    keys and three complete trials."""


class Checkpoints(Section):
    """The trials whose checkpoints stay, so that they can be promoted or revived."""

    keep_trials: Count = 5
    """Number of best complete trials, and also of best pruned trials, that keep their
    checkpoints."""
    disk_gb: float | None = Field(default=None, gt=0.0)
    """Disk space in GB that the study's results may take; the study stops before it exceeds it."""


def why_stop(
    rules: StopRules,
    trials: Sequence[Trial],
    hours: float,
    gain: Callable[[], tuple[float, float] | None] = lambda: None,
) -> str | None:
    """Return the reason why no further trial may begin, or None.

    Args:
        trials: all trials of the study, in any order.
        hours: hours of running so far.
        gain: returns the expected gain of another trial and the noise between trainings.
    """
    if rules.hours is not None and hours >= rules.hours:
        return f"stop.hours: {hours:.2f} of {rules.hours:g} hours are used"
    spent = sum(trial.iteration for trial in trials)
    if rules.iterations is not None and spent >= rules.iterations:
        return f"stop.iterations: {spent} of {rules.iterations} iterations are used"
    if rules.expected_gain is not None and (known := gain()) is not None:
        expected, noise = known
        if expected < rules.expected_gain:
            return (
                f"stop.expected_gain: another trial is expected to gain {expected:.3f}, less than "
                f"{rules.expected_gain:g}; trainings of the same values differ by {noise:.2f}"
            )
    if rules.no_improvement is None:
        return None
    since, best = _since_the_best(trials)
    if since < rules.no_improvement:
        return None
    what = f"better than {best:.2f}" if best is not None else "complete"
    if any(trial.objectives for trial in trials):
        what = "new on the Pareto front"
    return f"stop.no_improvement: none of the last {since} trials was {what}"


def _since_the_best(trials: Sequence[Trial]) -> tuple[int, float | None]:
    """Return the number of finished trials since the best complete one, and its score.

    Pruned trials count. Failed ones don't: they say nothing about their values.
    """
    since, best = 0, None
    done: list[Trial] = []
    for trial in sorted(trials, key=lambda t: t.number):
        score = trial.score if trial.state == "complete" else None
        if score is not None and _is_new(trial, score, best, done):
            since, best = 0, score if best is None else max(score, best)
        elif trial.state in ("complete", "pruned"):
            since += 1
        done += [trial] if score is not None else []
    return since, best


def _is_new(trial: Trial, score: float, best: float | None, done: Sequence[Trial]) -> bool:
    """Return True for a new best; with several objectives, for one that none of `done` beats."""
    if best is None or score > best:
        return True
    return bool(trial.objectives) and not any(dominates(other, trial) for other in done)
