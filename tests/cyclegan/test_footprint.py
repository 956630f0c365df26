"""The predicted disk space is what trainings really write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyclegan import Trainer, parse_config
from cyclegan.footprint import checkpoint_bytes, generator_bytes
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
