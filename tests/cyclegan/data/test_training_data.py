"""Both domains of a training: shared memory, channels, grey scales, raw data."""

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

from cyclegan import Callback, Trainer, parse_config
from cyclegan.data.training_data import TrainingData
from cyclegan.generator import load_generator, save_generators

Blobs = Callable[..., np.ndarray]


def dataset(folder: Path, name: str, volumes: dict[str, np.ndarray]) -> str:
    """A dataset JSON with one volume per part."""
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
            # The first block is where validation patches come from: all zeros would be refused.
            for z, y, x in [(0, 0, 0), *random.integers(0, side // 32, (8, 3)) * 32]:
                # Surrounded by the fill value, so that the rest is background and not a hole.
                block = np.pad(random.integers(0, 99, (30, 30, 30)), 1)
                data[z : z + 32, y : y + 32, x : x + 32] = block
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


# -- one grey scale per scan ------------------------------------------------------------------

CONTRAST = {0.0: (0.0, 1.0), 5_000.0: (5_000.0, 300.0)}


def one_scan(
    folder: Path, make_blobs: Blobs, mean: float, std: float, train: list[list[int]], **other: Any
) -> str:
    """A dataset JSON of one file; its last third is darker and flatter than the rest."""
    volume = make_blobs(1, 0.5, (48, 20, 20))
    for slab, offset, factor in ((slice(0, 32), 0.0, 1.0), (slice(32, 48), -0.2, 0.8)):
        part = volume[slab]
        volume[slab] = offset + factor * (part - part.mean()) / part.std()
    with h5py.File(folder / "scan.h5", "w") as handle:
        handle["data"] = (mean + std * volume).astype(np.float32)
    content = {
        "train": [{"path": "scan.h5", "ROI0": limits} for limits in train],
        "validate": [{"path": "scan.h5", "ROI0": [32, 48], **other}],
    }
    (folder / "scan.json").write_text(json.dumps(content))
    return str(folder / "scan.json")


def opened(data: TrainingData, config: Any, entries: Any) -> list[tuple[float, float]]:
    return [(v.mean, v.std) for v in data.volumes(config, "A", entries)]


@pytest.mark.parametrize("mean", CONTRAST)
@pytest.mark.parametrize("train", [[[0, 32]], [[0, 16], [16, 32]], [[0, 20], [24, 44]]])
def test_validation_has_the_grey_scale_of_the_regions_that_are_trained_on(
    tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs, mean: float, train: list[list[int]]
) -> None:
    path = one_scan(tmp_path, make_blobs, *CONTRAST[mean], train)
    config = parse_config(tiny | {"data_A": path})
    trainer = Trainer(config)
    ((m, s),) = {(v.mean, v.std) for v in trainer.data._volumes["A"]}  # one for all of them
    with h5py.File(tmp_path / "scan.h5") as handle:
        raw = handle["data"][...].astype(np.float64)
    trained = np.concatenate([raw[first:end] for first, end in train])
    measured = trained.mean(), trained.std()
    assert (m, s) == ((0, 1) if not mean else pytest.approx(measured, rel=1e-9))
    assert opened(trainer.data, config, trainer.data.spec_A.validate) == [(m, s)]
    region = ((raw[32:] - m) / s).astype(np.float32)
    for patch in trainer.validator.patches_A.numpy()[:, 0]:
        corners = np.argwhere(np.abs(region - patch[0, 0, 0]) < 1e-5)
        cuts = (region[z : z + 8, y : y + 8, x : x + 8] for z, y, x in corners)
        assert any(c.shape == patch.shape and np.allclose(c, patch, atol=1e-4) for c in cuts)


def test_a_file_that_is_only_validated_on_keeps_its_own_grey_scale(
    raw_values: dict[str, Any],
) -> None:
    config = parse_config(raw_values)
    data = TrainingData(config, torch.device("cpu"))
    (trained,) = data._volumes["A"]
    (judged,) = data.volumes(config, "A", data.spec_A.validate)
    assert (judged.mean, judged.std) == (judged.statistics.mean, judged.statistics.std)
    assert (judged.mean, judged.std) != (trained.mean, trained.std)


@pytest.mark.parametrize("apart", [True, False])
def test_halves_keep_their_own_unless_they_are_the_scan_that_is_trained_on(
    tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs, apart: bool
) -> None:
    names = ["even.h5", "odd.h5"] if apart else ["scan.h5", "odd.h5"]
    path = one_scan(tmp_path, make_blobs, 5_000, 300, [[0, 32]], halves=names)
    for seed, name in enumerate(("even.h5", "odd.h5")):
        with h5py.File(tmp_path / name, "w") as handle:
            handle["data"] = 7_000 + 100 * make_blobs(seed, 0.5, (48, 20, 20))
    config = parse_config(tiny | {"data_A": path})
    data = TrainingData(config, torch.device("cpu"))
    (trained,) = data._volumes["A"]
    halves = [entry.half(number) for entry in data.spec_A.validate for number in (0, 1)]
    (first,), (second,) = (data.volumes(config, "A", [half]) for half in halves)
    assert ((first.mean, first.std) == (trained.mean, trained.std)) is not apart
    assert second.has_own_scale
    assert first.has_own_scale is apart


class _Stop(Callback):
    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        if trainer.step == 3:
            trainer.request_stop("SIGTERM", outcome="interrupted")


def test_a_training_on_parts_of_a_scan_resumes_bit_for_bit(
    tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs
) -> None:
    path = one_scan(tmp_path, make_blobs, 5_000, 300, [[0, 14], [16, 32]])
    config = parse_config(tiny | {"data_A": path, "steps": 6})
    whole = Trainer(config)
    score = whole.fit().score
    Trainer(config, [_Stop()], tmp_path).fit()
    again = Trainer(config, folder=tmp_path)
    assert again.fit(resume=tmp_path / "checkpoint.pt").score == score
    one, other = ([row.values for row in trainer.history.rows()] for trainer in (whole, again))
    assert one == other
    assert again.data.scans() == whole.data.scans()


def test_a_checkpoint_decides_where_the_same_file_is_measured_otherwise_now(
    tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs
) -> None:
    path = one_scan(tmp_path, make_blobs, 5_000, 300, [[0, 20], [24, 44]])
    config = parse_config(tiny | {"data_A": path})
    trainer = Trainer(config)
    state = trainer.state_dict()
    (stored,) = state["scans"]["A"]
    stored["mean"] += 300.0  # as if another version had measured it; different enough to be seen
    before = trainer.validator.patches_A.clone()
    trainer.load_state_dict(state)
    assert {v.mean for v in trainer.data._volumes["A"]} == {stored["mean"]}
    shift = 300 / stored["std"]
    torch.testing.assert_close(trainer.validator.patches_A, before - shift, rtol=1e-4, atol=1e-4)
    assert trainer.data.scans() == state["scans"]
    # Another file of that name is not the scan that was measured.
    one_scan(tmp_path, make_blobs, 9_000, 300, [[0, 20], [24, 44]])
    other = Trainer(config)
    other.load_state_dict(state)
    assert {round(v.mean, -3) for v in other.data._volumes["A"]} == {9_000}


@pytest.mark.parametrize("parts", [True, False])
def test_a_checkpoint_of_an_earlier_version_resumes_and_what_changes_is_said(
    tiny: dict[str, Any],
    tmp_path: Path,
    make_blobs: Blobs,
    caplog: pytest.LogCaptureFixture,
    parts: bool,
) -> None:
    path = one_scan(tmp_path, make_blobs, 5_000, 300, [[0, 32]])
    trainer = Trainer(parse_config(tiny | ({"data_A": path} if parts else {})))
    state = trainer.state_dict()
    del state["scans"]
    trainer.load_state_dict(state)
    assert ("standardised every region separately" in caplog.text) == parts
    assert ("scan.h5:data[32:48, :, :] shares one grey scale" in caplog.text) == parts
    assert trainer.fit().outcome == "completed"


def test_a_generator_knows_the_scans_it_was_trained_on_and_an_old_one_loads(
    tiny: dict[str, Any], tmp_path: Path, make_blobs: Blobs
) -> None:
    path = one_scan(tmp_path, make_blobs, 5_000, 300, [[0, 20], [24, 44]])
    trainer = Trainer(parse_config(tiny | {"data_A": path}), folder=tmp_path)
    trainer.save_checkpoint()
    save_generators(trainer.model, tmp_path / "g.pt", step=1, scans=trainer.data.scans())
    for name in ("g.pt", "checkpoint.pt"):
        (scan,) = load_generator(tmp_path / name).scans["A"]
        volume = trainer.data._volumes["A"][0]
        assert (scan.statistics.mean, scan.statistics.std) == (volume.mean, volume.std)
        assert scan.place.path == (tmp_path / "scan.h5").resolve()
        assert scan.regions == ("[0:20, :, :]", "[24:44, :, :]")
        assert scan.fingerprint
        state = torch.load(tmp_path / name, weights_only=True)
        del state["scans"]
        torch.save(state, tmp_path / f"old_{name}")
        assert load_generator(tmp_path / f"old_{name}").scans == {}
