"""Both domains of a training: shared memory, channels, grey scales, what raw data becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cyclegan import Trainer, parse_config
from cyclegan.generator import load_generator, save_generators
from cyclegan.training_data import TrainingData

Blobs = Callable[..., np.ndarray]


def dataset(folder: Path, name: str, volumes: dict[str, np.ndarray]) -> str:
    """A dataset JSON with one volume a part."""
    for part, volume in volumes.items():
        with h5py.File(folder / f"{name}_{part}.h5", "w") as handle:
            handle["data"] = volume
    entries = {part: [{"path": f"{name}_{part}.h5", "dset": "data"}] for part in volumes}
    (folder / f"{name}.json").write_text(json.dumps(entries))
    return str(folder / f"{name}.json")


def raw(make_blobs: Blobs, seed: int, noise: float) -> np.ndarray:
    """CT numbers with a large offset, two of them not finite."""
    volume = 30_000 + 250 * make_blobs(seed, noise)
    volume[3, 4, 5], volume[9, 9, 9] = np.nan, np.inf
    return volume


@pytest.fixture
def raw_values(tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs) -> dict[str, Any]:
    def parts(seed: int, noise: float) -> dict[str, np.ndarray]:
        names = enumerate(("train", "validate"))
        return {part: raw(make_blobs, seed + i, noise) for i, part in names}

    paths = {
        f"data_{d}": dataset(tmp_path, d, parts(i, n))
        for i, (d, n) in enumerate((("A", 0.8), ("B", 0.05)))
    }
    return tiny | paths


def test_raw_volumes_train_standardised_and_their_grey_scale_is_kept(
    raw_values: dict[str, Any], tmp_path: Path
) -> None:
    trainer = Trainer(parse_config(raw_values), folder=tmp_path)
    trainer.fit()
    values = torch.cat([trainer.data.next()[0] for _ in range(200)])
    assert abs(float(values.mean())) < 0.2
    assert 0.8 < float(values.std()) < 1.2
    assert bool(values.isfinite().all())
    save_generators(
        trainer.model, tmp_path / "g.pt", step=1, grey_scales=trainer.data.grey_scales()
    )
    for name in ("g.pt", "checkpoint.pt"):
        scale = load_generator(tmp_path / name).grey_scales["B"]
        assert scale["mean"] == pytest.approx(30_000, abs=5)
        assert scale["std"] == pytest.approx(250, rel=0.02)


def test_standardised_volumes_have_no_other_grey_scale(tiny: dict[str, Any]) -> None:
    assert TrainingData(parse_config(tiny), torch.device("cpu")).grey_scales() == {}


def test_one_budget_serves_both_domains_and_what_is_named_twice_is_held_once(
    tiny: dict[str, Any], make_blobs: Blobs
) -> None:
    size = make_blobs(1, 0.8).nbytes
    same = parse_config(tiny | {"data_B": tiny["data_A"], "memory_budget_gb": 1.5 * size / 1e9})
    data = TrainingData(same, torch.device("cpu"))
    assert all(v.in_memory for d in "AB" for v in data._volumes[d])
    del data  # what it held is free again
    apart = parse_config(tiny | {"memory_budget_gb": 1.5 * size / 1e9})
    data = TrainingData(apart, torch.device("cpu"))
    assert [v.in_memory for d in "AB" for v in data._volumes[d]] == [True, False]


def test_read_from_the_file_the_training_is_the_same(tiny: dict[str, Any]) -> None:
    def losses(budget: float) -> list[dict[str, float]]:
        trainer = Trainer(parse_config(tiny | {"memory_budget_gb": budget, "steps": 5}))
        trainer.fit()
        return [row.values for row in trainer.history.rows()]

    assert losses(0.0) == losses(1.0)


@pytest.mark.parametrize(("channels_A", "channels_B"), [(2, 2), (2, 1), (1, 3)])
def test_domains_with_several_channels_train(
    tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs, channels_A: int, channels_B: int
) -> None:
    def stack(seed: int, noise: float, channels: int) -> np.ndarray:
        return np.stack([make_blobs(seed + 10 * c, noise) for c in range(channels)])

    values = tiny | {"channels_A": channels_A, "channels_B": channels_B, "steps": 4}
    for i, (domain, channels) in enumerate((("A", channels_A), ("B", channels_B))):
        noise = 0.8 if domain == "A" else 0.05
        parts = {p: stack(i + j, noise, channels) for j, p in enumerate(("train", "validate"))}
        values[f"data_{domain}"] = dataset(tmp_path, domain, parts)
    if channels_A != channels_B:
        values["lambdas"] = values["lambdas"] | {"I_A": 0, "I_B": 0}
    values["lossChannels"] = {"C_A": [[channels_A - 1]]}
    trainer = Trainer(parse_config(values))
    result = trainer.fit()
    assert result.outcome == "completed"
    assert result.score is not None
    assert trainer.images["fake_B"].shape[1] == channels_B
    assert trainer.images["fake_A"].shape[1] == channels_A


_TRAIN = r"""
import json, re, sys
from pathlib import Path
from cyclegan import Trainer, load_config
result = Trainer(load_config(sys.argv[1])).fit()
# Not getrusage: its peak begins with that of the process that started this one.
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"outcome": result.outcome, "peak": peak}))
"""


@pytest.mark.slow
def test_a_sparse_volume_of_4096_cubed_trains_in_the_memory_of_a_small_one(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def trained(side: int) -> float:
        random = np.random.default_rng(0)
        with h5py.File(tmp_path / f"{side}.h5", "w") as handle:
            chunks = {"chunks": (32, 32, 32), "compression": "gzip"}
            data = handle.create_dataset("data", (side,) * 3, "f4", **chunks)
            for z, y, x in random.integers(0, side // 32, (8, 3)) * 32:
                data[z : z + 32, y : y + 32, x : x + 32] = random.integers(0, 99, (32, 32, 32))
            # Validation patches come from here: all zeros would be refused as constant.
            data[:32, :32, :32] = random.integers(0, 99, (32, 32, 32))
        roi = {f"ROI{axis}": [0, 32] for axis in range(3)}
        entry = {"path": f"{side}.h5", "dset": "data"}
        spec = {"train": [entry], "validate": [entry | roi]}
        (tmp_path / f"{side}.json").write_text(json.dumps(spec))
        path = str(tmp_path / f"{side}.json")
        values = tiny | {"data_A": path, "data_B": path, "steps": 6, "memory_budget_gb": 0.05}
        (tmp_path / f"{side}.yaml").write_text(parse_config(values).to_yaml())
        line = [sys.executable, "-c", _TRAIN, str(tmp_path / f"{side}.yaml")]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        assert found["outcome"] == "completed"
        return float(found["peak"])

    small, large = trained(64), trained(4096)
    assert large < small + 50
