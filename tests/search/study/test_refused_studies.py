"""A command that is refused leaves nothing behind, and a mended study begins."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan.errors import ConfigError, DataError
from search.study import known_studies, open_study, run_study
from search.study.runner import _compatible
from search.study.storage import StudyStorage
from search.study.study import optuna_study
from tracking import Store
from viz.console import Console
from workbench import cli
from workbench.session import run


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["cyclegan", *arguments])
    return run(cli.app)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def wrong_file(datasets: tuple[Path, Path]) -> str:
    return str(datasets[0].with_name("fats.json"))


def wrong_dataset(datasets: tuple[Path, Path]) -> str:
    content = json.loads(datasets[0].read_text())
    content["train"][0]["dset"] = "dada"
    path = datasets[0].with_name("other.json")
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("wrong", [wrong_file, wrong_dataset])
def test_a_refused_command_leaves_nothing_in_the_folder(
    tiny: dict[str, Any],
    datasets: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tiny | {"data_A": wrong(datasets)}
    space = {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}}
    study = {"name": "s", "config": config, "space": space, "pruner": {"name": "none"}}
    Path("base.yaml").write_text(yaml.safe_dump(config))
    Path("s.yaml").write_text(yaml.safe_dump(study | {"steps": 12, "report_every": 4}))
    before = tree(tmp_path)
    assert call(monkeypatch, "study", "run", "s.yaml") == 1
    assert tree(tmp_path) == before
    assert call(monkeypatch, "train", "base.yaml") == 1
    assert tree(tmp_path) == before


def test_a_study_does_not_scatter_its_runs_over_two_stores(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    space = {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}}
    study = {"name": "s", "config": tiny, "space": space, "pruner": {"name": "none"}, "trials": 1}
    Path("s.yaml").write_text(yaml.safe_dump(study | {"steps": 4, "report_every": 4}))
    other = f"sqlite:///{tmp_path}/the group's/mlflow.db"
    Path("the group's").mkdir()
    again = ("study", "run", "s", "--trials")
    assert call(monkeypatch, "study", "run", "s.yaml", "--tracking-uri", other) == 0
    capsys.readouterr()
    assert call(monkeypatch, *again, "2") == 2
    words = shlex.split(capsys.readouterr().err)
    named = [word for before, word in pairwise(words) if before == "--tracking-uri"]
    assert named == [other, f"sqlite:///{tmp_path}/mlruns/mlflow.db"]
    assert call(monkeypatch, "promote", "s") == 2
    assert shlex.split(capsys.readouterr().err)[-5:] == words[-5:]
    assert not Path("mlruns").exists()
    assert call(monkeypatch, *again, "2", "--tracking-uri", named[0]) == 0
    assert len(Store.open(other).search(filter="tags.kind = 'trial'")) == 2
    assert call(monkeypatch, *again, "3", "--tracking-uri", named[1]) == 0


def test_the_best_configuration_does_not_replace_the_study_it_comes_from(
    make_study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = make_study(4)
    monkeypatch.setattr("search.study.open_study", lambda name: handle)
    Path("made.yaml").write_text("the study")
    options = ("--config", "./made.yaml", "--overwrite")
    assert call(monkeypatch, "study", "best", "made.yaml", *options) == 1
    assert "would replace this input" in capsys.readouterr().err
    assert Path("made.yaml").read_text() == "the study"
    assert call(monkeypatch, "study", "best", "made", "--config", "best.yaml") == 0


def test_a_study_in_which_nothing_was_trained_takes_a_changed_file(
    define: Any, project: Path, datasets: tuple[Path, Path], tiny: dict[str, Any]
) -> None:
    wrong = define(config=tiny | {"data_A": wrong_dataset(datasets)}, trials=1)
    # As an earlier version left it, which stored the definition first.
    folder = project / "studies" / "local" / "s"
    place = StudyStorage(folder)
    study = optuna_study(wrong, place)
    study.set_user_attr("definition", json.dumps(wrong.model_dump(mode="json")))
    study.enqueue_trial({"lr_g": 1e-3})
    study.ask()
    (folder / "study.yaml").write_text("{}")

    right = define(trials=1)
    handle = run_study(right, store=Store.open(), console=Console(quiet=True)).handle
    assert [trial.state for trial in handle.trials()] == ["complete"]
    assert known_studies() == ["s"]
    assert open_study("s").definition == right
    changed = define(trials=1, steps=16)
    with pytest.raises(ConfigError, match="was started with another 'steps'"):
        _compatible(changed, handle.study, place)


def test_the_first_check_needs_no_store(define: Any, tiny: dict[str, Any], project: Path) -> None:
    wrong = define(config=tiny | {"data_A": "data/fats.json"})

    def never() -> Any:
        raise AssertionError("the store was opened")

    with pytest.raises(DataError, match=r"fats\.json"):
        run_study(wrong, store=never, console=Console(quiet=True))
