"""Voxel sizes: units as formats spell them, and the many places for a size in an HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data.voxel_size import as_voxel_size, lacks_unit, micrometres, voxel_size_um

SHAPE = (5, 6, 7)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("nm", 1e-3),
        ("um", 1),
        ("µm", 1),
        ("μm", 1),
        (b"\xc2\xb5m", 1),
        (np.array(["um"], object), 1),
        ("micron", 1),
        ("Micrometers", 1),
        ("micrometres", 1),
        (" mm ", 1e3),
        ("cm", 1e4),
        ("m", 1e6),
        ("Å", 1e-4),
        ("inch", 25400),
        ("pixel", None),
        ("", None),
        (None, None),
        ("s", None),
    ],
)
def test_units_of_length_are_understood(unit: Any, expected: float | None) -> None:
    assert micrometres(unit) == expected


@pytest.mark.parametrize(
    "values", ["x", None, [1, 2], [1, None, 1], 0, -1, np.nan, [1, np.inf, 1], []]
)
def test_what_is_no_length_is_no_voxel_size(values: Any) -> None:
    assert as_voxel_size(values) is None


@pytest.fixture
def handle(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "v.h5", "w") as opened:
        opened["entry/data/volume"] = np.zeros(SHAPE, np.uint8)
        yield opened


def put(handle: h5py.File, name: str, value: Any, unit: str | None) -> None:
    handle[name] = value
    if unit is not None:
        handle[name].attrs["units"] = unit


@pytest.mark.parametrize(
    ("place", "attributes", "expected"),
    [
        ("entry/data/volume", {"voxel_size_um": 0.8}, (0.8, 0.8, 0.8)),
        ("entry/data/volume", {"voxel_size_um": [1.0, 2.0, 3.0]}, (1, 2, 3)),
        ("entry/data/volume", {"element_size_um": [1.0, 2.0, 3.0]}, (1, 2, 3)),
        ("/", {"voxel_size_um": 0.8}, (0.8, 0.8, 0.8)),
        ("entry", {"voxel_size_um": np.float32(0.5)}, (0.5, 0.5, 0.5)),
        ("entry", {"voxel_size": 0.002, "voxel_size_units": "mm"}, (2, 2, 2)),
        ("entry", {"voxel_size": 0.002, "voxel_size_unit": "mm"}, (2, 2, 2)),
        ("entry/data/volume", {"pixel_size": 2e-6, "pixel_size_units": b"m"}, (2, 2, 2)),
        ("entry", {"pixel_size": [1, 2, 3], "units": "nm"}, (1e-3, 2e-3, 3e-3)),
        ("entry", {"x_pixel_size": 3, "y_pixel_size": 2, "z_pixel_size": 1, "units": "um"}, 123),
        ("entry", {"x_pixel_size": 3, "y_pixel_size": 2, "units": "um"}, None),  # a detector's
        ("entry", {"voxel_size": 3}, None),
        ("entry/data/volume", {"pixel_size": 3, "units": "um"}, None),  # the unit of grey values
        ("entry", {"pixel_size": [3, 4], "units": "um"}, None),
        ("entry", {"voxel_size": 3, "units": "counts"}, None),
        ("entry", {"voxel_size_um": -1.0}, None),
        ("entry", {"voxel_size_um": "large"}, None),
        ("entry", {"voxel_size_um": np.nan}, None),
        ("/", {}, None),
    ],
)
def test_attributes_of_the_dataset_or_a_group_above_state_it(
    handle: h5py.File, place: str, attributes: dict[str, Any], expected: Any
) -> None:
    handle[place].attrs.update(attributes)
    wanted = (1, 2, 3) if expected == 123 else expected
    found = voxel_size_um(handle["entry/data/volume"])
    assert found == (wanted and pytest.approx(wanted))


@pytest.mark.parametrize(
    ("names", "values", "unit", "expected"),
    [
        (["voxel_size"], [[4e-7, 5e-7, 6e-7]], "m", (0.4, 0.5, 0.6)),
        (["pixel_size"], [500.0], "nm", (0.5, 0.5, 0.5)),
        (["voxel_size_um"], [0.5], None, (0.5, 0.5, 0.5)),
        (["z_pixel_size", "y_pixel_size", "x_pixel_size"], [2e-3, 1e-3, 1e-3], "mm", (2, 1, 1)),
        (["z_pixel_size", "y_pixel_size", "x_pixel_size"], [2e-3, 1e-3, 1e-3], "deg", None),
        (["y_pixel_size", "x_pixel_size"], [1e-3, 1e-3], "mm", None),
        (["pixel_size"], [np.ones(4)], "um", None),
    ],
)
@pytest.mark.parametrize("group", ["entry/data", "entry", ""])
def test_datasets_beside_or_above_the_volume_state_it(
    handle: h5py.File, group: str, names: list[str], values: list[Any], unit: Any, expected: Any
) -> None:
    for name, value in zip(names, values, strict=True):
        put(handle, f"{group}/{name}", value, unit)
    found = voxel_size_um(handle["entry/data/volume"])
    assert found == (expected and pytest.approx(expected))


def axes(handle: h5py.File, shape: tuple[int, ...] = SHAPE, units: tuple[str, ...] = ("um",) * 3):
    handle["entry/data"].attrs["axes"] = ["z", "y", "x"]
    for name, step, length, unit in zip("zyx", (2.0, 0.5, -0.25), shape, units, strict=True):
        put(handle, f"entry/data/{name}", np.arange(length) * step + 3, unit)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (2.0, 0.5, 0.25)),
        ({"units": ("mm", "um", "nm")}, (2000, 0.5, 0.00025)),
        ({"units": ("deg", "um", "um")}, None),  # projections
        ({"shape": (5, 6, 8)}, None),  # of something else
        ({"shape": (1, 6, 7)}, None),
    ],
)
def test_nxdata_coordinates_state_it_if_they_are_lengths_along_all_axes(
    handle: h5py.File, arguments: dict[str, Any], expected: Any
) -> None:
    axes(handle, **arguments)
    found = voxel_size_um(handle["entry/data/volume"])
    assert found == (expected and pytest.approx(expected))


def test_the_nearest_place_counts_and_in_it_the_plainest_name(handle: h5py.File) -> None:
    volume = handle["entry/data/volume"]
    handle.attrs["voxel_size_um"] = 9.0
    assert voxel_size_um(volume) == (9, 9, 9)
    axes(handle)
    assert voxel_size_um(volume) == (2, 0.5, 0.25)
    put(handle, "entry/data/pixel_size", 4.0, "um")
    assert voxel_size_um(volume) == (4, 4, 4)
    handle["entry/data"].attrs["voxel_size_um"] = 3.0
    assert voxel_size_um(volume) == (3, 3, 3)
    volume.attrs.update(pixel_size=2.0, pixel_size_units="um")
    assert voxel_size_um(volume) == (2, 2, 2)


def test_a_size_without_unit_is_told_from_none(handle: h5py.File) -> None:
    volume = handle["entry/data/volume"]
    assert not lacks_unit(volume)
    volume.attrs["pixel_size"] = "large"
    assert not lacks_unit(volume)
    put(handle, "entry/pixel_size", 3.0, None)
    assert lacks_unit(volume)
    handle["entry/pixel_size"].attrs["units"] = "um"
    assert not lacks_unit(volume)
