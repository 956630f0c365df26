"""Verdicts: the decisions of Optuna's pruners, and the numbers that explain them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import optuna
import pytest

from search.study import pruners
from search.study.judging import score_of_reports
from search.study.pruners import Pruner, judged_at


@pytest.mark.parametrize(
    ("value", "rivals", "factor", "cutoff"),
    [
        (1.0, [], 2, 1.0),  # alone: the best
        (1.0, [2.0], 2, 2.0),  # one of two passes
        (3.0, [2.0], 2, 3.0),
        (1.0, [3.0, 2.0], 2, 3.0),  # one of three: rounded down
        (1.0, [4.0, 3.0, 2.0], 2, 3.0),  # two of four
        (1.0, [4.0, 3.0, 2.0], 4, 4.0),
        (1.0, [5.0, 4.0, 3.0, 2.0, 1.5, 1.2, 1.1], 4, 4.0),  # two of eight
        (1.0, [1.0, 1.0], 2, 1.0),  # equal ones pass together
    ],
)
def test_what_a_rung_wants(value: float, rivals: list[float], factor: int, cutoff: float) -> None:
    assert pruners.halving_cutoff(value, rivals, factor) == cutoff


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("judge_by", ["best", "last"])
@pytest.mark.parametrize("name", ["successive_halving", "hyperband"])
def test_the_numbers_agree_with_optunas_decision(
    name: str, judge_by: Literal["best", "last"], factor: int
) -> None:
    """For any scores: a trial is pruned if and only if its margin at the rung is negative."""
    pruner = Pruner(name=name, prune_after=100, reduction_factor=factor)  # type: ignore[arg-type]
    study = optuna.create_study(
        direction="maximize", pruner=pruner.build(800, judge_by), study_name="s"
    )
    rng = np.random.default_rng(factor)
    judged = 0
    for _ in range(40):
        trial = study.ask()
        for step in (100, 200, 300, 400, 500, 600, 700):
            before = len(pruners.rungs_done(study.trials[trial.number].system_attrs))
            trial.report(float(rng.choice([rng.normal(), 0.0])), step)
            pruned = trial.should_prune()
            mine = study.trials[trial.number]
            done = pruners.rungs_done(mine.system_attrs)
            if len(done) > before:
                judged += 1
                assert done[-1] == score_of_reports(mine.intermediate_values, judge_by, 100)
                key = pruners.rung_key(len(done) - 1)
                bracket = 0
                others = study.trials[: trial.number]
                if isinstance(study.pruner, optuna.pruners.HyperbandPruner):
                    bracket = study.pruner._get_bracket_id(study, mine)
                    others = [
                        t for t in others if study.pruner._get_bracket_id(study, t) == bracket
                    ]
                rivals = [t.system_attrs[key] for t in others if key in t.system_attrs]
                found = pruners.halving(
                    done[-1], rivals, reduction_factor=factor, step=step, rung=len(done) - 1
                )
                assert found.margin is not None
                assert pruned == (found.margin < 0)
                at = pruner.rungs(800, bracket)[len(done) - 1]
                assert judged_at(at, 100) == step
            else:
                assert not pruned
            if pruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, 0.0)
    assert judged > 40


def test_median_percentile_patience_and_threshold_decide_as_their_numbers_say() -> None:
    rng = np.random.default_rng(0)
    by_name = {
        "median": Pruner(name="median", prune_after=2, startup_trials=1),
        "percentile": Pruner(name="percentile", prune_after=2, startup_trials=1, keep_percent=60.0),
        "patience": Pruner(name="patience", prune_after=2, patience=2, min_delta=0.3),
        "threshold": Pruner(name="threshold", prune_after=2, lower=-0.5),
    }
    pruned_by = dict.fromkeys(by_name, 0)
    for name, pruner in by_name.items():
        study = optuna.create_study(direction="maximize", pruner=pruner.build(8))
        for _ in range(30):
            trial, values = study.ask(), []
            for step in range(1, 8):
                values.append(float(rng.normal()))
                trial.report(values[-1], step)
                complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
                if name == "median":
                    rivals = [t.intermediate_values[step] for t in complete]
                    found = pruners.median(values, rivals, step=step)
                elif name == "percentile":
                    rivals = [t.intermediate_values[step] for t in complete]
                    found = pruners.percentile(values, rivals, keep_percent=60.0, step=step)
                elif name == "patience":
                    found = pruners.patience(values, patience=2, min_delta=0.3, step=step)
                else:
                    found = pruners.threshold(values[-1], lower=-0.5, step=step)
                expected = step >= 2 and found.margin is not None and found.margin < 0
                assert bool(trial.should_prune()) == expected, (name, values)
                if expected:
                    pruned_by[name] += 1
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, 0.0)
    assert min(pruned_by.values()) > 5


def test_verdicts_in_words_and_as_plain_values() -> None:
    found = pruners.halving(0.5, [0.1, 2.0, 1.0], reduction_factor=2, step=60, rung=1)
    assert found.in_words() == (
        "score 0.50 at step 60, rung 1: rank 3 of 4 there (best 2.00, 1.00 was needed, 0.50 short)"
    )
    assert found.as_dict() == {
        "pruner": "successive_halving",
        "rung": 1,
        "bracket": None,
        "step": 60,
        "value": 0.5,
        "so_far": False,
        "gate": "",
        "rivals": [2.0, 1.0, 0.1],
        "cutoff": 1.0,
        "margin": -0.5,
    }
    best = pruners.halving(0.5, [1.0], reduction_factor=2, step=60, rung=1, so_far=True)
    assert best.in_words().startswith("best score 0.50 until step 60, rung 1: rank 2 of 2 there")
    gate = pruners.gated(-100.0, "the output is flat", step=8)
    assert gate.in_words() == "gate at step 8: the output is flat"
    assert gate.as_dict()["margin"] is None
    low = pruners.threshold(-3.0, lower=-1.0, step=8)
    assert low.in_words() == "score -3.00 at step 8: -1.00 was needed, 2.00 short"
    late = pruners.patience([1.0, 0.2, 0.4], patience=2, min_delta=0.1, step=9)
    assert (
        late.in_words()
        == "at best score 0.40 in the last reports at step 9: 0.90 was needed, 0.50 short"
    )


@pytest.mark.parametrize(
    ("pruner", "steps", "bracket", "rungs"),
    [
        (
            Pruner(name="successive_halving", prune_after=1000),
            4000,
            0,
            [1000, 2000],
        ),  # none at the last step
        (Pruner(name="successive_halving", prune_after=1000), 4001, 0, [1000, 2000, 4000]),
        (
            Pruner(name="successive_halving", prune_after=1000, reduction_factor=3),
            10_000,
            0,
            [1000, 3000, 9000],
        ),
        (Pruner(name="hyperband", prune_after=1000), 4000, 1, [2000]),
        (Pruner(name="hyperband", prune_after=1000), 4000, 2, []),
        (Pruner(name="median"), 4000, 0, []),
    ],
)
def test_rungs(pruner: Pruner, steps: int, bracket: int, rungs: list[int]) -> None:
    assert pruner.rungs(steps, bracket) == rungs


def test_a_rung_between_two_reports_is_judged_at_the_later_one() -> None:
    assert [judged_at(rung, 100) for rung in (1000, 1001, 1099, 1100)] == [1000, 1100, 1100, 1100]
