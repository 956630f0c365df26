"""A project on a real SLURM cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """A real SLURM cluster of four nodes that runs as long as the tests."""
    path = ROOT / "tests" / "fixtures" / "slurm.py"
    spec = importlib.util.spec_from_file_location("slurm_cluster", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    without = pytest.fail if os.environ.get("CYCLEGAN_REQUIRE_SLURM") else pytest.skip
    if not module.is_there():
        without("no SLURM is installed, or this is not root (Debian: slurm-wlm and munge)")
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(module.Cluster())
        except (AssertionError, OSError) as error:  # a container that does not let it run
            without(f"SLURM does not start here: {error}")
        yield cluster


class ClusterProject:
    """A project folder on the login node of a cluster."""

    def __init__(self, folder: Path, cluster: Any) -> None:
        self.folder, self.cluster = folder, cluster

    def define(self, definition: dict[str, Any]) -> None:
        path = self.folder / "studies" / f"{definition['name']}.yaml"
        path.write_text(yaml.safe_dump(definition))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line on the login node."""
        paths = {"PYTHONPATH": str(ROOT)}
        inherited = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        return subprocess.run(
            [sys.executable, "-P", "-m", "workbench", *arguments],
            cwd=self.folder,
            env=inherited | self.cluster.environment | paths,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def show(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("study", "show", name)
        return found

    def logs(self) -> str:
        return "\n".join(p.read_text() for p in sorted(self.folder.rglob("*_log.out")))


@pytest.fixture
def on_cluster(project: Path, slurm: Any) -> Iterator[ClusterProject]:
    yield ClusterProject(project, slurm)
    slurm.call("scancel", "--user", "root")


@pytest.fixture
def long_study(tiny: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that defines a study whose two trials take long enough to be cut."""

    def define(name: str, **changes: Any) -> dict[str, Any]:
        gentle = {"lr_g": 3e-3, "run_name": "base", "checkpoint_every": 100, "validate_every": 300}
        return {
            "name": name,
            "config": tiny | gentle,
            "space": {"lr_g": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
            "sampler": {"name": "random", "seed": 3},
            "pruner": {"name": "none"},
            "trials": 2,
            "steps": 3000,
            "report_every": 300,
            "enqueue_defaults": False,
            **changes,
        }

    return define
