"""Validation of a training whose validation volume has half scans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cyclegan import Trainer, parse_config
from cyclegan.errors import DataError


def with_halves(
    tmp_path: Path, datasets: tuple[Path, Path], make_blobs: Callable[..., np.ndarray], cut: int = 0
) -> Path:
    """Domain A's dataset with halves of the validation volume, the second `cut` slices short."""
    structure = make_blobs(2, 0.0)
    for seed, name in ((5, "even"), (6, "odd")):
        noisy = structure + 0.9 * np.random.default_rng(seed).normal(size=structure.shape)
        with h5py.File(tmp_path / f"{name}.h5", "w") as handle:
            handle["data"] = noisy[cut if name == "odd" else 0 :].astype(np.float32)
    content = json.loads(datasets[0].read_text())
    for entry in (*content["train"], *content["validate"]):
        entry["path"] = str(datasets[0].parent / entry["path"])
    content["validate"][0]["halves"] = ["even.h5", "odd.h5"]
    path = tmp_path / "halves.json"
    path.write_text(json.dumps(content))
    return path


def test_halves_are_cut_at_the_same_places_and_their_gain_is_logged(
    tmp_path: Path,
    datasets: tuple[Path, Path],
    make_blobs: Callable[..., np.ndarray],
    tiny: dict[str, Any],
) -> None:
    path = with_halves(tmp_path, datasets, make_blobs)
    trainer = Trainer(parse_config(tiny | {"data_A": str(path), "steps": 4}))
    halves = trainer.validator.score.halves
    assert halves is not None
    first, second = halves.inputs.chunk(2)
    # Both halves show one structure with independent noise; elsewhere they would not correlate.
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.4
    trainer.fit()
    report = trainer.last_report
    assert report is not None
    assert report.gate is not None or "score/cross_half_gain_db" in report.metrics


def test_without_halves_there_is_no_such_part(tiny: dict[str, Any]) -> None:
    assert Trainer(parse_config(tiny)).validator.score.halves is None


def test_halves_of_different_shapes_are_refused_by_name(
    tmp_path: Path,
    datasets: tuple[Path, Path],
    make_blobs: Callable[..., np.ndarray],
    tiny: dict[str, Any],
) -> None:
    path = with_halves(tmp_path, datasets, make_blobs, cut=3)
    with pytest.raises(
        DataError, match=r"halves.json: the halves have shapes .*halves of one scan"
    ):
        Trainer(parse_config(tiny | {"data_A": str(path)}))
