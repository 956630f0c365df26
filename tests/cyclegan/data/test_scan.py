"""Scans: regions of one dataset in one file share a grey scale, and a scan is recognised."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import Scan, Statistics, Volume, VolumeEntry, open_volumes
from cyclegan.data.scan import find_scan, fingerprint_of

Whole = Callable[[Volume], np.ndarray]
TOP, BOTTOM = ((0, 8), None, None), ((8, 12), None, None)
SLABS = [(slice(0, 8), 0.0, 1.0), (slice(8, 12), -0.2, 0.8)]


def unlike(mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """Two slabs with about this `mean` and `std`; the second is darker and has less contrast."""
    array = np.random.default_rng(0).normal(size=(12, 10, 10))
    for slab, offset, factor in SLABS:
        part = array[slab]
        array[slab] = offset + factor * (part - part.mean()) / part.std()
    return (mean + std * array).astype(np.float32)


def entry(source: VolumeEntry, roi: Any, **other: Any) -> VolumeEntry:
    return replace(source, roi=roi, **other)


def scales(volumes: list[Volume]) -> set[tuple[float, float]]:
    return {(volume.mean, volume.std) for volume in volumes}


# -- one grey scale ---------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (300.0, 20.0)])
def test_a_region_is_read_as_the_known_one_of_its_scan(
    write: Any, whole: Whole, budget: Any, mean: float, std: float, memory: float
) -> None:
    array = unlike(mean, std)
    source = write(array)
    (first,) = open_volumes([entry(source, TOP)], budget=budget(memory))
    alone = Volume(entry(source, BOTTOM))
    (second,) = open_volumes([entry(source, BOTTOM)], scans=[first.scan], budget=budget(memory))
    assert (alone.mean, alone.std) != (first.mean, first.std)  # otherwise this would prove nothing
    assert ((first.mean, first.std) == (0, 1)) == (mean == 0)
    assert (second.mean, second.std) == (first.mean, first.std)
    np.testing.assert_allclose(
        whole(second)[0], (array[8:] - first.mean) / first.std, rtol=1e-5, atol=1e-5
    )
    assert second.statistics == alone.statistics  # its own are still known
    assert (second.has_own_scale, first.has_own_scale) == (False, True)


@pytest.mark.parametrize("memory", [0, 1e9])
def test_regions_of_one_scan_are_pooled(
    write: Any, whole: Whole, budget: Any, memory: float
) -> None:
    array = unlike(300, 20)
    source = write(array)
    volumes = open_volumes(
        [entry(source, TOP), entry(source, BOTTOM), entry(source, TOP)], budget=budget(memory)
    )
    ((mean, std),) = scales(volumes)
    exact = array.astype(np.float64)
    assert (mean, std) == pytest.approx((exact.mean(), exact.std()), rel=1e-9)
    together = np.concatenate([whole(volume)[0] for volume in volumes[:2]])
    np.testing.assert_allclose(together, (exact - mean) / std, atol=1e-4)
    assert volumes[0].scan.regions == ("[0:8, :, :]", "[8:12, :, :]")


def test_whether_a_scan_is_left_as_it_is_is_decided_for_all_its_regions(write: Any) -> None:
    source = write(unlike())
    assert scales([Volume(entry(source, BOTTOM))]) != {(0.0, 1.0)}
    assert scales(open_volumes([entry(source, TOP), entry(source, BOTTOM)])) == {(0.0, 1.0)}


def test_one_region_has_its_statistics_to_the_last_digit(write: Any) -> None:
    source = write(unlike(300, 20))
    alone = Volume(source)
    twice = open_volumes([source, source])
    assert scales(twice) == {(alone.statistics.mean, alone.statistics.std)}


def test_a_scan_is_one_by_whatever_name_it_is_reached(tmp_path: Path, write: Any) -> None:
    source = write(unlike(300, 20), dset="g/data")
    (tmp_path / "link.h5").symlink_to(source.path)
    with h5py.File(source.path, "a") as handle:
        handle["soft"] = h5py.SoftLink("/g/data")
        handle["hard"] = handle["g/data"]
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["x"] = h5py.ExternalLink("v.h5", "/g/data")
    names = [("v.h5", "g/data"), ("v.h5", "soft"), ("v.h5", "hard"), ("link.h5", "/g/data")]
    for path, dset in [*names, ("other.h5", "x")]:
        other = VolumeEntry(path=tmp_path / path, dset=dset, roi=BOTTOM)
        assert len(scales(open_volumes([entry(source, TOP), other]))) == 1, (path, dset)


def test_other_datasets_and_other_files_keep_their_own(write: Any) -> None:
    sources = [
        write(unlike(mean, 20), name=name, dset=dset)
        for mean, name, dset in ((300, "v.h5", "a"), (500, "v.h5", "b"), (700, "w.h5", "a"))
    ]
    volumes = open_volumes(sources)
    assert len(scales(volumes)) == 3
    assert all(volume.has_own_scale for volume in volumes)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_non_finite_voxels_get_the_mean_of_the_scan(write: Any, whole: Whole, mean: float) -> None:
    array = unlike(mean, 1.0)
    array[9, 3, 3], array[10, 3, 3] = np.nan, np.inf
    source = write(array)
    first, second = open_volumes([entry(source, TOP), entry(source, BOTTOM)])
    expected = (second.scan.statistics.mean - second.mean) / second.std
    np.testing.assert_allclose(whole(second)[0, 1:3, 3, 3], expected, atol=1e-6)
    assert second.statistics.non_finite == 2
    assert first.statistics.non_finite == 0


def test_a_part_is_what_the_volume_has_there(write: Any, whole: Whole) -> None:
    source = write(unlike(300, 20))
    volume = Volume(source, standardise="always")
    part = volume.part(((8, 12), (2, 7), None))
    np.testing.assert_array_equal(whole(part), whole(volume)[:, 8:12, 2:7])
    raw = Volume(source, standardise="never").part(BOTTOM)
    np.testing.assert_array_equal(whole(raw)[0], unlike(300, 20)[8:])


def test_one_line_says_whose_numbers_are_taken(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name, mean, done in (("a.h5", 300, "standardised on load"), ("b.h5", 0, "left as it is")):
        source = write(unlike(mean), name=name)
        (first,) = open_volumes([entry(source, TOP)])
        caplog.clear()
        open_volumes([entry(source, BOTTOM)], scans=[first.scan])
        (record,) = caplog.records
        numbers = f"mean {first.statistics.mean:.6g} and standard deviation"
        told = f"data[8:12, :, :] is {done}: [0:8, :, :] of this scan has {numbers}"
        assert told in record.getMessage()
        assert name in record.getMessage()


# -- recognition of a scan --------------------------------------------------------------------


@pytest.fixture
def trained(write: Any) -> Scan:
    """A scan as stored with a generator."""
    scan = Volume(entry(write(unlike(300, 20)), TOP)).scan
    kept = replace(scan, fingerprint=fingerprint_of(scan.place))
    assert kept.fingerprint
    return Scan.from_plain(json.loads(json.dumps(kept.to_plain())))


def test_it_is_the_same_after_a_file(trained: Scan, tmp_path: Path) -> None:
    place = Volume(VolumeEntry(path=tmp_path / "v.h5", dset="data")).scan.place
    found, why = find_scan([trained], place)
    assert (found, why) == (trained, "the generator was trained on that")
    assert (
        trained.statistics
        == Volume(entry(VolumeEntry(path=place.path, dset="data"), TOP)).scan.statistics
    )


def test_a_copy_elsewhere_is_found_by_its_content(trained: Scan, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "w.h5"
    moved.parent.mkdir()
    shutil.move(tmp_path / "v.h5", moved)
    found, why = find_scan([trained], Volume(VolumeEntry(path=moved, dset="data")).scan.place)
    assert found == trained
    assert f"then {tmp_path / 'v.h5'}" in why


def test_another_content_under_the_old_path_is_another_scan(
    trained: Scan, tmp_path: Path, write: Any
) -> None:
    (tmp_path / "v.h5").unlink()
    place = Volume(write(unlike(500, 20))).scan.place
    found, why = find_scan([trained], place)
    assert (found, "has changed" in why) == (None, True)
    # Without the old content only the path can identify it.
    found, why = find_scan([replace(trained, fingerprint="")], place)
    assert found is not None
    assert "by the file's path" in why


def test_another_dataset_or_file_is_no_scan_of_the_training(trained: Scan, write: Any) -> None:
    write(unlike(300, 20), name="w.h5", dset="a")
    for source in (write(unlike(9, 2), name="w.h5"), write(unlike(300, 20), name="w.h5", dset="b")):
        found, why = find_scan([trained], Volume(source).scan.place)
        assert (found, "not trained on it" in why) == (None, True)
    assert "does not say" in find_scan([], trained.place)[1]


def test_a_file_that_is_gone_has_no_fingerprint(trained: Scan, tmp_path: Path) -> None:
    (tmp_path / "v.h5").unlink()
    assert fingerprint_of(trained.place) == ""


def test_statistics_of_a_plain_scan_keep_every_digit() -> None:
    from cyclegan.data.region import Place

    statistics = Statistics(10, 1, 1 / 3, 2 / 7)
    scan = Scan(
        place=Place(Path("a.h5"), 800, "/data"), regions=("[0:1, :, :]",), statistics=statistics
    )
    assert Scan.from_plain(json.loads(json.dumps(scan.to_plain()))) == scan
