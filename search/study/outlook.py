"""The prospects of a study's trials, from what its storage holds (see `search.study.prospects`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.score import GATED
from search.study.automatic import MOST_MODELLED
from search.study.cube import Cube
from search.study.curves import CurvePrior
from search.study.definition import StudyDefinition
from search.study.judging import scores_so_far
from search.study.objective import is_in_db
from search.study.proposals import prospect_of_new
from search.study.prospects import EarlierStudy, KnownTrial, Prospect, Prospects
from search.study.pruners import Verdict, judged_at
from search.study.space import FunctionSpace
from search.study.thaw import Choice, next_choice, pauses
from search.study.trials import KEPT, PAUSED, REVIVES, first_value

EARLIER = "earlier"
"""User attribute of a study: what earlier studies found out, as `EarlierStudy.to_dict` returns it.
It is stored when the study begins, because earlier studies may change."""
_MOST_ENDS = 300
LEAST_COMPLETE = 3
"""Number of complete trials from which on expected scores and gains are estimated."""


def is_paused(frozen: FrozenTrial) -> bool:
    """Return True if the trial was paused and nobody has continued it since."""
    return frozen.state == TrialState.RUNNING and bool(frozen.user_attrs.get(PAUSED))


def cube_of(definition: StudyDefinition) -> Cube | None:
    """Return the unit cube of a study's space; None for a function, whose keys may change."""
    return None if isinstance(definition.space, FunctionSpace) else Cube(definition.space)


def outlook(
    definition: StudyDefinition, study: optuna.Study, *, without: int | None = None
) -> Prospects:
    """Return the prospects of a study's trials, but for trial `without`.

    Failed trials say nothing about their values, and waiting ones have none yet. In a space that is
    a function, trials have no common place, so each one's own curve is all that is known of it.
    """
    cube = cube_of(definition)
    trials = _modelled([t for t in study.get_trials(deepcopy=False) if t.number != without])
    known = [one for frozen in trials if (one := _known(frozen, cube, definition)) is not None]
    first = judged_at(definition.pruner.prune_after, definition.report_every)
    earlier = [EarlierStudy.from_dict(values) for values in study.user_attrs.get(EARLIER, ())]
    prior = CurvePrior.shipped(definition.judge_by)
    return Prospects(
        known,
        definition.steps,
        prior,
        min(first, definition.steps),
        earlier,
        pausing=definition.pruner.name == "thaw",
    )


def _modelled(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return at most about `MOST_MODELLED` of the trials: the cost grows with their number's cube.

    The unfinished and the best ones are among them, and of the others as many early as late ones.
    """
    over = [trial for trial in trials if trial.state.is_finished()]
    room = max(MOST_MODELLED - (len(trials) - len(over)), MOST_MODELLED // 2)
    if len(over) <= room:
        return trials
    complete = [trial for trial in over if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: -(first_value(trial) or 0.0))[: room // 5]
    kept = {trial.number for trial in best}
    others = [trial for trial in over if trial.number not in kept]
    evenly = np.linspace(0, len(others) - 1, room - len(best)).round().astype(int)
    kept |= {others[place].number for place in evenly}
    return [t for t in trials if not t.state.is_finished() or t.number in kept]


def ends_in(
    definition: StudyDefinition,
    study: optuna.Study,
    features: Callable[[FrozenTrial], tuple[float, ...] | None],
) -> EarlierStudy | None:
    """Return what a study found out, for another one; None if it found out nothing.

    `features`: returns a trial's features in the other study's cube, or None if it has none there.
    The last `_MOST_ENDS` trials count.
    """
    ends = outlook(definition, study).ends()
    rows = []
    for frozen in study.get_trials(deepcopy=False):
        point = features(frozen) if frozen.number in ends else None
        if point is not None:
            rows.append((point, *ends[frozen.number]))
    if not rows:
        return None
    points, means, variances = (
        np.array(column) for column in zip(*rows[-_MOST_ENDS:], strict=True)
    )
    return EarlierStudy(points=points, values=means, variances=variances)


def verdict_of(
    definition: StudyDefinition, study: optuna.Study, frozen: FrozenTrial, step: int
) -> Verdict | None:
    """Return the reason to pause a running trial at `step`, or None if it is to go on."""
    prospects = outlook(definition, study)
    if frozen.user_attrs.get(KEPT) or frozen.number not in prospects.of_trials():
        return None
    new = _new(prospects, definition, study)
    left = _left(definition, study)
    least = definition.pruner.least_chance
    choice = pauses(prospects, frozen.number, new, least_chance=least, left=left)
    if choice is None:
        return None
    return _verdict(prospects, frozen, step, choice)


def choice_of(definition: StudyDefinition, study: optuna.Study, *, more: bool) -> Choice | None:
    """Return the trial that gets the next steps, or None if none deserves any.

    `more`: True if the study may begin another trial.
    """
    prospects = outlook(definition, study)
    new = None
    if more:
        new = prospect_of_new(prospects, cube_of(definition), seed=definition.sampler.seed)
    left = _left(definition, study)
    return next_choice(prospects, new, least_chance=definition.pruner.least_chance, left=left)


def expected_gain(definition: StudyDefinition, study: optuna.Study) -> tuple[float, float] | None:
    """Return what further steps are expected to gain, and the noise between trainings, in score.

    The gain is that of the best paused or new trial over the best complete one. None with fewer
    than `LEAST_COMPLETE` complete trials, for a space that is a function, and for objectives that
    can't be forecast.
    """
    cube, prospects = cube_of(definition), _known_well(definition, study)
    if prospects is None or prospects.noise is None:
        return None
    new = prospect_of_new(prospects, cube, seed=definition.sampler.seed)
    paused = {t.number for t in prospects.trials if t.state == "paused"}
    gains = [p.gain for number, p in prospects.of_trials().items() if number in paused]
    return max(new.gain, *gains, 0.0), prospects.noise


def expected_scores(definition: StudyDefinition, study: optuna.Study) -> dict[int, float]:
    """Return the scores that complete trials are expected to have in the mean of many seeds.

    By number (see `Prospects.expected`); empty where `expected_gain` is None.
    """
    prospects = _known_well(definition, study)
    return {} if prospects is None else prospects.expected


def _known_well(definition: StudyDefinition, study: optuna.Study) -> Prospects | None:
    if len(definition.objective) > 1 or not is_in_db(definition.first_objective):
        return None
    prospects = outlook(definition, study)
    complete = sum(trial.state == "complete" for trial in prospects.trials)
    if cube_of(definition) is None or complete < LEAST_COMPLETE:
        return None
    return prospects


def verdicts(definition: StudyDefinition, study: optuna.Study) -> dict[int, Verdict]:
    """Return by number what is known now of each paused trial."""
    paused = [frozen for frozen in study.get_trials(deepcopy=False) if is_paused(frozen)]
    if not paused:
        return {}
    prospects = outlook(definition, study)
    return {
        frozen.number: _verdict(prospects, frozen, int(frozen.user_attrs[PAUSED]["step"]), None)
        for frozen in paused
        if frozen.number in prospects.of_trials()
    }


def _left(definition: StudyDefinition, study: optuna.Study) -> int | None:
    """Return the steps that the study's trials may still have; None without a limit."""
    limit = definition.stop.iterations
    if limit is None:
        return None
    trials = study.get_trials(deepcopy=False)
    return limit - sum(max(trial.intermediate_values, default=0) for trial in trials)


def _new(prospects: Prospects, definition: StudyDefinition, study: optuna.Study) -> Prospect | None:
    """Return the prospect of the study's next trial, or None if it has begun all of them."""
    trials = study.get_trials(deepcopy=False)
    begun = sum(t.state != TrialState.WAITING and REVIVES not in t.user_attrs for t in trials)
    waiting = any(t.state == TrialState.WAITING for t in trials)
    if begun >= definition.trials and not waiting:
        return None
    return prospect_of_new(prospects, cube_of(definition), seed=definition.sampler.seed)


def _verdict(
    prospects: Prospects, frozen: FrozenTrial, step: int, choice: Choice | None
) -> Verdict:
    reports = frozen.intermediate_values
    complete = [t for t in prospects.trials if t.state == "complete" and t.score is not None]
    best = max(complete, key=lambda t: t.score or 0.0, default=None)
    other = None if choice is None or choice.number == frozen.number else choice.number
    return Verdict(
        pruner="thaw",
        step=step,
        value=float(reports[max(reports)]) if reports else GATED,
        chance=round(prospects.of_trials()[frozen.number].chance, 4),
        best=None if best is None else best.number,
        instead=other,
    )


def _known(
    frozen: FrozenTrial, cube: Cube | None, definition: StudyDefinition
) -> KnownTrial | None:
    states: dict[TrialState, Any] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "gated" if _is_gated(frozen) else "ended",
        TrialState.RUNNING: "paused" if is_paused(frozen) else "running",
    }
    point = () if cube is None else cube.features_of(frozen.params)
    if frozen.state not in states or point is None:
        return None
    value = first_value(frozen)
    if value is not None and not value > GATED:  # its best report was unusable
        states[TrialState.COMPLETE] = "gated"
    reports = frozen.intermediate_values.items()
    usable = {at: value for at, value in sorted(reports) if value > GATED and math.isfinite(value)}
    since = definition.pruner.prune_after
    return KnownTrial(
        number=frozen.number,
        state=states[frozen.state],
        point=point,
        reports=usable,
        scores=scores_so_far(usable, definition.judge_by, since),
        score=value,
    )


def _is_gated(frozen: FrozenTrial) -> bool:
    last = max(frozen.intermediate_values, default=None)
    return last is not None and not frozen.intermediate_values[last] > GATED
