"""Pruning: decided once, told why, never at the last step."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from cyclegan import Config, Trainer
from search.study.pruning import PruningCallback


def study_with_a_good_trial(storage: Any = None) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=4, reduction_factor=2),
    )
    good = study.ask()
    for iteration in (4, 8, 12):
        good.report(1000.0, iteration)
        good.should_prune()
    study.tell(good, 1000.0)
    return study


def fit(config: Config, trial: optuna.trial.Trial) -> Any:
    # Gates are for others: with prune_after beyond the end only the pruner decides.
    return Trainer(config, [PruningCallback(trial, prune_after=1000)]).fit()


def test_a_hopeless_trial_is_pruned_at_the_first_rung_and_told_why(config: Config) -> None:
    trial = study_with_a_good_trial().ask()
    result = fit(config, trial)
    assert (result.outcome, result.step) == ("pruned", 4)
    assert "at step 4: rank 2 of 2 there (best 1000.00" in result.reason


def test_a_trial_killed_right_after_its_verdict_is_pruned_all_the_same(config: Config) -> None:
    study = study_with_a_good_trial()
    first = fit(config, study.ask())
    # The process died before the study was told; the next one attaches to the same trial.
    running = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    again = fit(config, optuna.trial.Trial(study, running[0]._trial_id))
    assert (again.outcome, again.reason) == (first.outcome, first.reason)


def test_gates_prune_from_prune_after_on_with_their_reason(config: Config) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    trial = study.ask()
    # Two filters, a few steps: flat.
    result = Trainer(config, [PruningCallback(trial, prune_after=8)]).fit()
    assert (result.outcome, result.step) == ("pruned", 8)
    assert result.reason.startswith("gate at step 8: ")
    values = study.trials[0].intermediate_values
    assert list(values) == [4, 8]
    assert values[8] == pytest.approx(-100)


def test_nothing_is_pruned_at_the_last_step(config: Config) -> None:
    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=12, reduction_factor=2),
    )
    good = study.ask()
    good.report(1000.0, 12)
    study.tell(good, 1000.0)
    assert fit(config, study.ask()).outcome == "completed"
