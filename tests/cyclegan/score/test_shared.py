"""Trainings that are judged on the same patches share one score; no others do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cyclegan import Trainer, parse_config
from cyclegan.errors import DataError
from cyclegan.score import shared
from cyclegan.score.shared import _Last, shared_score


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_last", _Last())


def score_of(values: dict[str, Any], **changes: Any) -> Any:
    trainer = Trainer(parse_config(values | changes))
    trainer.data.close()
    return trainer.validator.score


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_g": 5e-3, "seed": 4, "run_name": "other"},
        {"filters": 4, "lambdas": {"C_A": 2.0}},
        {"steps": 40, "batch_size": 3},
    ],
)
def test_what_a_study_searches_does_not_build_another_score(
    tiny: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert score_of(tiny) is score_of(tiny, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"imsize_A": [16, 8, 8]},
        {"validation_patches": 5},
        {"net_A": "UNetSim3dSRx2", "net_B": "UNetSim3dSRd2", "super_resolution": 2},
    ],
)
def test_what_the_score_depends_on_does(tiny: dict[str, Any], changes: dict[str, Any]) -> None:
    first = score_of(tiny)
    other = score_of(tiny, **changes)
    assert other is not first
    assert score_of(tiny) is not first  # only the last one is kept


def test_other_data_in_the_same_file_build_another_score(
    tiny: dict[str, Any], datasets: tuple[Path, Path], tmp_path: Path
) -> None:
    """The values of the patches count, not the names of files."""
    for path in datasets[1].parent.glob("slow*"):
        shutil.copy(path, tmp_path)
    copy = {"data_B": str(tmp_path / "slow.json")}
    same = score_of(tiny)
    assert score_of(tiny, **copy) is same
    with h5py.File(tmp_path / "slow_validate.h5", "r+") as handle:
        handle["data"][...] = handle["data"][()][::-1]
    assert score_of(tiny, **copy) is not same


def patches(seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(size=(4, 1, 8, 8, 8)).astype(np.float32))


def test_one_voxel_halves_and_settings_of_pytorch_count() -> None:
    a, b = patches(1), patches(2)
    first = shared_score(a, b, [a, b], 1)
    assert shared_score(a.clone(), b.clone(), [a, b], 1) is first
    changed = a.clone()
    changed[3, 0, 7, 7, 7] += 1e-6
    assert shared_score(a, b, [changed, b], 1) is not first
    again = shared_score(a, b, [a, b], 1)
    with_halves = shared_score(a, b, [a, b], 1, (a, changed))
    assert with_halves is not again
    assert with_halves.halves is not None
    alone = shared_score(a, b, [a, b], 1)
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        assert shared_score(a, b, [a, b], 1) is not alone
    finally:
        matmul.allow_tf32 = before


def test_a_shared_score_gives_the_numbers_of_an_own_one(tiny: dict[str, Any]) -> None:
    def losses(fresh: Callable[[], None]) -> list[Any]:
        fresh()
        trainer = Trainer(parse_config(tiny | {"seed": 7}))
        trainer.fit()
        assert trainer.last_report is not None
        rows = trainer.history.rows()
        return [dict(trainer.last_report.metrics), [row.values for row in rows]]

    score_of(tiny)
    shared_one = losses(lambda: None)
    own = losses(lambda: setattr(shared, "_last", _Last()))
    assert shared_one == own


def test_patches_that_do_not_match_are_refused_and_leave_nothing(tiny: dict[str, Any]) -> None:
    a, b = patches(1), patches(2)
    for _ in range(2):
        with pytest.raises(DataError):
            shared_score(a, b, [a, b[..., :4]], 1)
    assert shared_score(a, b, [a, b], 1) is shared_score(a, b, [a, b], 1)
