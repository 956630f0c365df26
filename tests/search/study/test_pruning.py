"""Pruning is decided once, with a reason, and never at the last step."""

from __future__ import annotations

from typing import Any, Literal

import optuna
import pytest

from cyclegan import Config, Trainer
from search.study.pruners import Pruner, rung_key
from search.study.pruning import VERDICT, PruningCallback

HALVING = Pruner(name="successive_halving", prune_after=4, reduction_factor=2)


def study_with_a_good_trial(pruner: Pruner = HALVING, value: float = 1000.0) -> optuna.Study:
    study = optuna.create_study(direction="maximize", pruner=pruner.build(12), study_name="s")
    good = study.ask()
    for iteration in (4, 8, 12):
        good.report(value, iteration)
        good.should_prune()
    study.tell(good, value)
    return study


def fit(config: Config, trial: optuna.trial.Trial, pruner: Pruner = HALVING) -> Any:
    # Two filters and a few steps are flat; the gate, which is not tested here, would prune them.
    callback = PruningCallback(trial, pruner)
    callback.pruner = pruner.model_copy(update={"prune_after": 1000})
    if pruner.name in ("successive_halving", "hyperband"):
        callback._rungs_due = PruningCallback(trial, pruner)._rungs_due  # type: ignore[method-assign]
    return Trainer(config, [callback]).fit()


def test_a_hopeless_trial_is_pruned_at_the_first_rung_and_told_why(config: Config) -> None:
    study = study_with_a_good_trial()
    result = fit(config, study.ask())
    assert (result.outcome, result.step) == ("pruned", 4)
    assert "until step 4, rung 0: rank 2 of 2 there (best 1000.00, 1000.00 was" in result.reason
    stored = study.trials[1].user_attrs[VERDICT]
    assert stored["pruner"] == "successive_halving"
    assert (stored["rung"], stored["step"], stored["rivals"]) == (0, 4, [1000.0])
    assert stored["cutoff"] == 1000.0
    assert stored["margin"] == stored["value"] - 1000.0 < 0


@pytest.mark.parametrize(("judge_by", "passes"), [("best", True), ("last", False)])
def test_a_trial_that_fell_back_is_judged_by_its_best(
    judge_by: Literal["best", "last"], passes: bool
) -> None:
    study = optuna.create_study(direction="maximize", pruner=HALVING.build(12, judge_by))
    rival, trial = study.ask(), study.ask()
    rival.report(2.0, 4)
    rival.should_prune()
    trial.report(9.0, 2)  # before the first judgement: does not count
    trial.report(3.0, 4)
    trial.should_prune()
    rival.report(2.0, 8)
    rival.should_prune()
    trial.report(1.0, 8)
    callback = PruningCallback(trial, HALVING, judge_by=judge_by)
    found = callback._judge(callback._frozen(), 8)
    assert (found is None) == passes
    if found:
        assert found.in_words().startswith("score 1.00 at step 8, rung 1: rank 2 of 2")


@pytest.mark.parametrize(
    ("pruner", "cutoff"),
    [
        (Pruner(name="median", prune_after=4, startup_trials=1), 1000.0),
        (Pruner(name="threshold", prune_after=4, lower=50.0), 50.0),
        (Pruner(name="hyperband", prune_after=4), 1000.0),
    ],
    ids=lambda p: getattr(p, "name", ""),
)
def test_every_pruner_tells_what_was_needed(config: Config, pruner: Pruner, cutoff: float) -> None:
    study = study_with_a_good_trial(pruner)
    trial = study.ask()
    if pruner.name == "hyperband":  # the next trial of the good one's bracket
        built = study.pruner
        assert isinstance(built, optuna.pruners.HyperbandPruner)
        bracket = built._get_bracket_id(study, study.trials[0])
        while built._get_bracket_id(study, trial._get_latest_trial()) != bracket:
            trial = study.ask()
    result = fit(config, trial, pruner)
    assert result.outcome == "pruned"
    stored = study.trials[trial.number].user_attrs[VERDICT]
    assert (stored["pruner"], stored["cutoff"]) == (pruner.name, cutoff)
    assert stored["margin"] == pytest.approx(stored["value"] - cutoff)
    assert f"{cutoff:.2f} was needed" in result.reason


def test_a_trial_killed_right_after_its_verdict_is_pruned_all_the_same(config: Config) -> None:
    study = study_with_a_good_trial()
    first = fit(config, study.ask())
    # The process died before the study knew; the next one attaches to the same trial.
    running = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    again = fit(config, optuna.trial.Trial(study, running[0]._trial_id))
    assert (again.outcome, again.reason) == (first.outcome, first.reason)


def test_a_trial_killed_while_it_was_judged_is_judged_there_again(config: Config) -> None:
    study = study_with_a_good_trial()
    trial = study.ask()
    # Optuna records the rung; then the process dies, before the verdict is stored.
    trial.report(-100.0, 4)
    assert trial.should_prune()
    assert rung_key(0) in study.trials[1].system_attrs
    result = fit(config, optuna.trial.Trial(study, trial._trial_id))
    assert (result.outcome, result.step) == ("pruned", 4)
    assert study.trials[1].user_attrs[VERDICT]["value"] == -100.0


class Racing(optuna.pruners.SuccessiveHalvingPruner):
    """While it decides, another worker's trial reaches the rung."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        decision = super().prune(study, trial)
        other = study.ask()
        study._storage.set_trial_system_attr(other._trial_id, rung_key(0), 0.0)
        return decision


def test_the_verdict_is_the_pruners_even_if_a_rival_comes_meanwhile() -> None:
    study = optuna.create_study(
        direction="maximize", pruner=Racing(min_resource=4, reduction_factor=2)
    )
    for value in (1000.0, 1.0):
        rival = study.ask()
        study._storage.set_trial_system_attr(rival._trial_id, rung_key(0), value)
    trial = study.ask()
    trial.report(5.0, 4)
    callback = PruningCallback(trial, HALVING)
    # One of three passes; of the four a moment later, two would.
    found = callback._judge(callback._frozen(), 4)
    assert found is not None
    assert (found.cutoff, found.rivals) == (1000.0, (1000.0, 1.0))


def test_gates_prune_from_prune_after_on_with_their_reason(config: Config) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    trial = study.ask()
    # Two filters, a few steps: flat.
    pruner = Pruner(name="none", prune_after=8)
    result = Trainer(config, [PruningCallback(trial, pruner)]).fit()
    assert (result.outcome, result.step) == ("pruned", 8)
    assert result.reason.startswith("gate at step 8: ")
    values = study.trials[0].intermediate_values
    assert list(values) == [4, 8]
    assert values[8] == pytest.approx(-100)
    stored = study.trials[0].user_attrs[VERDICT]
    assert (stored["pruner"], stored["cutoff"]) == ("gate", None)
    assert stored["gate"] in result.reason


def test_nothing_is_pruned_at_the_last_step(config: Config) -> None:
    pruner = Pruner(name="successive_halving", prune_after=12)
    study = optuna.create_study(direction="maximize", pruner=pruner.build(24))
    good = study.ask()
    good.report(1000.0, 12)
    study.tell(good, 1000.0)
    assert fit(config, study.ask(), pruner).outcome == "completed"


def test_a_part_of_the_score_can_be_what_is_reported(config: Config) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    seen: list[tuple[float, float]] = []

    class Watch(PruningCallback):
        def on_validation_end(self, trainer: Trainer, report: Any) -> None:
            import dataclasses

            usable = dataclasses.replace(
                report, gate=None, metrics={**report.metrics, "score/pseudo_pair_gain_db": 3.5}
            )
            super().on_validation_end(trainer, usable)
            seen.append((report.score, study.trials[0].intermediate_values[report.iteration]))

    pruner = Pruner(name="none")
    watch = Watch(study.ask(), pruner, objectives=("score/pseudo_pair_gain_db",))
    Trainer(config, [watch]).fit()
    assert [value for _, value in seen] == [3.5, 3.5, 3.5]
