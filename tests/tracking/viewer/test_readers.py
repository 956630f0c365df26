from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cyclegan.model import IMAGES
from tracking.viewer import cycle_layers, enhanced_layers, viewer_page
from tracking.volumes import write_cycle


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
