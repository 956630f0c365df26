"""The predicted disk space is what trainings really write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyclegan import Trainer, parse_config
from cyclegan.footprint import checkpoint_bytes, generator_bytes, state_bytes, what_fits
from cyclegan.generator import save_generators


@pytest.mark.parametrize(
    "changes",
    [
        {"filters": 8},
        {"filters": 4, "filters_D": 16, "norm_D": "batch"},
        {"filters": 8, "norm_D": "none", "spectral_norm_D": True},
        {"filters": 4, "pool_size": 5, "steps": 30},
        {"net_A": "UNetSim3dSRx2", "net_B": "UNetSim3dSRd2", "super_resolution": 2, "filters": 8},
    ],
    ids=["plain", "batch norm", "spectral norm", "pool", "2x"],
)
def test_a_checkpoint_is_as_large_as_computed(
    tiny: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = parse_config(tiny | changes)
    trainer = Trainer(config, folder=tmp_path)
    trainer.fit()
    size = (tmp_path / "checkpoint.pt").stat().st_size
    assert size == pytest.approx(checkpoint_bytes(config), rel=0.15)
    save_generators(trainer.model, tmp_path / "generator.pt", step=1)
    size = (tmp_path / "generator.pt").stat().st_size
    assert size == pytest.approx(generator_bytes(config), rel=0.15)


@pytest.mark.parametrize(
    ("changes", "share", "clause"),
    [
        ({"batch_size": 4}, 0.6, "batch_size = 2 may fit (now batch_size = 4, imsize_A = [64, "),
        ({"batch_size": 2}, 0.99, "batch_size = 1 may fit"),
        ({"batch_size": 1}, 0.5, "imsize_A = [48, 48, 48] may fit"),
        ({"batch_size": 1, "imsize_A": [32, 64, 64]}, 0.5, "imsize_A = [24, 52, 52] may fit"),
        ({"batch_size": 1, "imsize_A": [8, 8, 8]}, 0.5, "lower filters or filters_D (now 2 and 4)"),
    ],
)
def test_a_training_that_ran_out_of_memory_is_told_what_may_fit(
    tiny: dict[str, Any], changes: dict[str, Any], share: float, clause: str
) -> None:
    config = parse_config(tiny | {"imsize_A": [64, 64, 64]} | changes)
    fixed, batch = state_bytes(config), 10**9
    found = what_fits(config, fixed + batch, fixed + int(share * batch))
    assert found.startswith(clause)


def test_what_may_fit_is_honest_about_what_is_unknown_and_about_large_networks(
    tiny: dict[str, Any],
) -> None:
    config = parse_config(tiny)
    assert what_fits(config, None, 10**9).startswith("lower batch_size, imsize_A or filters (now")
    small = state_bytes(config) // 2
    found = what_fits(config, 4 * small, small)
    assert found.startswith("its networks and optimizers alone take")
    assert "lower filters or filters_D" in found
