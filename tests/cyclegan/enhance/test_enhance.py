"""Enhancement: files hold the exact result and survive kills; memory depends on the tile."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.checkpoints import CHECKPOINT_NAME
from cyclegan.data import Size, Statistics, Volume, VolumeEntry
from cyclegan.enhance import EnhanceResult, EnhanceSettings, enhance_array, enhance_file
from cyclegan.enhance.chunks import COMPRESSIONS
from cyclegan.enhance.grid import Grid
from cyclegan.enhance.memory import SAFETY, available_bytes, bytes_per_voxel, choose_grid
from cyclegan.enhance.network import Generator, choose_precision
from cyclegan.enhance.partial import part_folder
from cyclegan.enhance.tiling import SlabReader, apply_tiled, open_frames
from cyclegan.errors import BusyError, CheckpointError, DataError, UsageError
from cyclegan.generator import load_generator, save_generators
from cyclegan.networks import UNet3d, build_generator, initialise
from cyclegan.trainer import Trainer


def network(name: str = "UNetSim3d", filters: int = 2) -> UNet3d:
    torch.manual_seed(0)
    net = build_generator(name, filters=filters, activation="leaky_relu")
    initialise(net, std=0.3)
    return net


def volume(shape: Size, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def source(folder: Path, array: np.ndarray, name: str = "in.h5", **options: Any) -> VolumeEntry:
    with h5py.File(folder / name, "w") as handle:
        dataset = handle.create_dataset("entry/tomo", data=array, **options)
        dataset.attrs["voxel_size_um"] = 0.8
    return VolumeEntry(path=folder / name, dset="entry/tomo")


class Slow:
    """A slow operator with a coarse second output that records its calls."""

    alignment, halo_left, halo_right = 4, 4, 4
    channels_in, channels_out = 1, 1
    identity = "slow"

    def __init__(self, log: Path | None = None, seconds: float = 0.0) -> None:
        self.log, self.seconds = log, seconds

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        return {"data": Fraction(2), "trust/half": Fraction(1, 2)}

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        time.sleep(self.seconds)
        smooth = functional.avg_pool3d(patch, 3, 1, 1, count_include_pad=False)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("x")
        fine = functional.interpolate(smooth, scale_factor=2)
        return {"data": fine, "trust/half": functional.avg_pool3d(smooth, 2)}


def contents(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as handle:
        return {name: handle[name][:] for name in ("data", "trust/half") if name in handle}


def test_whole_volume_in_one_pass_is_the_plain_network() -> None:
    net, image = network(), volume((16, 20, 24))
    with torch.no_grad():
        plain = net(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(enhance_array(net, image), plain)


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    ("name", "size"), [("UNetSim3d", 0.8), ("UNetSim3dSRx2", 0.4), ("UNetSim3dSRd4", 3.2)]
)
def test_file_holds_what_the_array_has_and_says_what_it_is(
    tmp_path: Path, name: str, size: float, compression: Any
) -> None:
    net, image = network(name), volume((9, 21, 50))
    step = max(net.geometry.alignment, 8)
    seen: list[tuple[int, int]] = []
    done = enhance_file(
        net,
        source(tmp_path, image),
        tmp_path / "out.h5",
        EnhanceSettings(tile=(step, step, 2 * step), compression=compression),
        attributes={"model": "abc"},
        on_progress=lambda *count: seen.append(count),
    )
    with h5py.File(tmp_path / "out.h5") as handle:
        data = handle["data"]
        np.testing.assert_allclose(data[:], enhance_array(net, image), atol=1e-5)
        assert data.dtype == np.float32
        assert data.attrs["voxel_size_um"] == pytest.approx([size] * 3)
        assert data.attrs["model"] == "abc"
        assert list(data.attrs["tile"]) == [step, step, 2 * step]
        assert data.attrs["input_mean"] == pytest.approx(image.mean(), abs=1e-6)
        assert data.shape == done.shape
        filters = {"gzip": {"gzip", "shuffle"}, "lz4": {"32004", "shuffle"}, "none": set()}
        assert set(data._filters) - {"fletcher32"} == filters[compression]
    assert seen[0] == (0, seen[-1][1])
    assert seen[-1] == (np.prod(done.shape), np.prod(done.shape))
    assert len(seen) == 1 + done.tiles > 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5", "out.h5"]


def test_silx_finds_the_image_and_its_axes(tmp_path: Path) -> None:
    """See https://manual.nexusformat.org/datarules.html#find-plottable-data."""
    roi = ((2, 20), (0, 16), (5, 21))
    entry = source(tmp_path, volume((20, 16, 24)))
    enhance_file(Slow(), entry, tmp_path / "out.h5", EnhanceSettings(tile=(8, 8, 8), region=roi))
    with h5py.File(tmp_path / "out.h5") as handle:
        group: Any = handle
        while "default" in group.attrs:
            group = group[group.attrs["default"]]
        assert group.attrs["NX_class"] == "NXdata"
        signal = group[group.attrs["signal"]]
        assert signal.id == handle["data"].id or signal == handle["data"]
        axes = [group[name] for name in group.attrs["axes"]]
        assert tuple(len(axis) for axis in axes) == signal.shape
        assert {axis.attrs["units"] for axis in axes} == {"um"}
        # Voxels of half the size; the offset is the middle of the first, from the volume's face.
        np.testing.assert_allclose(axes[0][:2], [(4 + 0.5) * 0.4, (5 + 0.5) * 0.4])
        coarse = handle["entry/trust_half"]
        assert coarse[coarse.attrs["signal"]] == handle["trust/half"]
        np.testing.assert_allclose(coarse["z"][:2], [(1 + 0.5) * 1.6, (2 + 0.5) * 1.6])


@pytest.mark.parametrize("tile", [(8, 16, 24), (16, 16, 16), (64, 64, 64), (4, 4, 4)])
def test_every_output_of_an_operator_is_exact_and_each_chunk_is_in_one_tile(
    tmp_path: Path, tile: Size
) -> None:
    image = volume((21, 34, 50))
    expected = apply_tiled(Slow(), image)
    enhance_file(Slow(), source(tmp_path, image), tmp_path / "out.h5", EnhanceSettings(tile=tile))
    found = contents(tmp_path / "out.h5")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array[0])
    with h5py.File(tmp_path / "out.h5") as handle:
        for name, factor in Slow().outputs.items():
            chunks = handle[name].chunks
            for n, t, c in zip(image.shape, tile, chunks, strict=True):
                assert t >= n or t * factor % c == 0


def test_values_are_scaled_back_on_request(tmp_path: Path) -> None:
    image = 300 + 7 * volume((8, 8, 8))
    entry = source(tmp_path, image)
    enhance_file(Slow(), entry, tmp_path / "plain.h5")
    enhance_file(Slow(), entry, tmp_path / "scaled.h5", EnhanceSettings(scale=(300, 7)))
    plain, scaled = contents(tmp_path / "plain.h5"), contents(tmp_path / "scaled.h5")
    np.testing.assert_allclose(scaled["data"], 300 + 7 * plain["data"], rtol=1e-6)
    np.testing.assert_array_equal(scaled["trust/half"], plain["trust/half"])
    assert abs(plain["data"].mean()) < 0.5


def test_a_region_in_a_file_is_the_crop_of_the_whole_file(tmp_path: Path) -> None:
    net, entry = network("UNetSim3dSRx2"), source(tmp_path, volume((40, 24, 30)) * 3 + 5)
    enhance_file(net, entry, tmp_path / "whole.h5")
    roi = ((13, 35), (2, 24), (7, 9))
    enhance_file(net, entry, tmp_path / "part.h5", EnhanceSettings(region=roi, tile=(8, 8, 8)))
    whole, part = contents(tmp_path / "whole.h5")["data"], contents(tmp_path / "part.h5")["data"]
    expected = whole[tuple(slice(2 * a, 2 * b) for a, b in roi)]
    np.testing.assert_allclose(part, expected, atol=1e-5 * np.abs(whole).max())


def test_a_series_is_enhanced_frame_by_frame_with_one_scale(tmp_path: Path) -> None:
    frames = np.stack([100 + 20 * t + volume((12, 10, 14), seed=t) for t in range(3)])
    entry = source(tmp_path, frames)
    volumes = open_frames(entry, tmp_path)
    done = enhance_file(Slow(), volumes, tmp_path / "out.h5", EnhanceSettings(tile=(8, 8, 8)))
    assert done.shape == (3, 24, 20, 28)
    found = contents(tmp_path / "out.h5")
    for t, frame in enumerate((frames - frames.mean()) / frames.std()):
        expected = apply_tiled(Slow(), frame.astype(np.float32))
        for name, array in expected.items():
            np.testing.assert_allclose(found[name][t], array[0], atol=1e-5)
    with h5py.File(tmp_path / "out.h5") as handle:
        assert list(handle["entry/enhanced"].attrs["axes"]) == [".", "z", "y", "x"]
        assert handle["data"].attrs["source"] == f"{entry.path}:entry/tomo[0]"
    single = source(tmp_path, frames[0], "single.h5")
    with pytest.raises(DataError, match="--series"):
        open_frames(single, tmp_path)


def test_several_channels_go_through(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = UNet3d(filters=2, channels_in=2, channels_out=3, activation="leaky_relu")
    image = np.stack([volume((9, 10, 11), 1), volume((9, 10, 11), 2)])
    enhance_file(net, source(tmp_path, image), tmp_path / "out.h5", EnhanceSettings(tile=(8, 8, 8)))
    expected = enhance_array(net, image)
    assert expected.shape == (3, 9, 10, 11)
    np.testing.assert_allclose(contents(tmp_path / "out.h5")["data"], expected, atol=1e-3)


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    entry, out = source(tmp_path, volume((8, 8, 8))), tmp_path / "out.h5"
    out.write_text("precious")
    for keep in (False, True):
        with pytest.raises(DataError, match="--overwrite"):
            enhance_file(network(), entry, out, keep=keep)
    assert out.read_text() == "precious"
    enhance_file(network(), entry, out, EnhanceSettings(overwrite=True))
    written = out.stat().st_mtime_ns
    assert enhance_file(network(), entry, out, keep=True).seconds == 0
    assert out.stat().st_mtime_ns == written
    with pytest.raises(DataError, match="--overwrite"):
        enhance_file(network("UNetSim3dSRx2"), entry, out, keep=True)


def test_damaged_input_is_one_line_and_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    entry = source(tmp_path, volume((64, 32, 32)), chunks=(8, 32, 32), compression="gzip")
    out = tmp_path / "out.h5"
    out.write_text("precious")
    with h5py.File(entry.path) as handle:
        place = handle["entry/tomo"].id.get_chunk_info(6)
    with entry.path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(bytes(place.size))
    known = Volume(entry, statistics=Statistics(64 * 32 * 32, 0, 0.0, 1.0))
    with pytest.raises(DataError, match="damaged"):
        enhance_file(Slow(), known, out, EnhanceSettings(tile=(8, 32, 32), overwrite=True))
    assert out.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5", "out.h5"]


FULL = """
import resource, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from cyclegan.data import VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.errors import CycleGANError
from cyclegan.networks import build_generator
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    entry = VolumeEntry(path=folder / "in.h5", dset="entry/tomo")
    torch.manual_seed(0)
    network = build_generator("UNetSim3d", filters=1, activation="leaky_relu")
    enhance_file(network, entry, folder / "out.h5", EnhanceSettings(tile=(16,) * 3))
except CycleGANError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("limit", [3_000, 150_000])
@pytest.mark.slow
def test_a_write_that_fails_is_one_line_and_what_was_done_is_not_lost(
    tmp_path: Path, limit: int
) -> None:
    """HDF5 alone crashes; a limit on file sizes stands in for the full disk."""
    source(tmp_path, volume((16, 64, 64)))
    root = str(Path(__file__).parents[3])
    line = [sys.executable, "-c", FULL, str(tmp_path), root]
    done = subprocess.run([*line, str(limit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (7, 1), done.stderr
    assert "out.h5: writing failed" in done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5").exists()
    kept = part_folder(tmp_path / "out.h5")
    assert kept.exists() == (limit > 100_000)
    again = subprocess.run([*line, "-1"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5", "out.h5"]


# -- kills --------------------------------------------------------------------------------------


def run_until_killed(
    operator: Slow, entry: VolumeEntry, out: Path, chance: np.random.Generator
) -> tuple[int, int | None]:
    """Return the number of kills and the last exit code."""
    process, kills = None, 0
    for kills in range(60):
        process = multiprocessing.get_context("fork").Process(
            target=enhance_file,
            args=(operator, entry, out),
            kwargs={"settings": settings(), "keep": True},  # the kill may come when all is done
        )
        process.start()
        process.join(float(chance.uniform(0.03, 0.25)) + kills / 100)
        if process.exitcode is not None:
            break
        process.kill()  # SIGKILL
        process.join()
    assert process is not None
    return kills, process.exitcode


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same_and_redoes_no_tile(
    tmp_path: Path, seed: int
) -> None:
    image, log = volume((32, 30, 28)), tmp_path / "log"
    entry, out = source(tmp_path, image), tmp_path / "out.h5"
    kills, code = run_until_killed(Slow(log, 0.01), entry, out, np.random.default_rng(seed))
    assert code == 0
    assert kills >= 3
    tiles = 4 * 4 * 4
    # The tile being computed at the kill is lost, and the one being stored.
    assert tiles <= len(log.read_text()) <= tiles + 2 * kills
    expected = apply_tiled(Slow(), image)
    for name, array in contents(out).items():
        np.testing.assert_array_equal(array, expected[name][0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5", "log", "out.h5"]


def settings(**options: Any) -> EnhanceSettings:
    return EnhanceSettings(**{"tile": (8, 8, 8), **options})


def interrupted(operator: Any, entry: VolumeEntry, out: Path, after: int, **options: Any) -> None:
    def stop(done: int, total: int) -> None:
        nonlocal after
        after -= 1
        if after < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_file(operator, entry, out, settings(**options), on_progress=stop)


def resumed(operator: Any, entry: VolumeEntry, out: Path, **options: Any) -> EnhanceResult:
    return enhance_file(operator, entry, out, settings(**options))


def test_only_the_same_job_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry, out = source(tmp_path, volume((16, 16, 32))), tmp_path / "out.h5"
    other = network()
    with torch.no_grad():
        other.head[-1].bias += 1
    changes: list[tuple[Any, dict[str, Any]]] = [
        (network(), {"tile": (8, 8, 16)}),
        (network(), {"compression": "none"}),
        (network(), {"scale": (1.0, 2.0)}),
        (network(), {"region": ((0, 16), (0, 16), (0, 24))}),
        (other, {}),
        (Generator(network(), precision="bf16"), {}),
    ]
    for operator, options in changes:
        interrupted(network(), entry, out, 5)
        assert part_folder(out).is_dir()
        assert resumed(operator, entry, out, **options).resumed == 0
        assert "its tiles came from another" in caplog.text
        caplog.clear()
        out.unlink()
    interrupted(network(), entry, out, 5)
    source(tmp_path, volume((16, 16, 32), seed=3))  # another input of the same name
    assert resumed(network(), entry, out).resumed == 0
    out.unlink()
    interrupted(network(), entry, out, 5)
    assert "5 finished tiles stay" in caplog.text
    again = resumed(network(), entry, out)
    assert (again.resumed, again.tiles) == (5, 2 * 2 * 4)
    assert not part_folder(out).exists()


def test_with_more_or_less_memory_than_before_it_goes_on_with_the_tiles_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, out = source(tmp_path, volume((16, 16, 32))), tmp_path / "out.h5"
    interrupted(Slow(), entry, out, 5)
    assert resumed(Slow(), entry, out, tile=None).resumed == 5  # one tile would be enough
    out.unlink()
    interrupted(Slow(), entry, out, 5)
    monkeypatch.setattr("cyclegan.enhance.volumes.window_bytes", lambda *_: 1e15)
    assert resumed(Slow(), entry, out, tile=None).tiles == 1


@pytest.mark.parametrize("damage", ["journal", "cut", "chunks"])
def test_what_a_power_failure_tore_is_done_again(tmp_path: Path, damage: str) -> None:
    image = volume((16, 16, 32))
    entry, out = source(tmp_path, image), tmp_path / "out.h5"
    interrupted(Slow(), entry, out, 6)
    journal, chunks = (part_folder(out) / name for name in ("journal.jsonl", "chunks.bin"))
    if damage == "journal":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "cut":
        chunks.write_bytes(chunks.read_bytes()[:-20])
    else:
        data = bytearray(chunks.read_bytes())
        data[-5] ^= 255
        chunks.write_bytes(data)
    interrupted(Slow(), entry, out, 2)  # it goes on and is stopped again
    assert resumed(Slow(), entry, out).resumed == 7
    np.testing.assert_array_equal(contents(out)["data"], apply_tiled(Slow(), image)["data"][0])


def test_killed_while_it_clears_up_it_only_clears_up(tmp_path: Path) -> None:
    entry, out = source(tmp_path, volume((16, 16, 32))), tmp_path / "out.h5"
    resumed(Slow(), entry, out)
    made = out.stat().st_mtime_ns
    part_folder(out).mkdir()
    (part_folder(out) / "chunks.bin").write_text("left")
    again = resumed(Slow(), entry, out)
    assert (again.resumed, out.stat().st_mtime_ns) == (again.tiles, made)
    assert not part_folder(out).exists()
    with pytest.raises(DataError, match="--overwrite"):
        resumed(Slow(), entry, out)
    part_folder(out).mkdir()
    with pytest.raises(DataError, match="--overwrite"):  # an output from something else
        resumed(Slow(), entry, out, scale=(1.0, 2.0))


def test_two_processes_do_not_make_one_output(tmp_path: Path) -> None:
    entry, out = source(tmp_path, volume((32, 32, 32))), tmp_path / "out.h5"
    first = multiprocessing.get_context("fork").Process(
        target=enhance_file, args=(Slow(None, 0.2), entry, out, settings())
    )
    first.start()
    try:
        while not (part_folder(out) / "journal.jsonl").exists():
            time.sleep(0.01)
        with pytest.raises(BusyError, match="another process"):
            resumed(Slow(), entry, out)
        assert part_folder(out).exists()
    finally:
        first.kill()
        first.join()
    assert resumed(Slow(), entry, out).tiles == 64


# -- memory -------------------------------------------------------------------------------------

PEAK = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import h5py, numpy as np, torch
torch.set_num_threads(1)
from cyclegan.data import Statistics, Volume, VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.enhance.network import Generator
from cyclegan.enhance.memory import bytes_per_voxel, resident_bytes
from cyclegan.networks import build_generator
def peak():  # ru_maxrss would be at least that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""

STREAM = (
    PEAK
    + """
from tests_of_enhance import Slow
path = Path(sys.argv[3])
entry = VolumeEntry(path=path, dset="data")
known = Volume(entry, statistics=Statistics(1, 0, 0.0, 1.0))
enhance_file(Slow(), known, path.with_suffix(".out.h5"), EnhanceSettings(tile=(16, 48, 48)))
print(peak())
"""
)

ACTIVATIONS = (
    PEAK
    + """
name, filters, precision, side = sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6])
generator = Generator(build_generator(name, filters=filters), precision=precision)
predicted = bytes_per_voxel(generator) * side**3
with torch.inference_mode():
    generator(torch.zeros(1, 1, 32, 32, 32))
    before = resident_bytes()
    generator(torch.zeros(1, 1, side, side, side))
print(predicted / (peak() - before))
"""
)


def python(program: str, *arguments: Any) -> float:
    root, here = Path(__file__).parents[3], Path(__file__)
    program = program.replace(
        "from tests_of_enhance import Slow",
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('tests_of_enhance', sys.argv[2])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['tests_of_enhance'] = module\n"
        "spec.loader.exec_module(module)\n"
        "Slow = module.Slow",
    )
    line = [sys.executable, "-c", program, str(root)]
    if "tests_of_enhance" in program:
        line.append(str(here))
    else:
        line.append("-")
    done = subprocess.run(
        [*line, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.slow
def test_memory_follows_the_tile_and_not_the_volume(tmp_path: Path) -> None:
    peaks = []
    for depth in (512, 1536):
        path = tmp_path / f"{depth}.h5"
        with h5py.File(path, "w") as handle:
            dataset = handle.create_dataset(
                "data", (depth, 96, 96), np.float32, chunks=(16, 96, 96)
            )
            for z in range(0, depth, 32):
                dataset[z : z + 32] = volume((32, 96, 96), seed=z)
        peaks.append(python(STREAM, path))
    # The inputs are 19 and 57 MB, the outputs 8 times that.
    assert max(peaks) - min(peaks) < 20e6, peaks


@pytest.mark.parametrize(
    ("name", "filters", "precision", "side"),
    [
        ("UNetSim3d", 16, "fp32", 96),
        ("UNetSim3dSRx2", 8, "bf16", 80),
        ("UNet113d", 8, "fp32", 96),
    ],
)
@pytest.mark.slow
def test_what_a_tile_takes_is_predicted_on_the_safe_side(
    name: str, filters: int, precision: str, side: int
) -> None:
    ratio = SAFETY * python(ACTIVATIONS, name, filters, precision, side)
    assert 1 <= ratio < 3.5


@pytest.mark.parametrize("shape", [(1024, 1024, 1024), (100, 700, 333), (3, 2000, 2000)])
@pytest.mark.parametrize("budget", [3e8, 1.5e9, 2e10])
def test_the_tile_fits_into_the_budget_and_a_larger_budget_costs_no_more(
    shape: Size, budget: float
) -> None:
    generator = Generator(network(filters=8))
    each = bytes_per_voxel(generator)
    grid = choose_grid(generator, shape, budget=budget)
    assert np.prod(grid.window) * each <= budget
    more = choose_grid(generator, shape, budget=2 * budget)
    assert len(more) * np.prod(more.window) <= 1.05 * len(grid) * np.prod(grid.window)


def test_too_little_memory_is_said_before_anything_is_done(tmp_path: Path) -> None:
    entry = source(tmp_path, volume((16, 16, 16)))
    with pytest.raises(UsageError, match="--memory-gb"):
        enhance_file(network(), entry, tmp_path / "out.h5", EnhanceSettings(memory_gb=0.001))
    assert [p.name for p in tmp_path.iterdir()] == ["in.h5"]
    assert available_bytes(torch.device("cpu")) > 1e7


@pytest.mark.parametrize("limit", [0, 40_000, 150_000, 1e9])
def test_slabs_hold_no_more_than_their_limit_and_change_nothing(limit: float) -> None:
    image = volume((40, 36, 50))[None]
    grid = Grid.of(Slow(), (40, 36, 50), (8, 16, 16))
    sizes = []

    def read(origin: Size, size: Size) -> np.ndarray:
        z, y, x = (slice(o, o + n) for o, n in zip(origin, size, strict=True))
        assert all(o + n <= m for o, n, m in zip(origin, size, image.shape[1:], strict=True))
        sizes.append(int(np.prod(size)))
        return image[:, z, y, x].copy()

    reader = SlabReader(read, grid, 1, limit)
    for tile in grid:
        size = tuple(
            min(n, m - o) for n, o, m in zip(tile.size, tile.origin, image.shape[1:], strict=True)
        )
        expected = read(tile.origin, size)
        sizes.pop()
        np.testing.assert_array_equal(reader(tile.origin, size), expected)
    window = int(np.prod(grid.window))
    assert max(sizes) * 4 <= max(limit, 4 * window)
    if limit == 1e9:
        assert len(sizes) == grid.counts[0]


# -- precision, compiling -------------------------------------------------------------------------


def test_bf16_is_near() -> None:
    net, image = network(filters=4), volume((16, 20, 24))
    exact = apply_tiled(Generator(net), image)["data"]
    rough = apply_tiled(Generator(net, precision="bf16"), image)["data"]
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_precision_auto_asks_how_the_network_was_trained() -> None:
    net, device = network(), torch.device("cpu")
    assert choose_precision("bf16", net, device=device, trained_in_bf16=False) == "bf16"
    assert choose_precision("auto", net, device=device, trained_in_bf16=False) == "fp32"
    assert choose_precision("auto", net, device=device, trained_in_bf16=True) in ("fp32", "bf16")


def test_the_network_itself_is_left_alone() -> None:
    net = network()
    Generator(net, precision="bf16")
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in net.parameters())


NO_COMPILER = """
import sys
sys.path.insert(0, sys.argv[1])
import logging, torch
logging.basicConfig()
from cyclegan.enhance.network import Generator
from cyclegan.networks import build_generator
net = build_generator("UNetSim3d", filters=1)
image = torch.randn(1, 1, 8, 8, 8)
compiled = Generator(net, compiled=True)
for _ in range(2):
    assert torch.equal(compiled.translate(image), Generator(net).translate(image))
"""


@pytest.mark.slow
def test_without_a_compiler_it_goes_on_with_one_line(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER, str(root)],
        env={**os.environ, "CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("continuing without") == 1


# -- model files ----------------------------------------------------------------------------------


def test_generator_file_and_checkpoint_give_the_same_generator(config, tmp_path: Path) -> None:
    trainer = Trainer(config, folder=tmp_path)
    trainer.fit()
    save_generators(trainer.model, tmp_path / "generator.pt", step=12, score=-1.5)
    image = volume((8, 12, 8))
    for direction, original in (("A", trainer.model.mean_G_A), ("B", trainer.model.mean_G_B)):
        expected = enhance_array(original, image)
        for name in ("generator.pt", CHECKPOINT_NAME):
            loaded = load_generator(tmp_path / name, direction)
            assert loaded.step == 12
            np.testing.assert_array_equal(enhance_array(loaded.network, image), expected)


def test_foreign_and_damaged_model_files_are_refused(config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_generator(tmp_path / "none.pt")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a file of this software"):
        load_generator(tmp_path / "foreign.pt")
    torch.save(Path, tmp_path / "code.pt")  # a pickle that would import something
    with pytest.raises(CheckpointError, match=r"not a checkpoint|reading it could run code"):
        load_generator(tmp_path / "code.pt")
    whole = {"format": "cyclegan-generator-1", "step": 1, "score": None, "grey_scales": {}}
    for change, said in (
        ({"config": config.to_dict() | {"from_the_future": 1}}, "did a newer version"),
        ({"config": config.to_dict(), "step": "x"}, "its step is 'x'"),
        ({}, "its config is missing"),
        ({"config": config.to_dict()}, "holds no weights of"),
    ):
        torch.save(whole | change, tmp_path / "odd.pt")
        with pytest.raises(CheckpointError, match=said):
            load_generator(tmp_path / "odd.pt")
    trainer = Trainer(config, folder=tmp_path)
    trainer.save_checkpoint()
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_generator(path)


@pytest.mark.parametrize(("offset", "is_lost"), [(1e9, True), (1e3, False)])
def test_an_output_that_lost_its_grey_levels_is_warned_of_also_after_a_kill(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: float, is_lost: bool
) -> None:
    entry, out = source(tmp_path, volume((16, 16, 32))), tmp_path / "out.h5"
    interrupted(Slow(), entry, out, 16, scale=(offset, 1.0))  # all tiles, but not the file
    finished = resumed(Slow(), entry, out, scale=(offset, 1.0))
    assert finished.resumed == finished.tiles
    said = [text for text in caplog.messages if "grey value" in text]
    assert len(said) == is_lost
    assert all(str(out) in text and "--units standardised" in text for text in said)


def test_a_series_with_holes_is_refused_until_the_entry_accepts_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as handle:
        made = handle.create_dataset("data", (2, 8, 8, 8), "f4", chunks=(1, 4, 8, 8))
        made[0], made[1, :4] = volume((8, 8, 8)), volume((4, 8, 8), 1)
    entry = VolumeEntry(path=tmp_path / "t.h5", dset="data")
    with pytest.raises(DataError, match=r"t.h5:data: 1 of 2 chunks .* were never written"):
        open_frames(entry, tmp_path)
    assert len(open_frames(replace(entry, fill_missing=True), tmp_path)) == 2
    assert "t.h5:data: 1 of 4 chunks (25 %) were never written" in caplog.text
