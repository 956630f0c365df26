"""Pause and thaw: at every report the next steps go to the trial that is most likely to repay them.

A paused trial is not lost. It has its checkpoint, and when the others turn out worse than it was
expected to end, it continues under its own number as if nothing had happened. So a trial can be
paused early, on little evidence, where a pruner would have to be sure.

The decisions here are pure functions of the prospects of a study's trials.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.study.prospects import Prospect, Prospects

_BETTER = 1.3
"""Factor by which another trial's gain per step must be higher to interrupt the running one."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trial that gets the next steps: a paused one by its number, or a new one."""

    number: int | None
    """None for a new trial."""
    prospect: Prospect


def next_choice(
    prospects: Prospects,
    new: Prospect | None,
    *,
    least_chance: float,
    without: int | None = None,
    left: int | None = None,
) -> Choice | None:
    """Return the trial that is to get the next steps, or None if none deserves any.

    Args:
        new: the prospect of a new trial, None if the study has begun all of its trials.
        least_chance: probability to beat the best trial below which a paused one stays paused.
        without: number of a trial that is not considered.
        left: steps that all trials together may still have, None without a limit. When a new trial
            could not be trained to its end any more, those that can be come first, the one with the
            highest expected gain before the others.
    """
    paused = {t.number for t in prospects.trials if t.state == "paused"} - {without}
    choices = [
        Choice(number=number, prospect=prospect)
        for number, prospect in sorted(prospects.of_trials().items())
        if number in paused and prospect.chance >= least_chance
    ]
    if left is not None and left < prospects.steps:
        fitting = [c for c in choices if c.number is not None and prospects.rest(c.number) <= left]
        if fitting:
            return max(fitting, key=lambda choice: choice.prospect.gain)
    if new is not None:
        choices.append(Choice(number=None, prospect=new))
    return max(choices, key=lambda choice: choice.prospect.rate, default=None)


def pauses(
    prospects: Prospects,
    running: int,
    new: Prospect | None,
    *,
    least_chance: float,
    left: int | None = None,
) -> Choice | None:
    """Return the trial to which trial `running` has to give way, or None if it goes on.

    A trial with hardly any chance gives way to itself: it is paused even if no other needs steps.
    When steps run out (`left`, see `next_choice`), a trial that can still be finished gives way
    only to another such one.
    """
    mine = Choice(number=running, prospect=prospects.of_trials()[running])
    other = next_choice(prospects, new, least_chance=least_chance, without=running, left=left)
    if mine.prospect.chance < least_chance:
        return other or mine
    if left is not None and left < prospects.steps and prospects.rest(running) <= left:
        if other is None or other.number is None or prospects.rest(other.number) > left:
            return None
        return other if other.prospect.gain > _BETTER * mine.prospect.gain else None
    if other is not None and other.prospect.rate > _BETTER * mine.prospect.rate:
        return other
    return None
