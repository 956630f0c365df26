"""Runs as trainings and enhancements leave them, but without any training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cyclegan.model import IMAGES
from tracking import Run, Store
from tracking.cycle_volumes import write_cycle
from tracking.views import CYCLE_PICTURES
from viz.pictures import six_images
from workbench import cli
from workbench.session import run as run_app

SHAPE = (2, 1, 16, 16, 16)
HASHES = {"A": "aaaa1111bbbb2222", "B": "cccc3333dddd4444"}


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def six(seed: int, *, input_seed: int = 0, scale: int = 1) -> dict[str, np.ndarray]:
    """Return the images of a cycle; real ones are the same for all seeds by default."""
    coarse, fine = SHAPE, (*SHAPE[:2], *(scale * n for n in SHAPE[2:]))
    truth = gaussian_filter(noise(100, fine), (0, 0, 1.5, 1.5, 1.5)) * 8
    made = {
        "real_A": noise(input_seed, coarse),
        "real_B": noise(50, fine),
        "fake_B": (truth + 0.2 * noise(seed, fine)).astype(np.float32),
        "rec_B": noise(seed + 1000, fine),
        "fake_A": noise(seed + 2000, coarse),
        "rec_A": noise(seed + 3000, coarse),
    }
    return {name: made[name] for name in IMAGES}


@pytest.fixture
def make_run(project: Path, tmp_path: Path) -> Callable[..., Run]:
    """Make a run of a training; `seed` determines its images, None means none."""

    def make(
        name: str,
        seed: int | None = 1,
        *,
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        scores: tuple[float, ...] = (-3.0, -1.0, -2.0),
        file: str = "cycle_{:08d}.h5",
        pictures: bool = False,
        **images: Any,
    ) -> Run:
        hashes = HASHES if data is None else data
        given = {f"data_hash.{domain}": value for domain, value in hashes.items()}
        run = Store.open().create_run(
            "train",
            name,
            kind="train",
            params={"lr_g": 1e-3, "lambdas.C_A": 10, "steps": 30, **(params or {})},
            tags={**given, "outcome": "completed", **(tags or {})},
        )
        for i, score in enumerate(scores, start=1):
            values = {"score": score, "score/shell_gain": score / 10, "loss/C_A_l1": 1.0 / i}
            run.log_metrics({**values, "step": 10.0 * i}, step=10 * i)
        for iteration in (20, 30) if seed is not None else ():
            found = six(seed if iteration == 20 else seed + 500, **images)
            path = tmp_path / file.format(iteration)
            write_cycle(path, found, {"iteration": iteration})
            run.log_file(path, "volumes")
        if pictures:
            tensors = {n: torch.from_numpy(image) for n, image in six(seed or 0, **images).items()}
            run.log_image(six_images(tensors), CYCLE_PICTURES, 20)
        run.finish("FINISHED")
        return run

    return make


@pytest.fixture
def make_enhancement(project: Path) -> Callable[..., Run]:
    """Make a run that enhanced a volume; `seed` determines it, None means a missing file."""

    def make(
        name: str, seed: int | None, shape: tuple[int, ...] = (40, 44, 36), **params: str
    ) -> Run:
        if seed is not None:
            with h5py.File(f"{name}.h5", "w") as file:
                volume = gaussian_filter(noise(7, shape), 1.5) * 8 + 0.2 * noise(seed, shape)
                file.create_dataset("data", data=volume, chunks=tuple(16 for _ in shape))
        run = Store.open().create_run(
            "enhance",
            name,
            kind="enhance",
            params={"volume": "fast.h5", "roi": "[]", "output": f"{name}.h5"} | params,
            tags={},
        )
        run.log_metrics({"psnr/enhanced": 20.0 + (seed or 0)})
        run.finish("FINISHED")
        return run

    return make


@pytest.fixture
def call(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `cyclegan compare` in this process: (exit code, standard output, standard error)."""

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", "compare", *arguments])
        code = run_app(cli.app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.fixture
def compare(call: Any) -> Callable[..., dict[str, Any]]:
    """Return the result of `cyclegan compare --json`."""

    def as_data(*arguments: str) -> dict[str, Any]:
        code, out, err = call(*arguments, "--json")
        assert code == 0, err
        data: dict[str, Any] = json.loads(out)
        return data

    return as_data
