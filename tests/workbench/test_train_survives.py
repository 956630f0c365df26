"""`cyclegan train` in a real process, killed at random moments, ends as if undisturbed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch import Tensor, equal

from cyclegan import checkpoints
from cyclegan.checkpoints import CHECKPOINT_NAME

pytestmark = pytest.mark.slow

CALL = [sys.executable, "-m", "workbench.cli", "train", "training.yaml", "--quiet", "--resume"]
EVERYTHING = {
    "run_name": "killed",
    "steps": 90,
    "filters": 4,
    "init_std": 0.1,
    "lr_g": 3e-3,
    "pool_size": 3,
    "kickstart": True,
    "kickstart_steps": 30,
    "lr_schedule": {"kind": "linear", "start": 20, "final": 0.2},
    "spectral_norm_D": True,
    "rotations": True,
    "checkpoint_every": 7,
    "keep_best_checkpoint": True,
    "hp_optimizer": {"enabled": True, "snapshot_every": 10, "check_every": 10, "warmup": 60},
}
KILLS = 5


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(CALL, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def make_project(folder: Path, tiny: dict[str, Any]) -> Path:
    for name in ("studies", "mlruns"):
        (folder / name).mkdir(parents=True)
    (folder / "training.yaml").write_text(yaml.safe_dump(tiny | EVERYTHING))
    return folder


def final_state(folder: Path) -> dict[str, Any]:
    path = folder / "results" / "killed" / "save" / CHECKPOINT_NAME
    return checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, Tensor):
        return [] if equal(one, other) else [where]
    if isinstance(one, Mapping):
        if list(one) != list(other):
            return [f"{where}: {sorted(set(one) ^ set(other))}"]
        return [d for key in one for d in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} items"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{where}[{i}]")]
    return [] if one == other else [f"{where}: {one} and {other}"]


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    """The last state of an undisturbed training, and the seconds of its process."""
    folder = make_project(tmp_path_factory.mktemp("whole") / "p", tiny)
    with start(folder) as process:
        began = time.monotonic()
        assert process.wait(timeout=120) == 0
    return final_state(folder), time.monotonic() - began


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_it_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, tiny: dict[str, Any], uninterrupted: tuple[dict[str, Any], float], seed: int
) -> None:
    expected, lasted = uninterrupted
    folder = make_project(tmp_path / "killed", tiny)
    moments = np.random.default_rng(seed)
    kills = 0
    for attempt in range(40):
        began = time.monotonic()
        with start(folder) as process:
            try:
                limit = moments.uniform(0.3, 1.0) * lasted if kills < KILLS else 120
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
                continue
        assert code == 0
        if kills:
            break
        # The machine is faster than when the duration was measured: once more, with this one.
        lasted = time.monotonic() - began
        folder = make_project(tmp_path / f"killed-{attempt}", tiny)
    assert kills, "the test wants at least one kill"
    assert differences(final_state(folder), expected) == []
    assert_each_iteration_once(folder)


def assert_each_iteration_once(folder: Path) -> None:
    with sqlite3.connect(folder / "mlruns" / "mlflow.db") as database:
        runs = database.execute("select status from runs where name = 'killed'").fetchall()
        twice = database.execute(
            "select key, step from metrics group by run_uuid, key, step having count(*) > 1"
        ).fetchall()
    assert runs == [("FINISHED",)]
    assert twice == []
