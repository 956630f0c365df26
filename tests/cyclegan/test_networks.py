"""Networks: sizes of the originals, and a geometry that agrees with measured gradients."""

from __future__ import annotations

import pytest
import torch

from cyclegan.errors import ConfigError
from cyclegan.networks import (
    GENERATORS,
    PatchDiscriminator,
    build_generator,
    initialise,
    smallest_judged_axis,
)

SHALLOW = [name for name in GENERATORS if name != "UNet113d"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("UNetSim3d", 707_137), ("UNetSim3dSRd2", 3_721_281), ("UNetSim3dSRd4", 3_721_281)],
)
def test_size_of_the_original(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build_generator(name).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "left", "right", "alignment"),
    [
        ("UNetSim3d", 12, 16, 4),
        ("UNetSim3dSRx2", 12, 16, 4),
        ("UNetSim3dSRx4", 6, 8, 2),
        ("UNetSim3dSRd2", 32, 40, 8),
        ("UNetSim3dSRd4", 64, 80, 16),
    ],
)
def test_halo_of_the_original(name: str, left: int, right: int, alignment: int) -> None:
    geometry = build_generator(name, filters=1).geometry
    assert (geometry.halo_left, geometry.halo_right, geometry.alignment) == (left, right, alignment)


def support(name: str) -> tuple[int, int, int]:
    """First and last input voxel along X with a gradient from an aligned tile, and its start."""
    network = build_generator(name, filters=2).double()
    geometry = network.geometry
    for parameter in network.parameters():  # all positive: no gradient is cut by a ReLU
        torch.nn.init.uniform_(parameter, 0.1, 1.0)
    tile = geometry.alignment
    start = geometry.halo_left + 2 * tile
    length = start + tile + geometry.halo_right + 2 * tile
    short = geometry.alignment
    # Input that grows along X and is otherwise constant would let max pooling hide neighbours, so
    # every voxel gets its turn as the largest one.
    first, last = length, -1
    for shift in range(2 * geometry.alignment):
        image = torch.rand(1, 1, short, short, length, dtype=torch.float64)
        image += 1.0 * ((torch.arange(length) + shift) % (shift + 2) == 0)
        image.requires_grad_(True)
        out = network(image)
        core = out[..., int(start * geometry.factor) : int((start + tile) * geometry.factor)]
        core.sum().backward()
        used = image.grad.abs().sum(dim=(0, 1, 2, 3)).nonzero()[:, 0]
        first, last = min(first, int(used.min())), max(last, int(used.max()))
    return first, last, start


@pytest.mark.parametrize("name", SHALLOW)
def test_geometry_covers_the_measured_gradient_support_and_no_more(name: str) -> None:
    torch.manual_seed(0)
    geometry = build_generator(name, filters=1).geometry
    first, last, start = support(name)
    left, right = start - first, last - (start + geometry.alignment - 1)
    assert left <= geometry.halo_left
    assert right <= geometry.halo_right
    # The halo is that support, rounded up to the alignment: a step less would not cover it.
    assert left > geometry.halo_left - geometry.alignment
    assert right > geometry.halo_right - geometry.alignment


@pytest.mark.parametrize("name", SHALLOW)
def test_output_shape_follows_the_factor(name: str) -> None:
    network = build_generator(name, filters=1)
    size = 2 * network.geometry.alignment
    out = network(torch.zeros(1, 1, size, size, size))
    assert out.shape[2:] == (int(size * network.geometry.factor),) * 3


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'UNetSim3dSRx2'"):
        build_generator("UNetSim3dSR2")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_discriminator_smallest_axis_is_enough_and_one_less_is_not(layers: int) -> None:
    judge = PatchDiscriminator(filters=2, layers=layers, norm="none")
    size = smallest_judged_axis(layers)
    assert judge(torch.zeros(1, 1, size, size, size)).shape[2:] == (1, 1, 1)
    with pytest.raises(RuntimeError):
        judge(torch.zeros(1, 1, size - 1, size - 1, size - 1))


def test_discriminator_of_the_original() -> None:
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 11_048_769


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_judging_a_pair_in_one_pass_changes_nothing(norm: str) -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(filters=4, layers=1, norm=norm)
    real, fake = torch.randn(2, 1, 12, 12, 12), torch.randn(2, 1, 12, 12, 12)
    one, other = judge.pair(real, fake)
    torch.testing.assert_close(one, judge(real))
    torch.testing.assert_close(other, judge(fake))


def test_batch_normalisation_is_not_mixed_over_real_and_generated() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(filters=4, layers=1, norm="batch")
    real, fake = torch.randn(2, 1, 12, 12, 12), 5 + 3 * torch.randn(2, 1, 12, 12, 12)
    alone = judge(real)
    torch.testing.assert_close(judge.pair(real, fake)[0], alone)


def test_initialisation_has_the_asked_spread() -> None:
    torch.manual_seed(0)
    network = build_generator("UNetSim3d", filters=8)
    initialise(network, 0.02)
    weight = network.encoder[1][0][0].weight
    assert abs(float(weight.detach().std()) - 0.02) < 0.001
