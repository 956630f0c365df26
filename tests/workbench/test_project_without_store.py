"""A project that came without its `mlruns/`, and folders that are no project at all."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from tracking import Store
from workbench import cli
from workbench.session import run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process: (exit code, standard output, its messages)."""

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", *arguments])
        code = run(cli.app)
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run_it


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_command_that_only_reads_or_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, tiny: dict[str, Any]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    away, project = tmp_path / "away", tmp_path / "p"
    away.mkdir()
    (project / "studies").mkdir(parents=True)
    values = tiny | {"data_A": "data/fast.json"}
    (project / "studies" / "base.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(away)
    store = str(away / "mlruns" / "mlflow.db")
    code, out, _ = call("runs", "list")
    assert (code, store in out) == (0, True)
    code, out, _ = call("doctor")
    assert (code, store in out) == (0, True)
    for arguments in (
        ("runs", "show", "demo:3"),
        ("compare", "demo:3", "demo:4"),
        ("export", "demo@champion", "--output", "g.pt2"),
    ):
        code, _, err = call(*arguments)
        assert code == 1
        assert store in err
    code, _, err = call("train", "../p/studies/base.yaml")
    assert code == 1
    assert f"data/fast.json: no such file; looked for {away}/data/fast.json" in err
    assert left_in(away) == []
    assert left_in(project) == ["studies", "studies/base.yaml"]


@pytest.fixture
def copied(
    project: Path, small: dict[str, Any], call: Any, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The copy of a project with a promoted study that left out what was in `mlruns/`."""
    study = small | {"trials": 1, "steps": 8, "report_every": 4, "pruner": {"name": "none"}}
    study["promote"] = {"steps": 12, "start": "continue"}
    (project / "studies" / "small.yaml").write_text(yaml.safe_dump(study))
    assert call("study", "run", "studies/small.yaml")[0] == 0
    assert call("promote", "small")[0] == 0
    copy = project / "copy"
    for name in ("studies", "results"):
        shutil.copytree(project / name, copy / name)
    (copy / "mlruns").mkdir()
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.slow
def test_a_study_without_its_store_is_promoted_and_used_all_the_same(
    copied: Path, call: Any
) -> None:
    volume = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    with h5py.File(copied / "a.h5", "w") as handle:
        handle["data"] = volume

    # What reads works, or says what is missing and the way out.
    for name in ("list", "show small", "best small", "report small --output r.html"):
        assert call("study", *name.split())[0] == 0
    assert call("study", "export", "small", "--output", "t.csv")[0] == 0
    code, _, err = call("compare", "small:0", "small-promoted-000")
    assert code == 1
    assert "--tracking-uri names another store" in err
    code, out, _ = call("doctor")
    assert code == 1
    assert "study small: none of its runs is in" in out
    code, _, err = call("enhance", "a.h5", "--model", "small@champion", "--output", "e.h5")
    assert code == 1
    assert "cyclegan promote small --trial 0" in err
    assert not (copied / "mlruns" / "mlflow.db").exists()

    # A trial's generator is taken from its folder.
    code, _, err = call("enhance", "a.h5", "--model", "small:0", "--output", "e.h5", "--no-report")
    assert code == 0, err
    assert f"taking {copied}/results/small/trial-000/save/generator.pt" in err

    # The promoted training was complete: it gets a run here, with all that its folder knows.
    code, out, err = call("promote", "small", "--json")
    assert code == 0, err
    assert "study small: the run of trial 0 is not in" in err
    first = json.loads(out)
    assert (first["reused"], first["model"]["version"]) == (True, "small@1")
    found = Store.open().find_run(first["run_id"])
    assert (found.status, found.name) == ("FINISHED", "small-promoted-000")
    assert (found.metrics["iteration"], found.parent) == (12, None)
    assert found.params["steps"] == "12"
    assert "checkpoints/generator.pt" in Store.open().run(found.id).artifact_names("checkpoints")

    # It goes on in that run, and so does the champion.
    code, out, err = call("promote", "small", "--steps", "16", "--json")
    assert code == 0, err
    second = json.loads(out)
    assert (second["run_id"], second["step"]) == (first["run_id"], 16)
    assert [r.id for r in Store.open().search("small")] == [first["run_id"]]
    line = ("enhance", "a.h5", "--model", "small@champion", "--output", "f.h5", "--no-report")
    assert call(*line)[0] == 0
    assert call("doctor")[0] == 0
    assert call("study", "run", "studies/small.yaml", "--trials", "2")[0] == 0
