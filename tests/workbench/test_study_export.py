"""Files for other programs: complete, and never overwritten unasked."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from cyclegan.config import load_config
from cyclegan.errors import DataError, UsageError
from workbench.study_tables import COLUMNS, export_study, write_best_config


def test_csv_has_a_row_a_trial_and_full_values(make_study: Any, tmp_path: Path) -> None:
    handle = make_study(6)
    path = tmp_path / "new" / "s.csv"
    assert export_study(handle, path) == 6
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [*COLUMNS, "lr_g", "lambdas.C_A", "batch_size", "norm_D"]
    for row, trial in zip(rows, handle.trials(), strict=True):
        assert (int(row["number"]), row["state"]) == (trial.number, trial.state)
        assert float(row["score"]) == trial.score
        assert float(row["lambdas.C_A"]) == trial.values["lambdas.C_A"]
        assert row["reason"] == trial.reason
        assert int(row["iteration"]) == int(row["step"]) + 10


def test_no_column_can_be_mistaken_for_a_key_of_the_configuration() -> None:
    from cyclegan.config import Config

    assert not set(COLUMNS) & set(Config.model_fields)


def test_reasons_of_several_lines_stay_in_their_row(make_study: Any, tmp_path: Path) -> None:
    handle = make_study(1)
    handle.study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL, user_attrs={"reason": 'a "b",\nc;\n'}
        )
    )
    export_study(handle, tmp_path / "s.csv")
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 3
    with (tmp_path / "s.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream))[1]["reason"] == 'a "b", c;'


def test_json_has_the_curves(make_study: Any, tmp_path: Path) -> None:
    handle = make_study(3)
    export_study(handle, tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["trials"][0]["curve"][0][0] == 50
    assert data["best"]["number"] == handle.best().number


def test_files_that_exist_and_other_kinds_are_refused(make_study: Any, tmp_path: Path) -> None:
    handle = make_study(3)
    path = tmp_path / "s.csv"
    path.write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        export_study(handle, path)
    assert path.read_text() == "mine"
    assert export_study(handle, path, overwrite=True) == 3
    with pytest.raises(UsageError, match=r"s.xlsx.*\.csv or \.json"):
        export_study(handle, tmp_path / "s.xlsx")
    with pytest.raises(UsageError, match=r"must end in \.yaml"):
        write_best_config(handle, tmp_path / "best.json")


def test_the_best_configuration_can_be_trained(make_study: Any, tmp_path: Path) -> None:
    handle = make_study(3)
    best = handle.best()
    config = handle.config_of(best.number)
    assert config.lr_g == best.values["lr_g"]
    path = tmp_path / "best.yaml"
    write_best_config(handle, path)
    assert load_config(path) == config
    assert path.read_text().startswith(f"# The best trial of the study made: trial {best.number},")
    with pytest.raises(DataError, match="--overwrite"):
        write_best_config(handle, path)


def test_without_a_complete_trial_nothing_is_written(make_study: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete trial yet"):
        write_best_config(make_study(0), tmp_path / "best.yaml")
    assert not (tmp_path / "best.yaml").exists()
