"""Real processes, killed: a study goes on with the same trials and ends as if nothing happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

CALL = [sys.executable, "-m", "search.cli"]


def study(tiny: dict[str, Any]) -> dict[str, Any]:
    gentle = {"lr_g": 3e-3, "filters": 4, "run_name": "base", "checkpoint_every": 3}
    return {
        "name": "small",
        "config": tiny | gentle,
        "space": {
            "lr_g": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
            "lambdas.I_A": {"type": "float", "low": 1.0, "high": 10.0},
        },
        "sampler": {"startup_trials": 2, "seed": 3},
        "pruner": {"name": "successive_halving", "prune_after": 8},
        "trials": 4,
        "steps": 24,
        "report_every": 4,
        "promote": {"steps": 30, "start": "continue"},
    }


def make_project(folder: Path, tiny: dict[str, Any], template: Path) -> Path:
    (folder / "studies").mkdir(parents=True)
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(study(tiny)))
    shutil.copytree(template, folder / "mlruns")
    return folder


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*CALL, *arguments, "--json"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def comparable(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(t["number"], t["state"], t["score"], t["values"], t["step"]) for t in result["trials"]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh embedded store, made once: a new database takes seconds."""
    from tracking import Store

    folder = tmp_path_factory.mktemp("store")
    (folder / "studies").mkdir()
    (folder / "mlruns").mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        Store.open()
    finally:
        os.chdir(before)
    return folder / "mlruns"


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], template: Path
) -> dict[str, Any]:
    folder = make_project(tmp_path_factory.mktemp("whole") / "p", tiny, template)
    return run(folder, "study", "run", "studies/small.yaml")


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (signal.SIGKILL, "trial-000/save/checkpoint.pt"),
        (signal.SIGKILL, "trial-001/config.yaml"),  # before the first checkpoint
        (signal.SIGKILL, "trial-002/save/checkpoint.pt"),
        (signal.SIGTERM, "trial-001/save/checkpoint.pt"),
    ],
)
def test_a_killed_study_ends_like_an_uninterrupted_one(
    tmp_path: Path,
    tiny: dict[str, Any],
    template: Path,
    uninterrupted: dict[str, Any],
    number: signal.Signals,
    file: str,
) -> None:
    folder = make_project(tmp_path / "p", tiny, template)
    path = folder / "results" / "small" / file
    line = [*CALL, "study", "run", "studies/small.yaml", "--quiet"]
    with subprocess.Popen(
        line, cwd=folder, env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        wait_for(path.exists)
        process.send_signal(number)
        code = process.wait(timeout=30)
    assert code == (130 if number == signal.SIGTERM else -signal.SIGKILL)

    resumed = run(folder, "study", "run", "small")
    assert comparable(resumed) == comparable(uninterrupted)
    assert len(resumed["trials"]) == 4

    _no_run_is_left_running_and_no_iteration_is_there_twice(folder, resumed)


def _no_run_is_left_running_and_no_iteration_is_there_twice(
    folder: Path, resumed: dict[str, Any]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    assert {r.info.status for r in runs} <= {"FINISHED", "KILLED"}
    trials = [r for r in runs if r.data.tags.get("kind") == "trial"]
    assert sorted(int(r.data.tags["trial"]) for r in trials) == [0, 1, 2, 3]
    for trial in resumed["trials"]:
        steps = [m.step for m in client.get_metric_history(trial["run_id"], "loss/G_total")]
        assert steps == list(range(1, trial["step"] + 1))


def test_two_processes_never_run_one_study(
    tmp_path: Path, tiny: dict[str, Any], template: Path
) -> None:
    folder = make_project(tmp_path / "p", tiny, template)
    line = [*CALL, "study", "run", "studies/small.yaml", "--quiet"]
    with subprocess.Popen(line, cwd=folder, env=environment(), stdout=subprocess.DEVNULL) as first:
        wait_for((folder / "results" / "small" / "trial-000" / "config.yaml").exists)
        second = subprocess.run(
            line, cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        first.kill()
    assert second.returncode == 1
    assert second.stderr.strip() == (
        f"error: study small is in use by process {first.pid}; wait for it or stop it first"
    )


def test_a_changed_definition_is_refused_and_more_trials_are_not(
    tmp_path: Path, tiny: dict[str, Any], template: Path
) -> None:
    folder = make_project(tmp_path / "p", tiny, template)
    path = folder / "studies" / "small.yaml"
    first = run(folder, "study", "run", str(path), "--trials", "1")
    assert first["trials_finished"] == 1
    changed = study(tiny) | {"steps": 30}
    path.write_text(yaml.safe_dump(changed))
    refused = subprocess.run(
        [*CALL, "study", "run", str(path)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "was started with another 'steps'" in refused.stderr
    path.write_text(yaml.safe_dump(study(tiny)))
    assert run(folder, "study", "run", str(path), "--trials", "2")["trials_finished"] == 2
