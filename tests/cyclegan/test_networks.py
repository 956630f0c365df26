"""Networks have the sizes of the originals, and a geometry that agrees with measured gradients."""

from __future__ import annotations

import pytest
import torch

from cyclegan.errors import ConfigError
from cyclegan.networks import (
    GENERATORS,
    INITS,
    UPSAMPLINGS,
    PatchDiscriminator,
    UNet3d,
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


KINDS = [
    *((name, None, upsampling) for name in SHALLOW for upsampling in UPSAMPLINGS),
    ("UNetSim3d", 1, "transposed"),
    ("UNetSim3d", 3, "transposed"),
    ("UNetSim3dSRx4", 3, "transposed"),
    ("UNetSim3dSRd2", 1, "resize"),
    pytest.param("UNet113d", None, "transposed", marks=pytest.mark.slow),
    ("UNet113d", 3, "resize"),
]


def support(network: UNet3d) -> tuple[list[tuple[int, int]], int]:
    """Return the input voxels along X with a gradient, per output voxel of a tile; and its start.

    Every weight is positive, so that no ReLU cuts a gradient. Max pooling passes a gradient to one
    voxel of its window: in every round another one is the largest.
    """
    geometry = network.geometry
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 1.0)
    tile = geometry.alignment
    start = geometry.halo_left + tile
    length = start + tile + geometry.halo_right + tile
    outputs = range(int(start * geometry.factor), int((start + tile) * geometry.factor))
    spans = [(length, -1)] * len(outputs)
    place = torch.arange(length, dtype=torch.float64)
    for ramp in (place, -place):  # the last voxel of every window is the largest, then the first
        image = ramp.expand(1, 1, tile, tile, length).clone().requires_grad_(True)
        out = network(1e-3 * image)
        for i, voxel in enumerate(outputs):
            (gradient,) = torch.autograd.grad(out[..., voxel].sum(), image, retain_graph=True)
            used = gradient.abs().sum(dim=(0, 1, 2, 3)).nonzero()[:, 0]
            spans[i] = (min(spans[i][0], int(used.min())), max(spans[i][1], int(used.max())))
    return spans, start


@pytest.mark.parametrize(("name", "depth", "upsampling"), KINDS)
def test_geometry_is_the_measured_gradient_support(
    name: str, depth: int | None, upsampling: str
) -> None:
    torch.manual_seed(0)
    network = build_generator(name, filters=1, depth=depth, upsampling=upsampling).double()
    geometry = network.geometry
    spans, start = support(network)
    left = start - min(first for first, _ in spans)
    right = max(last for _, last in spans) - (start + geometry.alignment - 1)
    # The halo is the support, rounded up to the alignment: a step less would not cover it.
    assert geometry.halo_left - geometry.alignment < left <= geometry.halo_left
    assert geometry.halo_right - geometry.alignment < right <= geometry.halo_right
    assert network.receptive_field == max(last - first + 1 for first, last in spans)


def test_a_deeper_network_sees_farther_and_pairs_up_and_down() -> None:
    shallow, deep = (build_generator("UNetSim3d", filters=1, depth=d) for d in (2, 3))
    assert deep.receptive_field > shallow.receptive_field
    up = build_generator("UNetSim3dSRx2", filters=1, depth=3).geometry
    down = build_generator("UNetSim3dSRd2", filters=1, depth=3).geometry
    assert up.factor * down.factor == 1
    assert up.alignment * up.factor % down.alignment == 0


def test_a_depth_that_leaves_no_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="UNetSim3dSRx4 needs at least 2"):
        build_generator("UNetSim3dSRx4", depth=1)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("name", SHALLOW)
def test_output_shape_follows_factor_and_channels(name: str, upsampling: str) -> None:
    network = build_generator(name, filters=1, channels_in=2, channels_out=3, upsampling=upsampling)
    size = 2 * network.geometry.alignment
    out = network(torch.zeros(1, 2, size, size, size))
    assert out.shape == (1, 3, *(int(size * network.geometry.factor),) * 3)


def test_resizing_leaves_no_checkerboard_where_transposed_convolutions_do() -> None:
    """With equal weights and a constant input, even treatment of voxels gives a constant output."""
    spread = {}
    for upsampling in UPSAMPLINGS:
        network = build_generator("UNetSim3d", filters=2, upsampling=upsampling)
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, 0.05)
        inner = network(torch.ones(1, 1, 48, 48, 48))[..., 20:28, 20:28, 20:28]
        spread[upsampling] = float(inner.detach().std() / inner.detach().mean())
    assert spread["resize"] < 1e-5
    assert spread["transposed"] > 0.1


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
    initialise(network, std=0.02)
    weight = network.encoder[1][0][0].weight
    assert abs(float(weight.detach().std()) - 0.02) < 0.001


@pytest.mark.parametrize("scheme", [s for s in INITS if s != "normal"])
def test_schemes_that_follow_the_width_keep_the_signal_alive(scheme: str) -> None:
    torch.manual_seed(0)
    network = build_generator("UNetSim3d", filters=8)
    initialise(network, scheme=scheme)
    out = network(torch.randn(1, 1, 16, 16, 16)).detach()
    assert 0.01 < float(out.std()) < 10


def test_spectral_normalisation_bounds_the_gain_of_every_layer() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(filters=4, layers=1, norm="none", spectral_norm=True)
    initialise(judge, std=3.0)
    for _ in range(50):  # one power iteration each
        judge(torch.randn(1, 1, 12, 12, 12))
    for layer in judge.modules():
        if isinstance(layer, torch.nn.Conv3d):
            gain = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert abs(float(gain) - 1) < 0.02
