"""Shared fixtures: small volumes of two domains, and configurations that train in seconds."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Use one thread per process: two threads that share a core are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cyclegan import Config, parse_config
from tracking import Store
from viz.console import FLOORS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# In tests/fixtures: projects with a real study, and studies whose trials need no training.
pytest_plugins = ("study_projects", "made_studies", "written_studies")

torch.set_num_threads(1)

SHAPE = (32, 40, 40)


def blobs(seed: int, noise: float, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return a noisy two-phase material with smooth walls, standardised: (Z, Y, X) float32."""
    random = np.random.default_rng(seed)
    field = gaussian_filter(random.normal(size=shape), 2)
    volume = np.tanh(2 * field / field.std()) + noise * random.normal(size=shape)
    return ((volume - volume.mean()) / volume.std()).astype(np.float32)


def write_volume(path: Path, volume: np.ndarray, name: str = "data") -> Path:
    with h5py.File(path, "w") as handle:
        handle[name] = volume
    return path


def write_dataset(folder: Path, name: str, noise: float, seed: int) -> Path:
    for part, offset in (("train", 0), ("validate", 1)):
        write_volume(folder / f"{name}_{part}.h5", blobs(seed + offset, noise))
    content = {
        part: [{"path": f"{name}_{part}.h5", "dset": "data"}] for part in ("train", "validate")
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def make_blobs() -> Callable[..., np.ndarray]:
    """The function `blobs`, for a test's own volumes."""
    return blobs


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Dataset JSONs of a noisy domain A and a clean domain B."""
    folder = tmp_path_factory.mktemp("data")
    return write_dataset(folder, "fast", 0.8, 1), write_dataset(folder, "slow", 0.05, 11)


@pytest.fixture(scope="session")
def tiny(datasets: tuple[Path, Path]) -> dict[str, Any]:
    """Values of a configuration whose training step takes a few hundredths of a second."""
    adversarial = dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan")
    lambdas = {"G_A": 1, "G_B": 1, "D_A": 1, "D_B": 1, "C_A": 0.5, "C_B": 5, "I_A": 3, "I_B": 3}
    return {
        "run_name": "tiny",
        "data_A": str(datasets[0]),
        "data_B": str(datasets[1]),
        "filters": 2,
        "activation": "leaky_relu",
        "filters_D": 4,
        "layers_D": 1,
        "norm_D": "instance",
        "imsize_A": [8, 8, 8],
        "batch_size": 1,
        "steps": 12,
        "lossFuncs": adversarial,
        "lambdas": lambdas,
        "lr_g": 1e-3,
        "lr_d": 2e-4,
        "validate_every": 4,
        "validation_patches": 4,
        "checkpoint_every": 4,
        "precision": "fp32",
        "device": "cpu",
    }


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Undo the redirection of log messages to the stream of one call of the command line."""
    loggers = [logging.getLogger(name) for name in FLOORS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def config(tiny: dict[str, Any]) -> Config:
    return parse_config(tiny)


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a fresh embedded store, made only once because it takes seconds."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store.open(f"sqlite:///{database}").create()
    return database


@pytest.fixture
def project(empty_project: Path, fresh_database: Path) -> Path:
    """A project folder as working directory, with a store of its own, before any run."""
    shutil.copy(fresh_database, empty_project / "mlruns")
    return empty_project


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder as working directory, just cloned: it has no store yet."""
    for name in ("studies", "mlruns"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser without a window, started once.

    While it runs, an event loop of Playwright's runs in this thread: no `asyncio.run` here.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing = f"no browser on the path: {', '.join(names)} (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CYCLEGAN_REQUIRE_BROWSER") else pytest.skip)(missing)
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path)
        yield started
        started.close()
