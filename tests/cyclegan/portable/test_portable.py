"""Exported generators give the original's result at any size, without this project."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from cyclegan import parse_config
from cyclegan.data import Volume, VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_array, enhance_file
from cyclegan.enhance.network import Generator
from cyclegan.enhance.tiling import apply_tiled
from cyclegan.errors import CheckpointError, CycleGANError, DataError, UsageError
from cyclegan.generator import load_generator, save_generators
from cyclegan.model import CycleGAN
from cyclegan.networks import GENERATORS, build_generator
from cyclegan.portable import export_generator, exporting, recipe

SCALES = {"A": {"mean": 400.0, "std": 30.0}, "B": {"mean": 1000.0, "std": 50.0}}
NETS = {
    1: ("UNetSim3d", "UNetSim3d"),
    2: ("UNetSim3dSRx2", "UNetSim3dSRd2"),
    4: ("UNetSim3dSRx4", "UNetSim3dSRd4"),
}


@pytest.fixture
def generator_file(tiny: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write a generator file, untrained but with weights large enough to see differences."""

    def write(scale: int = 1, **changes: Any) -> Path:
        net_A, net_B = NETS[scale]
        nets = {"net_A": net_A, "net_B": net_B, "super_resolution": scale, "init_std": 0.2}
        config = parse_config(tiny | nets | {"imsize_A": [16, 16, 16]} | changes)
        path = tmp_path / f"{scale}.pt"
        save_generators(
            CycleGAN(config, torch.device("cpu")), path, step=7, score=0.5, grey_scales=SCALES
        )
        return path

    return write


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def difference(got: Any, wanted: Any) -> float:
    """Return the largest difference relative to the largest value."""
    assert got.shape == wanted.shape
    return float(abs(got - wanted).max() / abs(wanted).max())


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_network_keeps_any_batch_and_any_size(name: str, upsampling: str) -> None:
    depth = 2 if name == "UNet113d" else None  # else it is the slowest by far
    network = build_generator(name, filters=2, depth=depth, upsampling=upsampling, channels_in=2)
    network.requires_grad_(False).eval()
    read = torch.export.load(io.BytesIO(exporting._packed(network, {}))).module()
    n = network.geometry.alignment
    # A single block, a batch of one, unequal axes, equal axes, the shape of the example.
    for shape in (
        (1, n, n, n),
        (2, n, 2 * n, 3 * n),
        (1, 4 * n, n, 2 * n),
        (2, 2 * n, 3 * n, 4 * n),
    ):
        image = noise(1, shape[0], 2, *shape[1:])
        assert difference(read(image), network(image)) <= 1e-5
    for shape in ((1, 2, n + 1, n, n), (1, 2, 2 * n, 2 * n, 2 * n + n // 2)):
        with pytest.raises(RuntimeError, match=f"to be of the form {n}"):
            read(noise(1, *shape))
    with pytest.raises(RuntimeError, match="to be equal to 2, but got 1"):
        read(noise(1, 1, 1, n, n, n))


@pytest.mark.parametrize(("scale", "direction"), [(1, "A"), (2, "B"), (4, "A")])
def test_the_file_says_what_one_must_know(
    generator_file: Callable[..., Path], tmp_path: Path, scale: int, direction: Any
) -> None:
    path = generator_file(scale)
    origin = {"study": "demo", "trial": 3}
    done = export_generator(path, tmp_path / "g.pt2", direction=direction, origin=origin)
    trained = load_generator(path, direction)
    generator, about = recipe.load(done.path)
    assert about == yaml.safe_load(yaml.safe_dump(done.about))  # plain types alone
    geometry = trained.network.geometry
    assert about["scale"] == (scale if direction == "A" else 1 / scale)
    for name in ("alignment", "halo_left", "halo_right"):
        assert about[name] == getattr(geometry, name)
    source, target = ("A", "B") if direction == "A" else ("B", "A")
    assert (about["input"]["domain"], about["input"]["grey_scale"]) == (source, SCALES[source])
    assert (about["output"]["domain"], about["output"]["grey_scale"]) == (target, SCALES[target])
    assert about["input"]["shape"] == [-1, 1, -1, -1, -1]
    assert (about["step"], about["score"], about["standardise"]) == (7, 0.5, "auto")
    assert about["origin"] == {"study": "demo", "trial": "3"}
    assert "filters: 2" in about["config"]
    image = noise(2, 2, 1, *(geometry.alignment * n for n in (2, 1, 1)))
    assert difference(generator(image), trained.network(image)) <= 1e-5
    with zipfile.ZipFile(done.path) as archive:  # without PyTorch, too
        (name,) = (n for n in archive.namelist() if n.endswith("/cyclegan.json"))
        assert json.loads(archive.read(name)) == about


def test_the_file_holds_no_pickle_and_is_the_same_each_time(
    generator_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = generator_file()
    first, second = (export_generator(path, tmp_path / name).path for name in ("a.pt2", "b.pt2"))
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (first, second)}
    assert len(digests) == 1
    with zipfile.ZipFile(first) as archive:
        content = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert content["data/sample_inputs/model.pt"] == b""
    assert json.loads(content["data/constants/model_constants_config.json"]) == {"config": {}}
    weights = json.loads(content["data/weights/model_weights_config.json"])["config"]
    assert weights
    assert not any(weight["use_pickle"] for weight in weights.values())
    # Pickles begin with their protocol, those of PyTorch are zip archives.
    assert not [name for name, data in content.items() if data.startswith((b"\x80\x02", b"PK"))]
    assert content["extra/recipe.py"] == Path(recipe.__file__).read_bytes()


ALONE = """
import json, runpy, sys
for name in ("cyclegan", "viz", "tracking", "search", "workbench", "mlflow", "yaml", "pydantic"):
    sys.modules[name] = None  # importing it is an error now
for line in json.loads(sys.argv[1]):
    sys.argv = line
    runpy.run_path(line[0], run_name="__main__")
"""


def test_the_recipe_inside_does_what_enhance_does_without_this_project(
    generator_file: Callable[..., Path], tmp_path: Path
) -> None:
    raw = (300 + 20 * noise(3, 9, 13, 17)).numpy()
    raw[0, 0, 0] = np.nan
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = raw
        file["data"].attrs["voxel_size_um"] = [0.7, 0.7, 1.4]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = []
    for scale in NETS:
        path = generator_file(scale)
        portable = export_generator(path, elsewhere / f"{scale}.pt2").path
        with zipfile.ZipFile(portable) as archive:
            (elsewhere / "recipe.py").write_bytes(archive.read("archive/extra/recipe.py"))
        options = ["--units", "target", "--tile", "12"]
        lines.append(["recipe.py", portable.name, "../scan.h5", f"{scale}.h5", *options])
        enhance_file(
            load_generator(path).network,
            VolumeEntry(path=tmp_path / "scan.h5", dset="data"),
            tmp_path / f"{scale}.h5",
            EnhanceSettings(scale=(1000.0, 50.0)),
        )
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, json.dumps(lines)],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for scale in NETS:
        name = f"{scale}.h5"
        with h5py.File(tmp_path / name) as wanted, h5py.File(elsewhere / name) as got:
            assert difference(got["data"][:], wanted["data"][:]) <= 1e-5
            sizes = [file["data"].attrs["voxel_size_um"] for file in (got, wanted)]
            np.testing.assert_allclose(*sizes)


@pytest.mark.parametrize(("scale", "direction"), [(1, "A"), (4, "A"), (4, "B")])
def test_tiles_by_the_halo_inside_give_the_whole(
    generator_file: Callable[..., Path], tmp_path: Path, scale: int, direction: Any
) -> None:
    path = generator_file(scale)
    trained = load_generator(path, direction)
    done = export_generator(path, tmp_path / "g.pt2", direction=direction)
    generator, about = recipe.load(done.path)
    step = about["alignment"]
    volume = noise(4, 1, 5 * step + 1, step, 2 * step - 1).numpy()
    whole = recipe.translate(generator, about, volume)
    assert difference(recipe.translate(generator, about, volume, step), whole) <= 1e-5
    assert difference(whole[0], enhance_array(trained.network, volume)) <= 1e-5
    with pytest.raises(ValueError, match=f"multiples of {step}"):
        recipe.translate(generator, about, volume, step + 1)
    # A halo one block smaller would not be enough.
    short = about | {"halo_left": about["halo_left"] - step}
    assert difference(recipe.translate(generator, short, volume, step), whole) > 1e-5


def test_several_channels(generator_file: Callable[..., Path], tmp_path: Path) -> None:
    path = generator_file(channels_A=2, channels_B=2)
    trained = load_generator(path)
    generator, about = recipe.load(export_generator(path, tmp_path / "g.pt2").path)
    assert about["output"]["shape"] == [-1, 2, -1, -1, -1]
    volume = noise(5, 2, 9, 8, 12).numpy()
    wanted = apply_tiled(Generator(trained.network), volume)["data"]
    assert difference(recipe.translate(generator, about, volume, 4), wanted) <= 1e-5


@pytest.mark.parametrize("units", ["standardised", "input", "target"])
def test_grey_values_come_back(units: str) -> None:
    about = {"output": {"grey_scale": SCALES["B"]}}
    offset, factor = recipe.grey_values(about, units, 300.0, 20.0)
    wanted = {"standardised": (0, 1), "input": (300, 20), "target": (1000, 50)}
    assert (offset, factor) == wanted[units]
    with pytest.raises(ValueError, match="does not know"):
        recipe.grey_values({"output": {"grey_scale": None}}, "target", 0, 1)


@pytest.mark.parametrize(("scale", "wanted"), [(SCALES["A"], (400.0, 30.0)), (None, (0.0, 1.0))])
def test_a_part_of_a_training_scan_gets_the_grey_scale_of_the_training(
    generator_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scale: Any,
    wanted: tuple[float, float],
) -> None:
    monkeypatch.setitem(SCALES, "A", scale) if scale else monkeypatch.delitem(SCALES, "A")
    portable = export_generator(generator_file(), tmp_path / "g.pt2").path
    generator, about = recipe.load(portable)
    assert recipe.trained_on(about) == wanted
    raw = (300 + 20 * noise(3, 8, 12, 16)).numpy()  # other grey values than the whole scan's
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = raw
    line = [str(portable), "part.h5", "enhanced.h5", "--grey-scale", "training"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recipe.py", *line])
    recipe.main()
    image = recipe.translate(generator, about, recipe.standardise(raw, *wanted)[None])[0]
    with h5py.File(tmp_path / "enhanced.h5") as file:
        np.testing.assert_array_equal(file["data"][:], image)


@pytest.mark.parametrize("standardise", ["auto", "always", "never"])
def test_what_is_taken_off_is_what_this_project_takes_off(tmp_path: Path, standardise: Any) -> None:
    for number, (offset, factor) in enumerate([(300.0, 20.0), (0.02, 1.02), (0.0, 1.2)]):
        raw = (offset + factor * noise(6, 8, 9, 10)).numpy()
        raw[1, 2, 3] = np.inf
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["data"] = raw
        volume = Volume(VolumeEntry(path=path, dset="data"), standardise=standardise)
        mean, std = recipe.measure(raw, {"standardise": standardise})
        np.testing.assert_allclose((mean, std), (volume.mean, volume.std), rtol=1e-12)
        read = volume.read((0, 0, 0), volume.shape)[0]
        np.testing.assert_allclose(recipe.standardise(raw, mean, std), read, rtol=1e-5, atol=1e-5)


def test_nothing_is_overwritten_and_mistakes_are_told(
    generator_file: Callable[..., Path], tmp_path: Path
) -> None:
    path, output = generator_file(), tmp_path / "g.pt2"
    output.write_text("mine")
    with pytest.raises(DataError, match="already exists"):
        export_generator(path, output)
    assert output.read_text() == "mine"
    export_generator(path, output, overwrite=True)
    with pytest.raises(UsageError, match=r"must end in \.pt2"):
        export_generator(path, tmp_path / "g.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        export_generator(tmp_path / "none.pt", tmp_path / "h.pt2")
    # It is for use elsewhere: this project takes the file that it was made from.
    with pytest.raises(CheckpointError, match=r"exported.*generator\.pt"):
        load_generator(output)


@pytest.mark.parametrize("wrong", ["an exception", "another network"])
def test_a_file_that_does_not_agree_is_not_written(
    generator_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    path, exported = generator_file(), exporting._exported

    def spoiled(network: Any) -> Any:
        if wrong == "an exception":
            raise RuntimeError("Unsupported: this layer\nand a long trace")
        network = build_generator("UNetSim3d", filters=2, activation="leaky_relu")
        return exported(network.requires_grad_(False).eval())

    monkeypatch.setattr(exporting, "_exported", spoiled)
    words = "Unsupported: this layer$" if wrong == "an exception" else "differs by"
    with pytest.raises(CycleGANError, match=words):
        export_generator(path, tmp_path / "g.pt2")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
