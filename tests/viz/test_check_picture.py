"""The picture that `cyclegan prepare` draws to check a volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cyclegan.prepare import Settings, open_source, prepare_volume
from viz.check_picture import write_check_picture


def test_the_picture_shows_slices_and_histograms(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(2.0, 3.0, (11, 37, 70)))
    settings = Settings(voxel_size_um=(1.0, 1.0, 1.0))
    source = open_source([tmp_path / "a.npy"])
    done = prepare_volume(source, tmp_path / "a.h5", settings, draw=write_check_picture)
    assert done.picture == tmp_path / "a.png"
    picture = np.asarray(Image.open(done.picture).convert("RGB"))
    assert picture.shape[0] > 500 and picture.shape[1] > 800
    grey = (picture.max(axis=2) == picture.min(axis=2)) & (picture[..., 0] % 255 > 0)
    assert grey[:400].mean() > 0.1  # slices above
    assert (picture[..., 2] < picture[..., 0]).any()  # the yellow scale bar


def test_without_drawing_there_is_no_picture(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(2.0, 3.0, (11, 37, 70)))
    done = prepare_volume(open_source([tmp_path / "a.npy"]), tmp_path / "a.h5", Settings())
    assert done.picture is None
    assert not list(tmp_path.glob("*.png"))
