from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cyclegan.data import Volume, VolumeEntry
from cyclegan.model import IMAGES
from tracking.cycle_volumes import write_cycle
from viz.viewer import Layer, cycle_layers, enhanced_layers, fit, viewer_page


def test_a_cycle_of_any_scale_is_shown(tmp_path: Path) -> None:
    size = {name: 6 if name.endswith("_A") else 12 for name in IMAGES}
    images = {name: torch.randn(2, 1, n, n, n) for name, n in size.items()}
    write_cycle(tmp_path / "cycle.h5", images, {})
    with h5py.File(tmp_path / "cycle.h5") as file:
        layers = cycle_layers({n: file[n][()] for n in IMAGES}, patch=1, voxel_size_A=(4, 4, 2))
    found = {layer.name: layer for layer in layers}
    assert set(found) == set(IMAGES)
    for name, layer in found.items():
        assert np.array_equal(layer.data, images[name][1, 0].numpy())
        assert layer.domain == name[-1]
        assert layer.voxel_size == ((4, 4, 2) if name.endswith("_A") else (2, 2, 1))
    assert len(viewer_page(layers, title="t")) > 0


@pytest.mark.parametrize("leading", [(), (3,)])
def test_an_enhanced_volume_is_shown_with_its_maps(tmp_path: Path, leading: tuple) -> None:
    fine = np.random.default_rng(0).random((*leading, 8, 12, 12))
    with h5py.File(tmp_path / "enhanced.h5", "w") as file:
        file["data"] = fine
        file["data"].attrs.update({"units": "attenuation", "voxel_size_um": [1.5, 1.5, 1.5]})
        for name, n in (("cycle", (4, 6, 6)), ("doubt", (8, 12, 12))):
            file[f"trust/{name}"] = np.zeros((*leading, *n))
    with h5py.File(tmp_path / "enhanced.h5") as file:
        layers = enhanced_layers(file, source=np.zeros((4, 6, 6)))
        names = [(layer.name, layer.kind) for layer in layers]
        page = viewer_page(layers, title="t")
    assert names == [("input", "image"), ("enhanced", "image"), ("doubt", "map"), ("cycle", "map")]
    assert [layer.voxel_size for layer in layers] == [(3, 3, 3), (1.5,) * 3, (1.5,) * 3, (3, 3, 3)]
    assert '"pairs": [["input", "enhanced"]]' in page


class Counted:
    """An array-like object that counts the voxels read by slicing."""

    ndim = 3

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.size, self.dtype = shape, int(np.prod(shape)), np.dtype(np.float32)
        self.read = self.most = 0

    def __getitem__(self, window: tuple[slice, slice, slice]) -> np.ndarray:
        shape = [len(range(*s.indices(n))) for s, n in zip(window, self.shape, strict=True)]
        part = np.random.default_rng(0).random(shape, np.float32)
        self.read, self.most = self.read + part.size, max(self.most, part.size)
        return part


def test_of_a_volume_larger_than_memory_only_what_is_shown_is_read() -> None:
    volume = Counted((40_000, 30_000, 30_000))
    page = viewer_page([Layer(name="enhanced", data=volume)], title="t", limit=300_000)
    assert "only the centre of 40000×30000×30000 voxels" in page
    assert volume.read < 4_000_000


def test_a_volume_is_binned_in_bricks_of_a_bounded_size() -> None:
    volume = Counted((300, 250, 400))
    page = viewer_page([Layer(name="v", data=volume)], title="t", limit=300_000, fit="bin")
    assert "are binned" in page
    assert volume.most <= 192**3


def test_means_of_bricks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).normal(size=(13, 22, 31)).astype(np.float32)
    data[:3, :2, :4] = np.nan
    monkeypatch.setattr(fit, "_BRICK", 7)
    found = fit._binned(data, (12, 22, 28), (3, 2, 4))
    blocks = data[:12, :, :28].reshape(4, 3, 11, 2, 7, 4)
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        expected = np.nanmean(blocks.astype(np.float64), axis=(1, 3, 5))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isnan(found[0, 0, 0])


def test_the_input_is_read_in_the_grey_values_of_the_result(tmp_path: Path) -> None:
    raw = 300 + 20 * np.random.default_rng(0).normal(size=(4, 6, 6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = raw
    volume = Volume(VolumeEntry(path=tmp_path / "a.h5", dset="data"))
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("data", (8, 12, 12), "f4", maxshape=(None,) * 3)
        file["data"].attrs.update({"offset": volume.mean, "factor": volume.std})
        source, _ = enhanced_layers(file, source=volume)
        np.testing.assert_allclose(source.data[1:3, :, :5], raw[1:3, :, :5], rtol=1e-5)
        assert source.data.shape == (4, 6, 6)
        file["data"].resize((4, 8, 12))
        region = ((1, 3), (0, 4), (0, 6))
        part, _ = enhanced_layers(file, source=volume, region=region)
        assert part.data.shape == (2, 4, 6)
        np.testing.assert_allclose(part.data[1:2, :3, :], raw[2:3, :3], rtol=1e-5)
