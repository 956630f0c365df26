"""The command `enhance`: several volumes, a series, a region, units, trust maps, and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, zoom

from cyclegan import parse_config
from cyclegan.enhance import enhance_array
from cyclegan.enhance.partial import part_folder
from cyclegan.errors import BusyError, UsageError
from cyclegan.generator import load_generator, save_generators
from cyclegan.metrics.quality import QualityRow, verdict
from cyclegan.model import CycleGAN
from tracking import Store
from workbench import cli
from workbench.enhancement import command
from workbench.enhancement.request import parse_roi, parse_tile
from workbench.session import run

SHAPE = (16, 20, 24)


def blobs(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def standardised(volume: np.ndarray) -> np.ndarray:
    return ((volume - volume.mean()) / volume.std()).astype(np.float32)


def write(path: str, array: np.ndarray, name: str = "data") -> str:
    with h5py.File(path, "w") as handle:
        handle[name] = array
        handle[name].attrs["voxel_size_um"] = 0.7
    return path


def read(path: str, name: str = "data") -> np.ndarray:
    with h5py.File(path) as handle:
        found: np.ndarray = handle[name][:]
        return found


def test_the_volume_comes_with_trust_maps_a_picture_and_a_report(enhance: Any) -> None:
    image = blobs(1)
    code, data, err = enhance(write("a.h5", image), "--output", "out/e.h5")
    assert (code, err) == (0, "")
    expected = enhance_array(load_generator(Path("generator.pt")).network, standardised(image))
    np.testing.assert_allclose(read("out/e.h5"), expected, atol=1e-4)
    assert "trust/consistency" in data["trust"]
    with h5py.File("out/e.h5") as handle:
        for name in data["trust"]:
            assert np.isfinite(handle[name][:]).all()
            assert handle[name][:].std() > 0
        attributes = dict(handle["data"].attrs)
    assert (attributes["model"], attributes["step"]) == ("generator.pt", 7)
    assert (attributes["precision"], attributes["target_domain_mean"]) == ("fp32", 1000)
    assert attributes["source"] == "a.h5:data"
    assert Path(data["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "<html" in Path(data["report"]).read_text().lower()
    code, data, _ = enhance("a.h5", "--output", "plain.h5", "--no-trust")
    assert (code, data["trust"]) == (0, [])
    np.testing.assert_array_equal(read("plain.h5"), read("out/e.h5"))


@pytest.mark.slow
def test_several_volumes_go_into_a_folder_and_finished_ones_are_kept(enhance: Any) -> None:
    volumes = [write(f"{name}.h5", blobs(n)) for n, name in enumerate("abc")]
    line = [*volumes, "--output", "out", "--no-trust"]
    code, data, err = enhance(*line)
    assert code == 0, err
    assert [v["output"] for v in data["volumes"]] == ["out/a.h5", "out/b.h5", "out/c.h5"]
    network = load_generator(Path("generator.pt")).network
    for n, name in enumerate("abc"):
        expected = enhance_array(network, standardised(blobs(n)))
        np.testing.assert_allclose(read(f"out/{name}.h5"), expected, atol=1e-4)
    Path("out/b.h5").unlink()
    kept = Path("out/a.h5").stat().st_mtime_ns
    code, data, err = enhance(*line)
    assert code == 0, err
    assert [v["resumed"] == v["tiles"] for v in data["volumes"]] == [True, False, True]
    assert Path("out/a.h5").stat().st_mtime_ns == kept
    write("a.h5", blobs(9))
    code, _, err = enhance(*line)
    assert (code, "out/a.h5" in err, "--overwrite" in err) == (1, True, True)


def test_a_series_and_a_region(enhance: Any) -> None:
    frames = np.stack([blobs(n) for n in range(3)])
    code, data, err = enhance(write("t.h5", frames), "--series", "--output", "s.h5")
    assert code == 0, err
    assert data["shape"] == [3, *SHAPE]
    whole = read("s.h5")
    expected = enhance_array(load_generator(Path("generator.pt")).network, standardised(frames)[1])
    np.testing.assert_allclose(whole[1], expected, atol=1e-4)
    roi = ("--roi", "2:9,0:20,11:24")
    code, data, err = enhance("t.h5", "--series", "--output", "r.h5", *roi)
    assert code == 0, err
    np.testing.assert_allclose(read("r.h5"), whole[:, 2:9, :, 11:24], atol=1e-5)
    np.testing.assert_allclose(
        read("r.h5", "trust/cycle"), read("s.h5", "trust/cycle")[:, 2:9, :, 11:24], atol=1e-5
    )


def test_a_region_of_a_volume_is_measured_against_that_of_the_reference(enhance: Any) -> None:
    line = [write("a.h5", blobs(1)), "--reference", write("ref.h5", blobs(2))]
    roi = ("--roi", "2:14,0:16,8:24")
    code, data, err = enhance(*line, "--output", "e.h5", "--no-trust", *roi)
    assert code == 0, err
    assert data["shape"] == [12, 16, 16]
    write("cut.h5", blobs(2)[2:14, :16, 8:])
    code, cut, err = enhance(
        "a.h5", "--reference", "cut.h5", "--output", "f.h5", "--no-trust", *roi
    )
    assert code == 0, err
    for one, other in zip(data["quality"], cut["quality"], strict=True):
        assert one["psnr"] == pytest.approx(other["psnr"], abs=0.01)
    write("wrong.h5", blobs(2, (9, 9, 9)))
    code, _, err = enhance("a.h5", "--reference", "wrong.h5", "--output", "g.h5", "--no-trust")
    assert (code, "the same region and resolution" in err) == (1, True)
    assert not Path("g.h5").exists()


def test_a_finer_result_is_measured_against_a_reference_of_its_own_resolution(
    project: Path,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    doubled = {"net_A": "UNetSim3dSRx2", "net_B": "UNetSim3dSRd2", "super_resolution": 2}
    config = parse_config(tiny | doubled)
    save_generators(CycleGAN(config, torch.device("cpu")), project / "x2.pt", step=7)
    coarse = blobs(1, (12, 12, 12))
    write("a.h5", coarse)
    truth = zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)
    write("ref.h5", truth)
    line = ["cyclegan", "enhance", "a.h5", "--model", "x2.pt", "--output", "e.h5", "--quiet"]
    monkeypatch.setattr(sys, "argv", [*line, "--json", "--reference", "ref.h5"])
    assert run(cli.app) == 0
    data = json.loads(capsys.readouterr().out)
    assert read("e.h5").shape == truth.shape
    psnr = {row["name"]: row["psnr"] for row in data["quality"]}
    assert psnr["input"] > 60  # the interpolated input equals that reference
    assert psnr["best Gaussian"] >= psnr["input"]
    assert Path("e.png").is_file()


def test_grey_values_in_the_units_of_the_input_or_of_the_training_s_target(enhance: Any) -> None:
    write("a.h5", 300 + 20 * blobs(1))
    results = {}
    for units in ("standardised", "input", "target"):
        code, _, err = enhance("a.h5", "--output", f"{units}.h5", "--no-trust", "--units", units)
        assert code == 0, err
        results[units] = read(f"{units}.h5")
    source = 300 + 20 * blobs(1).astype(np.float64)
    for units, (mean, std) in {
        "input": (source.mean(), source.std()),
        "target": (1000.0, 50.0),
    }.items():
        np.testing.assert_allclose(results[units], mean + std * results["standardised"], rtol=1e-4)


def test_target_units_of_a_model_that_does_not_know_them(enhance: Any, tiny: Any) -> None:
    import torch

    save_generators(CycleGAN(parse_config(tiny), torch.device("cpu")), Path("generator.pt"), step=1)
    code, _, err = enhance(write("a.h5", blobs(1)), "--output", "e.h5", "--units", "target")
    assert (code, err.count("\n")) == (2, 1)
    assert "--units target" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--roi", "0:4,0:4"], ["--roi 0:4,0:4", "three ranges"]),
        (["--roi", "0:4,4:4,0:9"], ["--roi"]),
        (["--roi", "0:4,0:4,0:99"], ["--roi ends at 99 along X", "24"]),
        (["--units", "hounsfield"], ["--units hounsfield", "standardised"]),
        (["--precision", "fp16"], ["--precision fp16", "bf16"]),
        (["--compression", "zip"], ["--compression zip", "gzip"]),
        (["--memory-gb", "0"], ["--memory-gb"]),
        (["--memory-gb", "0.01"], ["--memory-gb"]),
        (["--tile", "30,30,30"], ["multiples of"]),
        (["--series"], ["--series", "(T, Z, Y, X)"]),
        (["b.h5"], ["e.h5", "folder"]),
        (["--half", "b.h5"], ["--half", "two halves"]),
        (["--half", "b.h5", "--half", "missing.h5"], ["missing.h5", "no such file"]),
        (["--other-model", "generator.pt", "--no-trust"], ["--other-model", "--no-trust"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    enhance: Any, arguments: list[str], words: list[str]
) -> None:
    for name in "ab":
        write(f"{name}.h5", blobs(1))
    before = {p.name for p in Path().iterdir()} | {"mlruns"}
    code, _, err = enhance("a.h5", *arguments, "--output", "e.h5")
    assert code in (1, 2)
    assert (err.startswith("error: "), err.count("\n")) == (True, 1), err
    for word in words:
        assert word in err
    assert {p.name for p in Path().iterdir()} | {"mlruns"} == before


def test_half_scans_give_the_report_a_shell_correlation_of_input_and_result(
    enhance: Any,
) -> None:
    signal_ = gaussian_filter(np.random.default_rng(3).normal(size=(32, 32, 32)), 2)
    signal_ /= signal_.std()
    noise = [0.5 * blobs(seed, (32, 32, 32)) for seed in (4, 5)]
    halves = [write(f"{n}.h5", signal_ + noise[i]) for i, n in enumerate(("even", "odd"))]
    whole = write("whole.h5", signal_ + sum(noise) / 2)
    options = [word for half in halves for word in ("--half", half)]
    code, data, err = enhance(whole, *options, "--output", "e.h5", "--no-trust")
    assert (code, err) == (0, "")
    page = Path(data["report"]).read_text()
    assert "input" in page
    assert "enhanced" in page
    assert "1/7" in page
    assert page.count("shell") > 0
    bare = enhance(whole, "--output", "f.h5", "--no-trust")[1]
    assert "1/7" not in Path(bare["report"]).read_text()


def test_another_model_joins_the_disagreement(enhance: Any, tiny: dict[str, Any]) -> None:
    import torch

    for seed, name in ((0, "generator.pt"), (9, "other.pt")):
        model = CycleGAN(parse_config(tiny | {"seed": seed, "init_std": 0.3}), torch.device("cpu"))
        save_generators(model, Path(name), step=1)
    source = write("a.h5", blobs(1))
    assert enhance(source, "--output", "one.h5")[0] == 0
    assert enhance(source, "--output", "two.h5", "--other-model", "other.pt")[0] == 0
    np.testing.assert_array_equal(read("one.h5"), read("two.h5"))
    name = "trust/disagreement"
    assert np.abs(read("two.h5", name) - read("one.h5", name)).mean() > 0.01
    with h5py.File("two.h5") as handle:
        assert handle["data"].attrs["trust_other_generators"] == 1


def test_one_name_for_two_outputs_is_refused(enhance: Any) -> None:
    Path("x").mkdir()
    code, _, err = enhance(write("a.h5", blobs(1)), write("x/a.h5", blobs(2)), "--output", "out")
    assert (code, "several volumes have this name" in err) == (2, True)


def test_the_last_shard_puts_all_together_and_reports(enhance: Any) -> None:
    line = [write("a.h5", blobs(1, (40, 16, 16))), "--tile", "8,16,16", "--output"]
    code, first, err = enhance(*line, "e.h5", "--shard", "2/2")
    assert code == 0 and first["shard"] == [2, 2], err
    assert not Path("e.h5").exists() and not Path("e.html").exists()
    code, last, err = enhance(*line, "e.h5", "--shard", "1/2")
    assert code == 0 and last["tiles"] == last["resumed"] == 5, err
    assert Path(last["report"]).exists()
    assert enhance(*line, "alone.h5")[0] == 0
    np.testing.assert_array_equal(read("e.h5"), read("alone.h5"))
    assert len(Store.open().search("enhance", "tags.kind = 'enhance'")) == 2
    for wrong in ("0/2", "3/2", "half", "array"):
        code, _, err = enhance(*line, "x.h5", "--shard", wrong)
        assert code == 2 and f"--shard {wrong}" in err


def test_shards_that_end_at_the_same_moment_do_not_leave_it_to_each_other(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [write("a.h5", blobs(1, (40, 16, 16))), "--tile", "8,16,16", "--output", "e.h5"]
    whole, tries = command._enhance_one, []

    def busy_at_first(*parts: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise BusyError("another process is making e.h5; wait for it")
        return whole(*parts)

    monkeypatch.setattr(command, "_enhance_one", busy_at_first)
    assert enhance(*line, "--shard", "2/2")[0] == 0 and not tries
    code, _, err = enhance(*line, "--shard", "1/2")
    assert code == 0 and len(tries) == 2 and Path("e.h5").exists(), err


@pytest.mark.slow
def test_several_processes_make_the_volume_of_one(generator_file: str, enhance: Any) -> None:
    line = [write("a.h5", blobs(1, (40, 16, 16))), "--tile", "8,16,16", "--device", "cpu"]
    code, found, err = enhance(*line, "--output", "e.h5", "--gpus", "2")
    assert code == 0 and found["tiles"] == found["resumed"] == 5, err
    assert enhance(*line, "--output", "alone.h5")[0] == 0
    np.testing.assert_array_equal(read("e.h5"), read("alone.h5"))
    code, _, err = enhance(*line, "--output", "f.h5", "--gpus", "2", "--shard", "1/2")
    assert code == 2 and "--gpus shares out the tiles of one volume" in err


@pytest.mark.slow
def test_killed_the_same_command_goes_on_in_the_same_run(generator_file: str) -> None:
    write("a.h5", blobs(1, (40, 16, 16)))
    arguments = [
        "a.h5",
        "--model",
        generator_file,
        "--output",
        "e.h5",
        "--tile",
        "8,16,16",
        "--json",
    ]
    line = [sys.executable, "-m", "workbench.cli", "enhance", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    journal = part_folder(Path("e.h5")) / "journal.jsonl"
    with subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes()):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = journal.read_bytes().count(b"\n")
    assert not Path("e.h5").exists()
    again = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    data = json.loads(again.stdout)
    assert (data["resumed"], data["tiles"]) == (done, 5)
    network = load_generator(Path(generator_file)).network
    expected = enhance_array(network, standardised(blobs(1, (40, 16, 16))))
    np.testing.assert_allclose(read("e.h5"), expected, atol=1e-4)
    assert not journal.parent.exists()
    runs = Store.open().search("enhance", "tags.kind = 'enhance'")
    assert [(run.id, run.status) for run in runs] == [(data["run_id"], "FINISHED")]
    assert runs[0].metrics["tiles/resumed"] == done


def test_killed_behind_the_volume_the_same_command_does_the_rest(enhance: Any) -> None:
    line = [write("a.h5", 300 + 20 * blobs(1)), "--output", "e.h5", "--no-trust"]
    code, first, err = enhance(*line)
    assert code == 0, err
    made = Path("e.h5").stat().st_mtime_ns
    Path(first["report"]).unlink()
    code, data, err = enhance(*line)
    assert (code, data["report"]) == (0, first["report"]), err
    assert Path("e.h5").stat().st_mtime_ns == made
    Path(first["report"]).unlink()
    code, _, err = enhance(*line, "--units", "input")  # another result of this name
    assert (code, "--overwrite" in err) == (1, True)
    assert Path("e.h5").stat().st_mtime_ns == made


def test_tile_and_roi_are_parsed() -> None:
    assert parse_tile("64, 96,8") == (64, 96, 8)
    assert parse_roi("0:64, 3:4,10:90") == ((0, 64), (3, 4), (10, 90))
    assert parse_tile(None) is parse_roi(None) is None
    for text in ("1,2", "a,b,c", "1,2,3,4"):
        with pytest.raises(UsageError, match="three"):
            parse_tile(text)


def test_a_filter_that_wins_is_named_in_the_text_the_report_and_the_documents(
    enhance: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generator is untrained, so it can't beat the filter that the reference has chosen."""
    truth = gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 2).astype(np.float32)
    truth /= truth.std()
    line = [write("a.h5", truth + blobs(4)), "--reference", write("ref.h5", truth)]
    code, data, err = enhance(*line, "--output", "e.h5", "--no-trust")
    assert code == 0, err
    sentence = data["verdict"]
    assert sentence == verdict([QualityRow(**row) for row in data["quality"]])
    assert sentence.startswith("The best Gaussian filter (sigma ")
    assert sentence.endswith("This model does worse than a filter here.")
    assert escape(sentence) in Path(data["report"]).read_text()
    kept = Store.open().run(data["run_id"]).artifact_path("enhanced.json")
    assert json.loads(kept.read_text())["verdict"] == sentence
    command = ["cyclegan", "enhance", *line, "--model", "generator.pt", "--quiet"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", "f.h5", "--no-trust"])
    assert run(cli.app) == 0
    assert sentence in capsys.readouterr().out
    assert enhance("a.h5", "--output", "bare.h5", "--no-trust")[1]["verdict"] is None


@pytest.mark.parametrize("kind", ["volume", "half", "reference"])
def test_inputs_with_holes_are_refused_until_the_fill_value_is_asked_for(
    enhance: Any, kind: str
) -> None:
    write("a.h5", blobs(1))
    holes = f"{kind}.h5"
    with h5py.File(holes, "w") as handle:
        made = handle.create_dataset("data", SHAPE, "f4", chunks=(SHAPE[0] // 2, *SHAPE[1:]))
        made[: SHAPE[0] // 2] = blobs(1)[: SHAPE[0] // 2]
    inputs = {
        "volume": (holes,),
        "half": ("a.h5", "--half", "a.h5", "--half", holes),
        "reference": ("a.h5", "--reference", holes),
    }
    arguments = (*inputs[kind], "--output", "e.h5", "--no-trust")
    before = set(Path().iterdir())
    code, _, err = enhance(*arguments)
    missing = f"{holes}:data: 1 of 2 chunks (50 %) were never written"
    assert (code, err.count("\n")) == (1, 1)
    assert missing in err and "--fill-missing" in err
    assert set(Path().iterdir()) == before
    written = ",".join(f"0:{n}" for n in (SHAPE[0] // 2, *SHAPE[1:]))
    _, _, same = enhance(*arguments, "--roi", written)  # the grey scale is the whole volume's
    assert same == err and "a region does not leave the gap out" in err
    code, _, err = enhance(*arguments, "--fill-missing")
    assert code == 0
    assert missing in err
