"""Every command, killed at its N-th durable event and called again, ends as if undisturbed.

`kill_at.c` says what an event is; a C compiler makes a library of it that is preloaded. A few N are
tried for each command, spread over all of its events; with the marker `nightly` 60 of them.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from torch import Tensor

from cyclegan import checkpoints
from cyclegan.data.fingerprint import file_hashes

KILL_AT = Path(__file__).parent / "kill_at.c"
MODEL = "results/tiny/save/generator.pt"
_ATTEMPTS = 4
TIMED = ("speed/", "system/", "score/seconds", "seconds", "iteration")
"""Metrics that depend on the clock; `iteration` marks the end of each batch that was sent."""


@dataclass(frozen=True)
class Case:
    """A command, and what must be the same as without a kill."""

    arguments: tuple[str, ...]
    outcome: Callable[[Path], Any]
    needs: tuple[str, ...] = ()
    """Cases that run before it."""


def plain(value: Any) -> Any:
    """Return nested state without tensors, so that == compares it."""
    if isinstance(value, Tensor):
        return value.dtype, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def checkpoint(path: Path) -> Any:
    state = checkpoints.load(path / "save" / "checkpoint.pt", formats=("cyclegan-checkpoint-1",))
    return plain({name: state[name] for name in ("training", "iteration", "step", "history")})


def metrics(project: Path) -> Any:
    """Return all runs with their status, and every point of their charts."""
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as database:
        runs = database.execute("select name, status from runs order by name").fetchall()
        points = database.execute(
            "select r.name, m.key, m.step, m.value, m.is_nan from metrics m join runs r"
            " on r.run_uuid = m.run_uuid order by 1, 2, 3, 4"
        ).fetchall()
    # Hyperparameters in force are written once more with each batch, so how often depends on the
    # clock, too.
    in_force = {(run, key, value) for run, key, _, value, _ in points if key.startswith("hparam/")}
    others = [p for p in points if not p[1].startswith((*TIMED, "hparam/"))]
    return runs, sorted(in_force), others


def trained(project: Path) -> Any:
    return checkpoint(project / "results" / "tiny"), metrics(project)


def studied(project: Path) -> Any:
    line = [sys.executable, "-m", "workbench.cli", "study", "show", "s", "--json"]
    shown = json.loads(subprocess.run(line, cwd=project, capture_output=True, check=True).stdout)
    timed = ("seconds", "started", "run_id", "origin", "seeds", "deaths", "interruptions")
    trials = [{k: v for k, v in trial.items() if k not in timed} for trial in shown["trials"]]
    return trials, metrics(project)


def promoted(project: Path) -> Any:
    (folder,) = (project / "results" / "s").glob("s-promoted-*")
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as database:
        versions = database.execute("select name, version from model_versions").fetchall()
        champions = database.execute("select alias, version from registered_model_aliases")
        return checkpoint(folder), versions, champions.fetchall(), metrics(project)


def arrays(path: Path) -> Any:
    with h5py.File(path) as handle:
        found: dict[str, bytes] = {}
        handle.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def enhanced(project: Path) -> Any:
    names = ("e.png", "e.html", "e.viewer.html", "e.report.png")
    runs, _, _ = metrics(project)
    return arrays(project / "e.h5"), [(project / name).exists() for name in names], runs


def prepared(project: Path) -> Any:
    folder = project / "out"
    volume, entries = folder / "p.h5", (folder / "p.json").read_text()
    (own,) = file_hashes([volume]).values()  # the file names its source by an absolute path
    return arrays(volume), entries.replace(own, "its own"), (folder / "p.png").exists()


CASES = {
    "train": Case(("train", "studies/base.yaml", "--resume"), trained),
    "study": Case(("study", "run", "studies/s.yaml"), studied),
    "promote": Case(("promote", "s"), promoted, ("study",)),
    "enhance": Case(
        ("enhance", "data/fast_validate.h5", "--model", MODEL, "--output", "e.h5"),
        enhanced,
        ("train",),
    ),
    "prepare": Case(("prepare", "data/fast_train.h5", "--output", "out/p.h5"), prepared),
}


@functools.cache
def shim() -> str:
    """Return the path of the compiled library."""
    compiler = shutil.which("cc")
    if compiler is None:
        if os.environ.get("CYCLEGAN_REQUIRE_COMPILER"):
            pytest.fail("no C compiler (cc)")
        pytest.skip("needs a C compiler (cc)")
    library = Path(tempfile.mkdtemp(prefix="kill_at-")) / "kill_at.so"
    atexit.register(shutil.rmtree, library.parent)
    line = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, KILL_AT, "-ldl"]
    subprocess.run(line, check=True)
    return str(library)


def call(project: Path, case: Case, number: int) -> tuple[int, int]:
    """Run the command, killed at its N-th event; return its exit code and its events."""
    scratch = project / "tmp"
    scratch.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"LD_PRELOAD": shim(), "KILL_AT_EVENT": str(number)}
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", *case.arguments, "--quiet"],
        cwd=project,
        env=environment | {"KILL_AT_FOLDER": str(project), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^events (\d+)$", done.stderr, re.MULTILINE)
    if number == 0:
        assert done.returncode == 0, done.stderr
    return done.returncode, int(found[1]) if found else 0


@pytest.fixture(scope="module")
def small_project(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: dict[str, Any],
    datasets: tuple[Path, Path],
    fresh_database: Path,
) -> Path:
    """A project with data, a configuration and a study that take seconds."""
    folder = tmp_path_factory.mktemp("faults") / "project"
    for name in ("studies", "mlruns"):
        (folder / name).mkdir(parents=True)
    shutil.copy(fresh_database, folder / "mlruns")
    shutil.copytree(datasets[0].parent, folder / "data")
    base = tiny | {"run_name": "tiny", "checkpoint_every": 3, "log_every": 1, "steps": 12}
    base |= {"validate_every": 4, "data_A": "data/fast.json", "data_B": "data/slow.json"}
    (folder / "studies" / "base.yaml").write_text(yaml.safe_dump(base))
    study = {
        "name": "s",
        "config": "base.yaml",
        "space": {"lr_g": {"type": "float", "low": 5e-4, "high": 5e-3, "log": True}},
        "sampler": {"seed": 0},
        "pruner": {"name": "none"},
        "trials": 2,
        "steps": 8,
        "report_every": 4,
        "promote": {"steps": 12},
    }
    (folder / "studies" / "s.yaml").write_text(yaml.safe_dump(study))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    small_project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any, int]]:
    """Return the project before a command, its outcome without a kill, and its events."""
    known: dict[str, tuple[Path, Any, int]] = {}
    root = tmp_path_factory.mktemp("undisturbed")

    def find(name: str) -> tuple[Path, Any, int]:
        if name not in known:
            case = CASES[name]
            before = copied(small_project, root / f"before-{name}")
            for needed in case.needs:
                call(before, CASES[needed], 0)
            after = copied(before, root / f"after-{name}")
            _, events = call(after, case, 0)
            known[name] = before, case.outcome(after), events
        return known[name]

    return find


def copied(project: Path, folder: Path) -> Path:
    """Return a copy of a project whose MLflow database leads into the copy."""
    shutil.copytree(project, folder)
    with sqlite3.connect(folder / "mlruns" / "mlflow.db") as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "source"),
            ("model_versions", "storage_location"),
        ):
            database.execute(
                f"update {table} set {column} = replace({column}, ?, ?)",  # noqa: S608 (our names)
                (str(project), str(folder)),
            )
    return folder


def check(
    name: str, number: int, undisturbed: Callable[[str], tuple[Path, Any, int]], folder: Path
) -> None:
    before, expected, _ = undisturbed(name)
    # How many events there are depends a little on the clock, as metrics are sent in batches: near
    # the end an event may not come.
    for attempt in range(_ATTEMPTS):
        project = copied(before, folder / f"project-{attempt}")
        code, events = call(project, CASES[name], number)
        if code == -signal.SIGKILL:
            break
        assert code == 0
        number = round(0.97 * events)
    assert code == -signal.SIGKILL, f"event {number} never came"
    call(project, CASES[name], 0)
    assert_same(CASES[name].outcome(project), expected)
    left = [str(p.relative_to(project)) for p in project.rglob("*") if p.name.endswith(".part")]
    left += [str(p.relative_to(project)) for p in (project / "tmp").glob("*cyclegan*")]
    assert left == [], f"killed at event {number}"


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Compare nested values, and name the place of the first difference."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        if len(found) != len(expected):
            lost = [item for item in expected if item not in found]
            new = [item for item in found if item not in expected]
            raise AssertionError(f"{where}: lost {lost}, new {new}"[:2000])
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{where}[{i}]")
    else:
        assert found == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("name", CASES)
def test_killed_at_some_events(
    name: str,
    share: float,
    undisturbed: Callable[[str], tuple[Path, Any, int]],
    tmp_path: Path,
) -> None:
    _, _, events = undisturbed(name)
    check(name, max(round(share * events), 1), undisturbed, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(1, 61))
@pytest.mark.parametrize("name", CASES)
def test_killed_at_every_event(
    name: str,
    number: int,
    undisturbed: Callable[[str], tuple[Path, Any, int]],
    tmp_path: Path,
) -> None:
    """Events 1 to 60 for short commands; for longer ones 60 events spread over all of them."""
    _, _, events = undisturbed(name)
    chosen = np.unique(np.linspace(1, max(events - 2, 1), 60).round().astype(int)).tolist()
    if number > len(chosen):
        pytest.skip(f"{name} has {events} events")
    check(name, chosen[number - 1], undisturbed, tmp_path)
