"""A real store per test: a copy of one database, because a fresh one takes seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from cyclegan.config import Config, parse_config
from tracking import Run, Store

torch.set_num_threads(1)


@pytest.fixture
def database(fresh_database: Path, tmp_path: Path) -> Path:
    target = tmp_path / "mlruns" / "mlflow.db"
    target.parent.mkdir()
    shutil.copy(fresh_database, target)
    return target


@pytest.fixture
def store(database: Path) -> Store:
    return Store.open(f"sqlite:///{database}")


@pytest.fixture
def client(store: Store) -> MlflowClient:
    """MLflow's own client, to see the store as others do."""
    return MlflowClient(store.uri, store.uri)


@pytest.fixture
def run(store: Store) -> Run:
    return store.create_run("study", "trial-1", kind="trial", params={}, tags={})


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset JSON with one volume of noise with some structure."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    volume = random.normal(size=(24, 32, 32)).astype(np.float32)
    volume[:, 8:16, 8:16] += 3
    with h5py.File(folder / "volume.h5", "w") as file:
        file["data"] = volume
    entry = {"path": "volume.h5", "dset": "data"}
    text = json.dumps({"train": [entry], "validate": [entry]})
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return folder / "dataset.json"


@pytest.fixture
def tiny(data: Path) -> Callable[..., Config]:
    """The smallest real training: a step takes some milliseconds."""

    def make(**changes: Any) -> Config:
        values: dict[str, Any] = {
            "data_A": str(data),
            "data_B": str(data),
            "filters": 2,
            "filters_D": 2,
            "layers_D": 1,
            "imsize_A": [16, 16, 16],
            "batch_size": 1,
            "steps": 12,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "validate_every": 4,
            "validation_patches": 4,
            "checkpoint_every": 4,
            "log_every": 1,
        }
        return parse_config(values | changes)

    return make
