"""The grey scale of an enhanced volume: that of the training, or else of the whole scan."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cyclegan import Trainer, load_generator, parse_config
from cyclegan.data import Volume, VolumeEntry
from cyclegan.enhance import enhance_array
from cyclegan.keep_best import KeepBest
from workbench import cli
from workbench.session import run

SHAPE = (24, 16, 16)
ROI = ((12, 22), (0, 16), (2, 14))
OPTION = ("--roi", "12:22,0:16,2:14")
CROP = tuple(slice(*limits) for limits in ROI)

Call = Callable[..., tuple[Any, str]]


def scan(mean: float, std: float, seed: int = 1) -> np.ndarray:
    """A scan whose second half is darker and has less contrast than the first."""
    volume = np.random.default_rng(seed).normal(size=SHAPE)
    volume[12:] = 0.8 * volume[12:] - 0.5
    return (mean + std * volume).astype(np.float32)


def write(name: str, array: np.ndarray) -> str:
    with h5py.File(name, "w") as handle:
        handle["data"] = array
    return name


def read(name: str) -> np.ndarray:
    with h5py.File(name) as handle:
        found: np.ndarray = handle["data"][:]
        return found


def own(array: np.ndarray) -> tuple[float, float]:
    exact = array.astype(np.float64)
    return float(exact.mean()), float(exact.std())


def enhanced(array: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return the generator's result for the whole array on a grey scale."""
    network = load_generator(Path("generator.pt")).network
    result: np.ndarray = enhance_array(network, (array.astype(np.float64) - scale[0]) / scale[1])
    return result


@pytest.fixture
def call(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Enhance with messages; return (the printed JSON, standard error)."""

    def enhance(*arguments: str) -> tuple[Any, str]:
        line = ["cyclegan", "enhance", *arguments, "--model", "generator.pt", "--json"]
        monkeypatch.setattr(sys, "argv", line)
        code = run(cli.app)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out), captured.err

    return enhance


def train(tiny: dict[str, Any], mean: float, std: float) -> tuple[float, float]:
    """Train on the first half of `a.h5`; return the generator and its grey scale."""
    write("a.h5", scan(mean, std))
    content = {
        "train": [{"path": "a.h5", "ROI0": [0, 12]}],
        "validate": [{"path": "a.h5", "ROI0": [12, 24]}],
    }
    Path("a.json").write_text(json.dumps(content))
    values = tiny | {"data_A": "a.json", "steps": 1}
    trainer = Trainer(parse_config(values), [KeepBest(Path("generator.pt"))])
    trainer.fit()
    (volume,) = trainer.data._volumes["A"]
    return volume.mean, volume.std


@pytest.mark.parametrize(
    ("mean", "std", "done"), [(300, 20, "standardised on load"), (0, 1, "left as it is")]
)
def test_a_scan_that_was_trained_on_keeps_the_grey_scale_of_the_training(
    call: Call, tiny: dict[str, Any], mean: float, std: float, done: str
) -> None:
    scale = train(tiny, mean, std)
    array = scan(mean, std)
    assert (scale == (0, 1)) == (mean == 0)
    assert max(np.abs(np.subtract(scale, own(array)))) > 0.1  # the whole would give another one
    _, told = call("a.h5", "--output", "whole.h5", "--no-trust")
    np.testing.assert_allclose(read("whole.h5"), enhanced(array, scale), atol=1e-4)
    data, told_of_roi = call("a.h5", "--output", "roi.h5", "--no-trust", *OPTION)
    np.testing.assert_allclose(read("roi.h5"), read("whole.h5")[CROP], atol=1e-5)
    measured = "[0:12, :, :] of this scan has mean"
    assert f"a.h5:data is {done}: {measured}" in told
    assert f"a.h5:data[12:22, :, 2:14] is {done}: {measured}" in told_of_roi
    assert told_of_roi.count("of this scan has") == 1
    assert "the generator was trained on that" in told_of_roi
    with h5py.File("roi.h5") as handle:
        attributes = dict(handle["data"].attrs)
    assert attributes["input_measured_on"] == "[0:12, :, :]"
    assert (attributes["input_mean"], attributes["input_std"]) == pytest.approx(own(array[:12]))
    assert attributes["input_standardised_on_load"] == (mean != 0)
    document = next(Path("mlruns").rglob(f"{data['run_id']}/**/enhanced.json"))
    recorded = json.loads(document.read_text())["grey_scale"]
    assert (recorded["mean"], recorded["std"]) == pytest.approx(scale)
    assert (recorded["measured_on"], recorded["trained_on"]) == (["[0:12, :, :]"], True)


def test_a_copy_of_it_elsewhere_does_so_too_and_a_changed_file_does_not(
    call: Call, tiny: dict[str, Any]
) -> None:
    scale = train(tiny, 300, 20)
    Path("far").mkdir()
    shutil.copy("a.h5", "far/b.h5")
    told = call("far/b.h5", "--output", "copy.h5", "--no-trust", "--no-report", *OPTION)[1]
    np.testing.assert_allclose(read("copy.h5"), enhanced(scan(300, 20), scale)[CROP], atol=1e-4)
    assert "trained on that, then " in told
    other = scan(500, 10, seed=2)
    write("a.h5", other)
    told = call("a.h5", "--output", "other.h5", "--no-trust", "--no-report", *OPTION)[1]
    np.testing.assert_allclose(read("other.h5"), enhanced(other, own(other))[CROP], atol=1e-4)
    assert "the file has changed since the generator was trained on it" in told


@pytest.mark.parametrize("old", [True, False])
def test_a_foreign_scan_has_one_grey_scale_whatever_region_is_enhanced(
    call: Call, tiny: dict[str, Any], old: bool
) -> None:
    train(tiny, 300, 20)
    if old:  # a file of the previous version
        state = torch.load("generator.pt", weights_only=True)
        del state["scans"]
        torch.save(state, "generator.pt")
    array = scan(700, 30, seed=3)
    write("b.h5", array)
    call("b.h5", "--output", "whole.h5", "--no-trust", "--no-report")
    told = call("b.h5", "--output", "roi.h5", "--no-trust", "--no-report", *OPTION)[1]
    np.testing.assert_allclose(read("whole.h5"), enhanced(array, own(array)), atol=1e-4)
    np.testing.assert_allclose(read("roi.h5"), read("whole.h5")[CROP], atol=1e-5)
    why = "does not say what it was trained on" if old else "the generator was not trained on it"
    assert "b.h5:data[12:22, :, 2:14] is standardised on load: it has mean" in told
    assert why in told


def test_halves_of_a_region_have_the_grey_scale_of_the_whole_halves(
    call: Call, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.enhancement import command

    train(tiny, 300, 20)
    halves = [write(f"{n}.h5", scan(300, 20, seed=n)) for n in (4, 5)]
    kept: list[Volume] = []
    original = command.judge

    def judge(*given: Any, **named: Any) -> Any:
        kept.extend(named["halves"]["input"])
        return original(*given, **named)

    monkeypatch.setattr(command, "judge", judge)
    options = [word for half in halves for word in ("--half", half)]
    call("a.h5", *options, "--output", "e.h5", "--no-trust", *OPTION)
    for half, name in zip(kept, halves, strict=True):
        whole = Volume(VolumeEntry(path=Path(name), dset="data"))
        assert (half.mean, half.std) == (whole.mean, whole.std)
        assert half.shape == (10, 16, 12)


def test_a_series_says_whose_numbers_its_frames_have(call: Call, tiny: dict[str, Any]) -> None:
    train(tiny, 300, 20)
    write("t.h5", np.stack([scan(300, 20, seed=n) for n in (6, 7)]))
    told = call("t.h5", "--series", "--output", "s.h5", "--no-trust", "--no-report", *OPTION)[1]
    assert "t.h5:data[12:22, :, 2:14] is standardised on load: it has mean" in told
    assert "all frames together have these" in told
    assert "frame_0" not in told
