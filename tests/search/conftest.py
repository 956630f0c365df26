"""Real processes on a small study, in a project folder of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml

from cyclegan import parse_config
from cyclegan.generator import save_generators
from cyclegan.model import CycleGAN
from search import cli
from search.commandline import run

CALL = [sys.executable, "-m", "search.cli"]


def small_study(tiny: dict[str, Any]) -> dict[str, Any]:
    gentle = {"lr_g": 3e-3, "filters": 4, "run_name": "base", "checkpoint_every": 3}
    gentle |= {"log_every": 1}  # what is stored twice, or not at all, is seen
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
        "enqueue_defaults": False,
        "promote": {"steps": 30, "start": "continue"},
    }


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return result


class StudyProject:
    """A project folder with a study `small`, and the command line run in it."""

    def __init__(self, folder: Path, definition: dict[str, Any], database: Path) -> None:
        self.folder = folder
        (folder / "studies").mkdir(parents=True)
        (folder / "mlruns").mkdir()
        shutil.copy(database, folder / "mlruns")
        self.define(definition)

    @property
    def results(self) -> Path:
        return self.folder / "results" / "small"

    def define(self, definition: dict[str, Any]) -> None:
        (self.folder / "studies" / "small.yaml").write_text(yaml.safe_dump(definition))

    def options(self) -> dict[str, Any]:
        inherited = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        return {"cwd": self.folder, "env": inherited}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        line = [*CALL, *arguments]
        return subprocess.run(line, **self.options(), capture_output=True, text=True, check=False)

    def run(self, *arguments: str) -> dict[str, Any]:
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        line, options = [*CALL, *arguments, "--quiet"], self.options() | options
        return subprocess.Popen(line, **options, stdout=subprocess.DEVNULL, text=True)

    def trials(self, storage: str | None = None) -> list[optuna.trial.FrozenTrial]:
        from optuna.storages.journal import JournalFileBackend

        journal = self.folder / "studies" / "local" / "small" / "journal.log"
        place: Any = storage
        if storage is None:
            if not journal.is_file():
                return []
            place = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        try:
            return optuna.load_study(study_name="small", storage=place).trials
        except KeyError:
            return []

    def owners(self) -> dict[int, int]:
        """Process by trial, of the trials that are trained now."""
        leases = {t.number: t.user_attrs.get("lease") for t in self.trials()}
        return {number: lease["pid"] for number, lease in leases.items() if lease}

    def check(self, result: dict[str, Any]) -> None:
        """No run is left running, and no iteration is in MLflow twice or not at all."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder / 'mlruns' / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
        assert {r.info.status for r in runs} <= {"FINISHED", "KILLED"}
        trials = [r for r in runs if r.data.tags.get("kind") == "trial"]
        numbers = [t["number"] for t in result["trials"]]
        assert sorted(int(r.data.tags["trial"]) for r in trials) == numbers
        for trial in result["trials"]:
            steps = [m.step for m in client.get_metric_history(trial["run_id"], "loss/G_total")]
            assert steps == list(range(1, trial["step"] + 1))


@pytest.fixture(scope="session")
def small(tiny: dict[str, Any]) -> dict[str, Any]:
    """The definition of a study whose trials take seconds."""
    return small_study(tiny)


@pytest.fixture
def study_project(tmp_path: Path, small: dict[str, Any], fresh_database: Path) -> StudyProject:
    return StudyProject(tmp_path / "p", small, fresh_database)


@pytest.fixture(scope="session")
def whole_study(
    tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any], fresh_database: Path
) -> dict[str, Any]:
    """What `study run --json` tells of the study `small` that nothing interrupted."""
    project = StudyProject(tmp_path_factory.mktemp("whole") / "p", small, fresh_database)
    return project.run("study", "run", "studies/small.yaml")


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    """The function `wait_for`."""
    return wait_for


@pytest.fixture
def generator_file(project: Path, tiny: dict[str, Any]) -> str:
    """A generator file in the project's folder; untrained will do."""
    torch.manual_seed(0)
    scales = {"B": {"mean": 1000.0, "std": 50.0}}
    save_generators(
        CycleGAN(parse_config(tiny), torch.device("cpu")),
        project / "generator.pt",
        step=7,
        grey_scales=scales,
    )
    return "generator.pt"


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: (exit code, JSON or None, standard error)."""

    def call(*arguments: str) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", *arguments, "--json", "--quiet"])
        code = run(cli.app)
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return call


@pytest.fixture
def enhance(generator_file: str, command_line: Any) -> Any:
    """The same for `cyclegan enhance` with that generator."""

    def call(*arguments: str) -> Any:
        return command_line("enhance", *arguments, "--model", generator_file)

    return call


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Any]:
    """A real PostgreSQL server that lives as long as the tests."""
    spec = importlib.util.spec_from_file_location("postgres", Path(__file__).parent / "postgres.py")
    assert spec and spec.loader
    postgres = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(postgres)
    programs = postgres.programs()
    if programs is None:
        missing = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
        if os.environ.get("CYCLEGAN_REQUIRE_POSTGRES"):
            pytest.fail(missing)
        pytest.skip(missing)
    with postgres.Server(programs) as server:
        yield server


@pytest.fixture
def postgresql(postgresql_server: Any) -> str:
    """The address of that server."""
    address: str = postgresql_server.address
    return address
