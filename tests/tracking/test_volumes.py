"""The six images as a file for HDF5 viewers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from cyclegan.model import IMAGES
from tracking.cycle_volumes import read_cycle, write_cycle


def cycle(factor: int) -> dict[str, np.ndarray]:
    """Return two patches of 6 x 8 x 10 voxels in A, `factor` times as fine in B."""
    random = np.random.default_rng(0)
    return {
        name: random.normal(
            size=(2, 1, *(np.array([6, 8, 10]) * (factor if name.endswith("B") else 1)))
        ).astype(np.float32)
        for name in ("real_A", "rec_A", "fake_A", "real_B", "rec_B", "fake_B")
    }


def test_viewers_find_the_image_and_its_axes(tmp_path: Path) -> None:
    """See https://manual.nexusformat.org/datarules.html#find-plottable-data."""
    images = cycle(2)
    path = tmp_path / "cycle.h5"
    write_cycle(path, images, {"iteration": 400, "score": -1.5}, (0.8, 0.4, 0.4))
    with h5py.File(path) as file:
        group = file
        while "default" in group.attrs:
            group = group[group.attrs["default"]]
        assert group.name == "/entry/fake_B"  # the most important image is shown first
        for name in IMAGES:
            group = file["entry"][name]
            assert group.attrs["NX_class"] == "NXdata"
            signal = group[group.attrs["signal"]]
            assert signal == file[name]
            assert signal.compression == "gzip"
            axes = [group[axis] for axis in group.attrs["axes"]]
            assert tuple(len(axis) for axis in axes) == signal.shape
            z, y = axes[2], axes[3]
            fine = 2 if name.endswith("B") else 1
            assert (z.attrs["units"], y.attrs["units"]) == ("um", "um")
            assert np.isclose(z[1] - z[0], 0.8 / fine)
            assert np.isclose(y[1] - y[0], 0.4 / fine)
        assert (file.attrs["iteration"], file.attrs["score"]) == (400, -1.5)
    for name, image in read_cycle(path).items():
        assert np.array_equal(image, images[name]), name


def test_without_a_voxel_size_axes_are_voxels(tmp_path: Path) -> None:
    write_cycle(tmp_path / "cycle.h5", cycle(1), {})
    with h5py.File(tmp_path / "cycle.h5") as file:
        z = file["entry/fake_B/z"]
        assert (z.attrs["units"], list(z[:3])) == ("voxel", [0, 1, 2])
        assert "voxel_size_um" not in file["fake_B"].attrs
