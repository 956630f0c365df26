"""Both domains on the disk: the content of the files, none of them lost or incomplete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cyclegan.data import DatasetSpec
from cyclegan.errors import DataError, UsageError
from cyclegan.simulate import FAST, SLOW, SimulatedDomains, real, real_attenuation, simulate
from cyclegan.simulate import domains as rooms

TRUTH = "validate_truth.h5"


def read(path: Path) -> np.ndarray:
    with h5py.File(path) as handle:
        return handle["data"][()]


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    low, high = np.percentile(reference, [0.1, 99.9])
    return float(10 * np.log10((high - low) ** 2 / np.mean((image - reference) ** 2)))


def match(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDomains:
    """The real volume, scanned in full."""
    return simulate(tmp_path_factory.mktemp("real"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small phantoms and few angles, for tests that don't depend on the images."""
    monkeypatch.setattr(rooms, "_PHANTOM_DEPTH", dict.fromkeys(rooms._PHANTOM_DEPTH, 8))
    monkeypatch.setattr(rooms, "_PHANTOM_SIZE", {1: 48, 2: 48, 4: 72})
    monkeypatch.setattr(rooms, "SLOW", replace(SLOW, angles=30))
    return


def test_volumes_are_standardised_and_described(made: SimulatedDomains) -> None:
    for path in made.files[2:-1]:
        with h5py.File(path) as handle:
            data = handle["data"]
            assert data.dtype == np.float32
            assert data.chunks is not None
            assert data.compression == "gzip"
            assert abs(data[()].mean(dtype=np.float64)) < 1e-5
            assert data[()].std(dtype=np.float64) == pytest.approx(1, abs=1e-5)
            assert handle.attrs["NX_class"] == "NXdata"
            assert handle.attrs["signal"] == "data"
            assert "instrument and specimen unknown" in handle.attrs["source"]
            assert "voxel_size_um" not in data.attrs
            settings = FAST[1] if path.name.startswith("fast") else SLOW
            assert json.loads(handle.attrs["scan"])["angles"] == settings.angles
            # The recorded mean and deviation restore the attenuation.
            map_mean = real_attenuation().mean()
            restored = data[()] * data.attrs["std"] + data.attrs["mean"]
            assert restored.mean() == pytest.approx(map_mean, rel=0.05)


def test_parts_share_no_slice_and_validation_is_aligned(made: SimulatedDomains) -> None:
    volume = real_attenuation()[:, 8:-8, 8:-8]
    parts = sorted(rooms.REAL_PARTS.values())
    assert all(end < start for (_, end), (start, _) in pairwise(parts))
    for name, part in (
        ("fast_train", "fast_train"),
        ("slow_train", "slow_train"),
        ("fast_validate", "validate"),
        ("slow_validate", "validate"),
    ):
        scanned = read(made.folder / f"{name}.h5")
        start, end = rooms.REAL_PARTS[part]
        right = match(scanned, volume[start:end])
        assert right > (0.8 if name.startswith("slow") else 0.5)
        for axis in range(3):
            for shift in (-1, 1):
                moved = np.roll(volume, shift, axis)[start:end]
                assert match(scanned, moved) < right - 0.05


def test_the_fast_scan_is_noisy_but_not_lost(made: SimulatedDomains) -> None:
    fast, slow = (read(made.folder / f"{speed}_validate.h5") for speed in ("fast", "slow"))
    assert 19 < psnr(fast, slow) < 22
    smooth = gaussian_filter(fast, 0.9)
    assert psnr(smooth / smooth.std(), slow) > psnr(fast, slow) + 2


def test_dataset_files_can_be_trained_on(made: SimulatedDomains) -> None:
    for path, speed in ((made.fast, "fast"), (made.slow, "slow")):
        spec = DatasetSpec.load(path)
        assert [entry.path for entry in spec.train] == [made.folder / f"{speed}_train.h5"]
        assert [entry.path for entry in spec.validate] == [made.folder / f"{speed}_validate.h5"]
        assert read(spec.train[0].path).shape == (56, 134, 134)
        assert read(spec.validate[0].path).shape == (32, 134, 134)


def test_the_same_arguments_are_not_done_twice(made: SimulatedDomains) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.files}
    labels: list[str] = []
    again = simulate(made.folder, on_progress=lambda label, done, total: labels.append(label))
    assert again.reused
    assert not made.reused
    assert not labels
    assert before == {path: path.stat().st_mtime_ns for path in again.files}


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_phantoms_come_with_their_truth(small: None, tmp_path: Path, scale: int) -> None:
    made = simulate(tmp_path, phantom=True, scale=scale, seed=3)
    assert made.truth == tmp_path / TRUTH
    assert all(path.is_file() for path in made.files)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in made.files}
    slow, truth = read(tmp_path / "slow_validate.h5"), read(made.truth)
    fast = read(tmp_path / "fast_validate.h5")
    assert slow.shape == truth.shape == tuple(n * scale for n in fast.shape)
    assert match(slow, truth) > 0.8
    coarse = fast.repeat(scale, 0).repeat(scale, 1).repeat(scale, 2)
    assert match(coarse, slow) > 0.3
    assert abs(match(read(tmp_path / "slow_train.h5"), slow)) < 0.2
    with h5py.File(tmp_path / "fast_train.h5") as handle:
        size = handle["data"].attrs["voxel_size_um"]
    assert size == pytest.approx({1: 0.8, 2: 1.6, 4: 1.6}[scale])


def test_a_seed_fixes_the_bytes(small: None, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in "abc")
    for folder, seed in ((first, 1), (second, 1), (other, 2)):
        simulate(folder, phantom=True, seed=seed)
    assert contents(first) == contents(second)
    for name in rooms._VOLUMES:
        assert not np.array_equal(read(first / name), read(other / name))


def test_other_arguments_are_refused_then_overwritten(small: None, tmp_path: Path) -> None:
    simulate(tmp_path, phantom=True, seed=1)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="--overwrite"):
        simulate(tmp_path, phantom=True, seed=2)
    assert contents(tmp_path) == before
    simulate(tmp_path, phantom=True, seed=2, overwrite=True)
    assert not set(contents(tmp_path).values()) & {before[name] for name in rooms._VOLUMES}


def test_somebodys_own_files_are_left_alone(small: None, tmp_path: Path) -> None:
    mine = tmp_path / "slow_train.h5"
    mine.write_bytes(b"years of work")
    with pytest.raises(DataError, match=r"slow_train\.h5"):
        simulate(tmp_path, phantom=True)
    mine.rename(tmp_path / "elsewhere.h5")
    (tmp_path / "fast.json").write_text("{}")
    with pytest.raises(DataError, match=r"fast\.json"):
        simulate(tmp_path, phantom=True)
    assert contents(tmp_path) == {"elsewhere.h5": b"years of work", "fast.json": b"{}"}


def test_an_interrupted_run_leaves_nothing_and_is_redone(small: None, tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if label == "validate: slow scan":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, phantom=True, on_progress=stop)
    assert not list(tmp_path.iterdir())
    whole = contents(simulate(tmp_path, phantom=True).folder)

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, phantom=True, seed=9, overwrite=True, on_progress=stop)
    assert contents(tmp_path) == whole

    for lost in ("simulation.json", "slow_train.h5", "slow.json"):
        (tmp_path / lost).unlink()
        assert not simulate(tmp_path, phantom=True).reused
        assert contents(tmp_path) == whole


def test_a_set_of_the_real_volume_replaces_the_phantoms_truth(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "SLOW", replace(SLOW, angles=8))
    simulate(tmp_path, phantom=True)
    made = simulate(tmp_path, overwrite=True, scale=2)
    assert made.truth is None
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in made.files}
    assert read(tmp_path / "fast_train.h5").shape == (28, 67, 67)


def test_progress_counts_up_to_the_end(small: None, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    simulate(tmp_path, phantom=True, on_progress=lambda label, *count: seen.append(count))
    assert seen == [(done, 7) for done in range(8)]


@pytest.mark.parametrize(
    ("wish", "words"),
    [({"scale": 3}, "scale = 3"), ({"scale": 4}, "phantom"), ({"seed": -1}, "seed = -1")],
)
def test_wishes_that_make_no_sense(tmp_path: Path, wish: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        simulate(tmp_path / "new", **wish)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_the_real_volume_is_a_sensible_attenuation_map() -> None:
    volume = real_attenuation()
    assert volume.shape == (150, 150, 150)
    assert volume.dtype == np.float32
    assert volume.min() >= 0
    assert 1.2 < volume.sum(axis=2).mean() < 2


def test_a_missing_or_wrong_wheel_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "VERSION", "0.0.1")
    with pytest.raises(DataError, match="make install"):
        real_attenuation()
    monkeypatch.setattr(real, "PACKAGE", "no-such-wheel-anywhere")
    with pytest.raises(DataError, match="make install"):
        simulate(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(DataError, match="not a folder"):
        simulate(tmp_path / "notes")
    assert contents(tmp_path) == {"notes": b"mine"}
