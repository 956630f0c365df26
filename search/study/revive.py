"""Revive a pruned or paused trial: it continues from its checkpoint, and nothing ends it again.

A paused trial goes on under its own number. Trials that Optuna has finished stay finished, so the
revived training of a pruned one is a new trial with the same values. It names the trial that it
revives, and takes over its reports.
"""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.checkpoints import newest_checkpoint
from cyclegan.errors import DataError, UsageError
from search.launch import SAVE_FOLDER
from search.study.pruning import VALUES, VERDICT, report_values
from search.study.retention import can_continue
from search.study.study import StudyHandle
from search.study.trials import KEPT, PAUSED, REVIVES, STATES


def revive(handle: StudyHandle, number: int) -> int:
    """Let `study run` continue the pruned or paused trial `number`.

    Returns the number under which it goes on: a new one, or its own if it was paused.

    Errors: `UsageError` for a trial that was neither, or is revived already, `DataError` if its
    checkpoint is gone.
    """
    study, name = handle.study, handle.definition.name
    with handle.storage.explaining(), handle.storage.claiming():
        trials = study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise UsageError(f"trial {number}: study {name} has trials 0 to {len(trials) - 1}")
        frozen = trials[number]
        if frozen.state == TrialState.RUNNING and frozen.user_attrs.get(PAUSED):
            trial = optuna.trial.Trial(study, frozen._trial_id)
            trial.set_user_attr(KEPT, True)
            trial.set_user_attr(VERDICT, {})
            trial.set_user_attr("reason", "")
            trial.set_user_attr(PAUSED, {})
            return number
        if frozen.state != TrialState.PRUNED:
            raise UsageError(
                f"trial {number} of study {name} is {STATES[frozen.state]}; only pruned and "
                "paused ones can be revived"
            )
        for other in trials:
            if other.user_attrs.get(REVIVES) == number and other.state != TrialState.FAIL:
                raise UsageError(
                    f"trial {number} of study {name} is already revived, as trial {other.number}"
                )
        if not can_continue(handle.trial_folder(number)):
            kept = handle.definition.checkpoints.keep_trials
            raise DataError(
                f"trial {number} of study {name} has no checkpoint any more (the study keeps those "
                f"of its {kept} best pruned trials: checkpoints.keep_trials); use enqueue to try "
                "its values again"
            )
        study.enqueue_trial(frozen.params, user_attrs={REVIVES: number})
        return len(study.get_trials(deepcopy=False)) - 1


def revived(trial: optuna.trial.Trial, handle: StudyHandle) -> FrozenTrial | None:
    """Return the pruned trial that `trial` continues, and copy its reports; or return None."""
    number = trial.user_attrs.get(REVIVES)
    if number is None:
        return None
    frozen: FrozenTrial = handle.study.get_trials(deepcopy=False)[number]
    several = frozen.user_attrs.get(VALUES, {})
    known = handle.study._storage.get_trial(trial._trial_id).intermediate_values
    for iteration, value in sorted(frozen.intermediate_values.items()):
        if iteration not in known:
            report_values(trial, several.get(str(iteration), (value,)), iteration)
    return frozen


def checkpoint_of(frozen: FrozenTrial, handle: StudyHandle) -> Path | None:
    """Return the checkpoint from which a revived trial starts."""
    return newest_checkpoint(handle.trial_folder(frozen.number) / SAVE_FOLDER)
