"""Enhancement: tiles change nothing, no voxel is lost, nothing is overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cyclegan.checkpoints import CHECKPOINT_NAME
from cyclegan.data import Size, VolumeEntry
from cyclegan.enhance import choose_tile, enhance_array, enhance_file
from cyclegan.errors import CheckpointError, DataError, UsageError
from cyclegan.generator import load_generator, save_generators
from cyclegan.networks import GENERATORS, UNet3d, build_generator, initialise
from cyclegan.trainer import Trainer

SHALLOW = [name for name in GENERATORS if name != "UNet113d"]


def network(name: str) -> UNet3d:
    torch.manual_seed(0)
    net = build_generator(name, filters=2)
    initialise(net, 0.3)
    return net


def volume(shape: Size) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", SHALLOW)
@pytest.mark.parametrize("shape", [(24, 17, 30), (3, 40, 5)])
def test_the_tile_size_changes_nothing(name: str, shape: Size) -> None:
    net, image = network(name), volume(shape)
    step = max(net.geometry.alignment, 8)
    whole = enhance_array(net, image, tile=(128, 128, 128))
    for tile in ((step, 2 * step, 3 * step), (128, step, 2 * step)):
        tiled = enhance_array(net, image, tile=tile)
        # A few units in the last place: convolutions of another size sum in another order.
        np.testing.assert_allclose(tiled, whole, atol=1e-5 * float(np.abs(whole).max()))
    factor = net.geometry.factor
    assert whole.shape == tuple(-(-int(n * factor.numerator) // factor.denominator) for n in shape)


def test_a_halo_one_step_smaller_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    net, image = network("UNetSim3d"), volume((40, 40, 40))
    whole = enhance_array(net, image, tile=(64, 64, 64))
    true = net.geometry
    smaller = type(true)(
        factor=true.factor,
        alignment=true.alignment,
        halo_left=true.halo_left - true.alignment,
        halo_right=true.halo_right - true.alignment,
    )
    monkeypatch.setattr(UNet3d, "geometry", smaller)
    tiled = enhance_array(net, image, tile=(8, 8, 8))
    assert np.abs(tiled - whole).max() > 1e-3 * np.abs(whole).max()


def test_whole_volume_in_one_pass_is_the_plain_network() -> None:
    net, image = network("UNetSim3d"), volume((16, 20, 24))
    with torch.no_grad():
        plain = net(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(enhance_array(net, image), plain)


def test_tile_must_be_aligned() -> None:
    geometry = network("UNetSim3d").geometry
    with pytest.raises(UsageError, match="multiples of 4"):
        choose_tile((64, 64, 64), geometry, (30, 32, 32))
    assert choose_tile((10, 500, 96), geometry) == (12, 96, 96)


def source(folder: Path, array: np.ndarray) -> VolumeEntry:
    with h5py.File(folder / "in.h5", "w") as handle:
        handle["entry/tomo"] = array
        handle["entry/tomo"].attrs["voxel_size_um"] = 0.8
    return VolumeEntry(path=folder / "in.h5", dset="entry/tomo")


@pytest.mark.parametrize(("name", "size"), [("UNetSim3d", 0.8), ("UNetSim3dSRx2", 0.4)])
def test_file_holds_what_the_array_has_and_says_what_it_is(
    tmp_path: Path, name: str, size: float
) -> None:
    net, image = network(name), volume((9, 21, 30))
    seen: list[tuple[int, int]] = []
    done = enhance_file(
        net,
        source(tmp_path, image),
        tmp_path / "out.h5",
        tile=(8, 8, 16),
        attributes={"model": "abc"},
        on_progress=lambda *count: seen.append(count),
    )
    with h5py.File(tmp_path / "out.h5") as handle:
        data = handle["data"]
        np.testing.assert_allclose(data[:], enhance_array(net, image), atol=1e-5)
        assert data.dtype == np.float32
        assert data.chunks is not None
        assert (handle.attrs["NX_class"], handle.attrs["signal"]) == ("NXdata", "data")
        assert data.attrs["voxel_size_um"] == pytest.approx(size)
        assert data.attrs["model"] == "abc"
        assert data.shape == done.shape
    assert seen[-1] == (2 * 3 * 2, 2 * 3 * 2)


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    net, entry = network("UNetSim3d"), source(tmp_path, volume((8, 8, 8)))
    out = tmp_path / "out.h5"
    out.write_text("precious")
    with pytest.raises(DataError, match="--overwrite"):
        enhance_file(net, entry, out)
    assert out.read_text() == "precious"
    enhance_file(net, entry, out, overwrite=True)
    with h5py.File(out) as handle:
        assert handle["data"].shape == (8, 8, 8)


def test_a_failure_half_way_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    image = volume((8, 8, 24))
    image[0, 0, 20] = np.nan
    out = tmp_path / "out.h5"
    out.write_text("precious")
    with pytest.raises(DataError, match="NaN"):
        enhance_file(
            network("UNetSim3d"), source(tmp_path, image), out, tile=(8, 8, 4), overwrite=True
        )
    assert out.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5", "out.h5"]


def test_a_write_that_fails_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    """HDF5 by itself dies of it; a limit on file sizes stands for the full disk."""
    with h5py.File(tmp_path / "in.h5", "w") as handle:
        handle["data"] = volume((16, 64, 64))
    program = """
import resource, sys
from pathlib import Path
from cyclegan.data import VolumeEntry
from cyclegan.enhance import enhance_file
from cyclegan.errors import CycleGANError
from cyclegan.networks import build_generator
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    entry = VolumeEntry(path=folder / "in.h5", dset="data")
    enhance_file(build_generator("UNetSim3d", filters=1), entry, folder / "out.h5", tile=(16,) * 3)
except CycleGANError as error:
    print(error)
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert "out.h5: writing failed" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["in.h5"]


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
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_generator(tmp_path / "code.pt")
    trainer = Trainer(config, folder=tmp_path)
    trainer.save_checkpoint()
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_generator(path)
