"""Reading many trials from a database in bulk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study import bulk_reading
from search.study.bulk_reading import BulkReadingStorage


def filled(url: str, directions: int = 1) -> tuple[str, int]:
    """Fill a database with trials of all kinds; return its address and the id of the study."""
    study = optuna.create_study(
        storage=RDBStorage(url), directions=["maximize"] * directions, study_name="all-kinds"
    )
    other = optuna.create_study(storage=study._storage, study_name="another")
    space = {
        "lr_g": FloatDistribution(1e-5, 1e-2, log=True),
        "depth": IntDistribution(1, 4),
        "net": CategoricalDistribution(["unet", "resnet", None]),
    }
    for number in range(6):
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                values=[float(number), math.inf][:directions],
                params={"lr_g": 1e-3, "depth": 1 + number % 4, "net": [None, "unet"][number % 2]},
                distributions=space,
                intermediate_values={20: -math.inf, 10: math.nan, 30: float(number)},
                user_attrs={"seeds": [{"seed": 1}], "reason": 'a "word"'},
                system_attrs={"completed_rung_0": 0.5},
            )
        )
        other.add_trial(create_trial(state=TrialState.COMPLETE, value=-1.0))
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.enqueue_trial({"lr_g": 1e-4}, user_attrs={"from": "a person"})
    study.ask(space).set_user_attr("config", "{}")
    return url, study._study_id


def plain(trials: list[FrozenTrial]) -> list[str]:
    """Return trials as text: NaN is not equal to NaN, and the order of keys is of no meaning."""

    def ordered(value: Any) -> Any:
        return sorted(value.items(), key=str) if isinstance(value, dict) else value

    return [str({k: ordered(v) for k, v in vars(trial).items()}) for trial in trials]


@pytest.mark.parametrize("directions", [1, 2])
def test_trials_are_those_that_optuna_reads(tmp_path: Path, directions: int) -> None:
    url, study = filled(f"sqlite:///{tmp_path}/study.db", directions)
    ours, optunas = BulkReadingStorage(url), RDBStorage(url)
    whole = optunas._get_trials(study, None, set(), -1)
    assert len(whole) == 8  # the waiting one was begun
    assert plain(ours._get_trials(study, None, set(), -1)) == plain(whole)
    third = whole[2]._trial_id
    some = {whole[0]._trial_id, whole[1]._trial_id, whole[7]._trial_id}
    for asked in ((None, some, third), (None, set(), third), ((TrialState.FAIL,), some, third)):
        assert plain(ours._get_trials(study, *asked)) == plain(optunas._get_trials(study, *asked))
    with pytest.raises(KeyError):
        ours._get_trials(99, None, set(), -1)


@pytest.mark.slow
def test_trials_in_postgresql_are_those_that_optuna_reads(postgresql: str) -> None:
    url, study = filled(postgresql)
    ours, optunas = BulkReadingStorage(url), RDBStorage(url)
    whole = optunas._get_trials(study, None, set(), -1)
    assert plain(ours._get_trials(study, None, set(), -1)) == plain(whole)


def test_tables_of_another_version_are_left_to_optuna(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, study = filled(f"sqlite:///{tmp_path}/study.db")
    monkeypatch.setattr(bulk_reading, "_read", None)
    with pytest.raises(TypeError):
        BulkReadingStorage(url)._get_trials(study, None, set(), -1)
    monkeypatch.setattr(models, "SCHEMA_VERSION", 99)
    assert len(BulkReadingStorage(url)._get_trials(study, None, set(), -1)) == 8
