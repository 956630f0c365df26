"""Samplers: an interrupted study proposes the same values as an uninterrupted one."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cyclegan.errors import ConfigError
from search.study.definition import StudyDefinition, parse_definition
from search.study.outlook import outlook
from search.study.space import suggest

HERE = Path("study.yaml")
RANGES = {
    "lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "lambdas.C_A": {"type": "float", "low": 0.5, "high": 10.0},
    "filters": {"type": "int", "low": 2, "high": 8},
}
FUNCTION = """
def values(trial):
    values = {"lr_g": trial.suggest_float("lr_g", 1e-4, 1e-2, log=True)}
    if trial.suggest_categorical("identity", [True, False]):
        values["lambdas.I_A"] = trial.suggest_float("lambdas.I_A", 0.3, 10.0, log=True)
    return values
"""
SAMPLERS = ["tpe", "gp", "noisy_gp", "cmaes", "qmc", "random", "grid"]


def definition(tiny: dict[str, Any], name: str, **changes: Any) -> StudyDefinition:
    space = changes.pop("space", RANGES)
    if name == "grid" and space is RANGES:
        space = {
            key: ({**r, "points": 2} if r["type"] == "float" else {**r, "step": 3})
            for key, r in space.items()
        }
    values = {
        "name": "s",
        "config": tiny,
        "space": space,
        "steps": 12,
        "report_every": 4,
        "pruner": {"name": "none"},
        "trials": 12,
        "sampler": {"name": name, "startup_trials": 3, "seed": 5},
    }
    return parse_definition(values | changes, HERE)


def sampler_of(parsed: StudyDefinition) -> optuna.samplers.BaseSampler:
    return parsed.sampler.for_study(parsed.space, partial(outlook, parsed))


def run(
    parsed: StudyDefinition, path: Path, *, restart: bool, kill: bool = False
) -> list[dict[str, Any]]:
    """Return the values of all trials. With `restart` every trial has a process of its own, as far
    as Optuna can see; with `kill` every second one dies after it got its values, and is resumed.
    """
    pruner = parsed.pruner.build(parsed.steps)

    def handle() -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(
            study_name="s",
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            pruner=pruner if not restart else parsed.pruner.build(parsed.steps),
            sampler=sampler_of(parsed),
        )

    study = handle()
    for number in range(parsed.trials):
        if restart:
            study = handle()
        trial = study.ask()
        assert trial.number == number
        if kill and number % 2:
            study = handle()
            trial = optuna.trial.Trial(study, trial._trial_id)
        values = suggest(trial, parsed.space, parsed.ties)
        score = -abs(values["lr_g"] - 3e-3) - 1e-4 * values.get("filters", 0)
        for at in (4, 8):
            trial.report(score, at)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, score)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_interrupted_study_asks_for_the_values_it_would_have_asked_for(
    tiny: dict[str, Any], tmp_path: Path, name: str
) -> None:
    parsed = definition(tiny, name, trials=8)
    whole = run(parsed, tmp_path / "whole", restart=False)
    assert run(parsed, tmp_path / "again", restart=True) == whole
    assert run(parsed, tmp_path / "killed", restart=True, kill=True) == whole
    assert len({tuple(values.values()) for values in whole}) == len(whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_workers_that_ask_at_once_get_different_values(
    tiny: dict[str, Any], tmp_path: Path, name: str
) -> None:
    parsed = definition(tiny, name, trials=4)

    def worker() -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
        sampler = sampler_of(parsed)
        return optuna.create_study(
            study_name="s",
            storage=storage,
            sampler=sampler,
            load_if_exists=True,
            direction="maximize",
        )

    trials = [worker().ask() for _ in range(4)]
    given = [suggest(trial, parsed.space, parsed.ties) for trial in reversed(trials)]
    assert len({tuple(values.values()) for values in given}) == 4


def test_a_study_with_several_trials_in_hand(tiny: dict[str, Any]) -> None:
    parsed = definition(tiny, "random")
    study = optuna.create_study(sampler=sampler_of(parsed))
    first, second = study.ask(), study.ask()
    late = suggest(first, parsed.space, parsed.ties)
    assert suggest(second, parsed.space, parsed.ties) != late
    alone = optuna.create_study(sampler=parsed.sampler.build(0, parsed.space))
    assert suggest(alone.ask(), parsed.space, parsed.ties) == late


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_hyperband_keeps_that_too(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    pruner = {"name": "hyperband", "prune_after": 4}
    parsed = definition(tiny, name, pruner=pruner)
    whole = run(parsed, tmp_path / "whole", restart=False)
    assert run(parsed, tmp_path / "again", restart=True) == whole


@pytest.mark.parametrize("name", ["tpe", "gp", "qmc", "random", "cmaes"])
def test_conditional_spaces_keep_it_too(
    tiny: dict[str, Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    parsed = definition(tiny, name, space="space.py:values")
    whole = run(parsed, tmp_path / "whole", restart=False)
    assert run(parsed, tmp_path / "again", restart=True) == whole
    # The key of a condition must not get the same value every time.
    asked = [values["lambdas.I_A"] for values in whole if "lambdas.I_A" in values]
    assert len(asked) >= 2
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_seed_other_values(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    parsed = definition(tiny, name, trials=4)
    other = parsed.model_copy(update={"sampler": parsed.sampler.model_copy(update={"seed": 6})})
    first = run(parsed, tmp_path / "first", restart=True)
    assert run(other, tmp_path / "other", restart=True) != first


def test_a_grid_tries_every_combination_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    space = {
        "lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True, "points": 3},
        "lambdas.C_A": {"type": "float", "low": 0.5, "high": 1.0, "step": 0.25},
        "norm_D": {"type": "categorical", "choices": ["instance", "none"]},
    }
    values = {"name": "s", "config": tiny, "space": space, "sampler": {"name": "grid"}}
    values |= {"steps": 12, "report_every": 4, "pruner": {"name": "none"}}
    parsed = parse_definition(values, HERE)
    assert parsed.trials == 18
    tried = run(parsed, tmp_path / "journal", restart=True, kill=True)
    wanted = set(itertools.product([1e-4, 1e-3, 1e-2], [0.5, 0.75, 1.0], ["instance", "none"]))
    assert {(t["lr_g"], t["lambdas.C_A"], t["norm_D"]) for t in tried} == wanted
    assert len(tried) == len(wanted)
    with pytest.raises(ConfigError, match="trials = 19: the grid has only 18 combinations"):
        parsed.with_trials(19)
    with pytest.raises(ConfigError, match="the grid has only 18 combinations"):
        parse_definition(values | {"trials": 20}, HERE)
    assert not parsed.enqueue_defaults
    for extra in ({"enqueue": [{"lr_g": 1e-4}]}, {"warm_start": ["s"]}, {"enqueue_defaults": True}):
        with pytest.raises(ConfigError, match="tries every combination anyway"):
            parse_definition(values | extra, HERE)
    assert parse_definition(parsed.model_dump(mode="json"), HERE) == parsed


def test_a_sobol_sequence_fills_the_space_from_its_first_trial_on(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    space = {key: {"type": "float", "low": 0.1, "high": 0.9} for key in ("lr_g", "lr_d")}
    parsed = definition(tiny, "qmc", space=space, trials=8)
    tried = run(parsed, tmp_path / "journal", restart=True)
    for key in space:  # one point in every eighth, which random points hardly ever do
        assert sorted(int((t[key] - 0.1) / 0.1) for t in tried) == list(range(8))


def test_tpe_finds_better_values_than_random(tiny: dict[str, Any], tmp_path: Path) -> None:
    def best(name: str) -> float:
        parsed = definition(tiny, name, trials=20)
        tried = run(parsed, tmp_path / name, restart=True)
        return min(abs(t["lr_g"] - 3e-3) + 1e-4 * t["filters"] for t in tried)

    assert best("tpe") < best("random")


def test_a_gaussian_process_can_not_compare_the_trials_of_a_function(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="noisy_gp compares trials by the same keys"):
        definition(tiny, "noisy_gp", space="space.py:values")


def test_noisy_gp_learns_from_pruned_trials(tiny: dict[str, Any], tmp_path: Path) -> None:
    space = {"lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    parsed = definition(tiny, "noisy_gp", space=space, trials=14)
    study = optuna.create_study(direction="maximize", sampler=sampler_of(parsed))
    for _ in range(13):
        trial = study.ask()
        rate = suggest(trial, parsed.space, parsed.ties)["lr_g"]
        for at in (4, 8):  # all are pruned: there is no complete trial to learn from
            trial.report(-20.0 * abs(math.log10(rate / 3e-3)), at)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    rates = [trial.params["lr_g"] for trial in study.trials]
    near = [abs(math.log10(rate / 3e-3)) < 0.3 for rate in rates]
    assert sum(near[3:]) > 5, rates
