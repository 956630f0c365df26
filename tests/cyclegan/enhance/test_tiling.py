"""Tiles of any size give the same result as one pass over the padded volume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.enhance.grid import Grid, Region, Size
from cyclegan.enhance.network import Generator
from cyclegan.enhance.tiling import apply_tiled, output_shape
from cyclegan.errors import CycleGANError, UsageError
from cyclegan.networks import GENERATORS, UNet3d, build_generator, initialise

ULP = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}


def network(name: str, filters: int = 2) -> UNet3d:
    torch.manual_seed(0)
    net = build_generator(name, filters=filters, activation="leaky_relu")
    initialise(net, std=0.3)
    return net


def volume(shape: Size, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def assert_same(tiled: np.ndarray, whole: np.ndarray) -> None:
    """Assert equality up to the order of summation, which libraries choose by the image's shape.

    The limit is 16 units in the last place of the largest value; these networks reach at most 4.
    """
    assert tiled.shape == whole.shape
    assert tiled.dtype == whole.dtype
    assert whole.std() > 0
    np.testing.assert_allclose(
        tiled, whole, rtol=0, atol=16 * ULP[whole.dtype] * np.abs(whole).max()
    )


CASES = [
    *((name, (24, 17, 30)) for name in GENERATORS if name not in ("UNet113d", "UNetSim3dSRx4")),
    ("UNetSim3dSRx4", (18, 9, 17)),
    *((name, (3, 40, 5)) for name in GENERATORS),  # smaller than a tile
    # Longer than a window along Z: halos of 144 and 288 voxels.
    ("UNetSim3dSRd2", (150, 9, 17)),
    ("UNetSim3dSRd4", (250, 9, 17)),
    ("UNet113d", (390, 3, 5)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_tile_size_changes_nothing(name: str, shape: Size, dtype: Any) -> None:
    net = network(name, 1 if name == "UNet113d" else 2)
    generator = Generator(net.double() if dtype is np.float64 else net)
    image = volume(shape, dtype)
    whole = apply_tiled(generator, image)["data"]
    assert whole.shape == (1, *output_shape(shape, generator.geometry.factor))
    step = max(generator.alignment, 8)
    cores = ((step, 2 * step, 3 * step), (4 * step, step, step))
    for core in cores if shape[0] < 300 else cores[1:]:
        assert_same(apply_tiled(generator, image, core)["data"], whole)


@pytest.mark.parametrize("name", GENERATORS)
def test_one_pass_is_the_plain_network_over_the_padded_volume(name: str) -> None:
    net, image = network(name, 1), volume((9, 20, 31))
    missing = [(0, -n % net.geometry.alignment) for n in image.shape]
    padded = np.pad(image, missing, mode="edge")
    with torch.no_grad():
        plain = net(torch.from_numpy(padded)[None, None])[0].numpy()
    z, y, x = output_shape((9, 20, 31), net.geometry.factor)
    np.testing.assert_array_equal(apply_tiled(Generator(net), image)["data"], plain[:, :z, :y, :x])


@pytest.mark.parametrize("side", ["halo_left", "halo_right"])
@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "UNet113d"])
def test_a_halo_one_step_smaller_would_be_seen(name: str, side: str) -> None:
    # float64: any difference comes from the halo, not from rounding.
    generator = Generator(network(name).double())
    length = 2 * (generator.halo_left + generator.halo_right)
    image = volume((length, 16, 16), np.float64)
    core = (generator.alignment, 16, 16)
    whole = apply_tiled(generator, image)["data"]
    true = generator.geometry
    generator.geometry = dataclasses.replace(true, **{side: getattr(true, side) - true.alignment})
    off = np.abs(apply_tiled(generator, image, core)["data"] - whole).max()
    assert off > 1e6 * ULP[whole.dtype] * np.abs(whole).max()


class Several:
    """A toy operator with finer, coarser and equal outputs, one of them with two channels."""

    alignment, halo_left, halo_right = 4, 8, 4
    channels_in, channels_out = 1, 2

    def __init__(self) -> None:
        self.sizes: list[Size] = []

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        return {"data": Fraction(2), "map/half": Fraction(1, 2), "map/same": Fraction(1)}

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        self.sizes.append((patch.shape[2], patch.shape[3], patch.shape[4]))
        weights = torch.linspace(-1, 1, 125, dtype=patch.dtype).reshape(1, 1, 5, 5, 5)
        filtered = functional.conv3d(patch, weights, padding=2)
        fine = functional.interpolate(filtered, scale_factor=2)
        return {
            "data": torch.cat([fine, -fine], dim=1),
            "map/half": functional.avg_pool3d(filtered, 2),
            "map/same": filtered.abs(),
        }


@pytest.mark.parametrize("shape", [(30, 17, 9), (5, 6, 50)])
def test_operators_with_several_outputs_on_grids_of_their_own(shape: Size) -> None:
    image = volume(shape)
    whole = apply_tiled(Several(), image)
    assert whole["data"].shape == (2, *(2 * n for n in shape))
    assert whole["map/half"].shape == (1, *(math.ceil(n / 2) for n in shape))
    for core in ((4, 8, 12), (16, 4, 4)):
        tiled = apply_tiled(Several(), image, core)
        for name in whole:
            assert_same(tiled[name], whole[name])


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "UNet113d"])
@pytest.mark.parametrize("region", [((3, 21), (0, 37), (10, 11)), ((47, 50), (33, 37), (0, 61))])
def test_a_region_is_the_crop_of_the_whole_result(name: str, region: Region) -> None:
    generator, image = Generator(network(name)), volume((50, 37, 61))
    factor = generator.geometry.factor
    whole = apply_tiled(generator, image)["data"]
    cut = tuple(slice(math.floor(a * factor), math.ceil(b * factor)) for a, b in region)
    for core in (None, (16, 16, 32)):
        part = apply_tiled(generator, image, core, region)["data"]
        expected = whole[(slice(None), *cut)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part, expected, atol=16 * 2.0**-23 * np.abs(whole).max())


@pytest.mark.parametrize("core", [(8, 16, 24), (96, 8, 8)])
@pytest.mark.parametrize("region", [None, ((5, 30), (1, 2), (0, 41))])
def test_all_windows_have_one_shape_and_cores_cover_once(core: Size, region: Any) -> None:
    operator, shape = Several(), (50, 37, 41)
    grid = Grid.of(operator, shape, core, region)
    covered = np.zeros(grid.output_shape(Fraction(2)), int)
    for tile in grid:
        assert tile.size == grid.window
        assert all(o % 4 == 0 and o >= 0 for o in tile.origin)
        assert all(o + n <= p for o, n, p in zip(tile.origin, tile.size, grid.padded, strict=True))
        covered[grid.outer(tile, Fraction(2))] += 1
    assert (covered == 1).all()
    assert len(grid) == len(list(grid))


class Small(Several):
    """The same with memory for some voxels only, as on a nearly full GPU."""

    def __init__(self, voxels: int) -> None:
        super().__init__()
        self.voxels = voxels

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        if patch.numel() > self.voxels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(patch)


def test_where_memory_ends_tiles_are_halved_and_the_result_is_the_same() -> None:
    image, operator = volume((40, 40, 40)), Small(20**3)
    whole = apply_tiled(Several(), image)
    tiled = apply_tiled(operator, image, (32, 32, 32))
    assert operator.sizes
    for name in whole:
        assert_same(tiled[name], whole[name])
    with pytest.raises(CycleGANError, match="does not fit into memory"):
        apply_tiled(Small(100), image, (32, 32, 32))


def test_other_errors_of_an_operator_are_not_taken_for_lack_of_memory() -> None:
    class Broken(Several):
        def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        apply_tiled(Broken(), volume((8, 8, 8)))


def test_tiles_must_be_aligned() -> None:
    with pytest.raises(UsageError, match="multiples of 4"):
        Grid.of(Several(), (64, 64, 64), (30, 32, 32))
