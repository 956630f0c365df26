"""The trust maps: tiles change nothing, and each part detects its kind of fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cyclegan.data import Size
from cyclegan.enhance.grid import Grid
from cyclegan.enhance.network import Generator
from cyclegan.enhance.tiling import apply_tiled
from cyclegan.errors import UsageError
from cyclegan.networks import UNet3d, build_generator, initialise
from cyclegan.trust import FLIPS, SIGMA, TrustOperator, trust_geometry
from cyclegan.trust.calibration import Calibration, smooth

PAIRS = {
    "1x": ("UNetSim3d", "UNetSim3d"),
    "2x": ("UNetSim3dSRx2", "UNetSim3dSRd2"),
    "4x": ("UNetSim3dSRx4", "UNetSim3dSRd4"),
}
MAPS = ["trust/consistency", "trust/cycle", "trust/disagreement", "trust/doubt"]


def network(name: str, seed: int = 0, filters: int = 1) -> UNet3d:
    torch.manual_seed(seed)
    # float64: any difference comes from the halo, not from rounding.
    net = build_generator(name, filters=filters, activation="leaky_relu").double()
    initialise(net, std=0.4)
    return net


def operator(scale: str, **settings: object) -> TrustOperator:
    first, back = PAIRS[scale]
    return TrustOperator(network(first), network(back, 1), **settings)


def volume(shape: Size) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def reader(image: np.ndarray):
    def read(origin: Size, size: Size) -> np.ndarray:
        return image[None][
            (slice(None), *(slice(o, o + n) for o, n in zip(origin, size, strict=True)))
        ]

    return read


@pytest.mark.parametrize(
    ("scale", "shape", "core"),
    [
        ("1x", (13, 90, 11), (8, 8, 16)),
        ("2x", (9, 118, 11), (8, 8, 16)),
        ("4x", (3, 90, 4), (8, 16, 8)),
    ],
)
def test_the_tile_size_changes_no_map(scale: str, shape: Size, core: Size) -> None:
    others = [network(PAIRS[scale][0], 2)] if scale == "1x" else []
    flips = [(), (0, 2)] if scale == "4x" else FLIPS
    match = Calibration(slope=0.7, offset=0.1, blur=0.5)
    trust = operator(scale, others=others, flips=flips, calibration=match)
    image = volume(shape)
    # Otherwise the windows are the whole volume, and the test proves nothing.
    assert Grid.of(trust, shape, core).window[1] < shape[1]
    whole = apply_tiled(trust, image)
    tiled = apply_tiled(trust, image, core)
    assert list(whole) == ["data", *MAPS]
    for name, map_ in whole.items():
        assert map_.std() > 0
        np.testing.assert_allclose(tiled[name], map_, rtol=0, atol=1e-9 * np.abs(map_).max())
        factor = trust.outputs[name]
        assert map_.shape == (1, *(int(n * factor) for n in shape))


@pytest.mark.parametrize("side", ["halo_left", "halo_right"])
@pytest.mark.parametrize("scale", ["1x", "2x"])
def test_a_halo_without_the_way_back_would_be_seen(scale: str, side: str) -> None:
    trust = operator(scale)
    image = volume((8, 130, 8))
    whole = apply_tiled(trust, image)
    setattr(trust, side, getattr(trust.G_A.geometry, side) + trust.alignment)
    tiled = apply_tiled(trust, image, (8, 8, 8))
    assert np.abs(tiled["trust/cycle"] - whole["trust/cycle"]).max() > 1e-4


def test_the_image_is_that_of_the_generator_alone() -> None:
    trust, image = operator("2x"), volume((12, 16, 9))
    alone = apply_tiled(Generator(network("UNetSim3dSRx2")), image)["data"]
    assert np.abs(apply_tiled(trust, image, (8, 8, 8))["data"] - alone).max() < 1e-9


def test_the_disagreement_is_the_spread_over_flipped_passes() -> None:
    trust, image = operator("1x", flips=[(), (0,), (1, 2)]), volume((12, 16, 20))
    net = Generator(network("UNetSim3d"))
    passes = []
    for axes in ((), (0,), (1, 2)):
        flipped = np.ascontiguousarray(np.flip(image, axes))
        passes.append(np.flip(apply_tiled(net, flipped)["data"][0], axes))
    variance = torch.from_numpy(np.var(passes, axis=0))[None, None]
    expected = smooth(variance, SIGMA).sqrt()[0, 0].numpy()
    found = apply_tiled(trust, image)["trust/disagreement"][0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_low_pass_is_the_truncated_gaussian_of_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    image = volume((9, 14, 11))
    expected = gaussian_filter(image, 1.2, mode="nearest", radius=4)
    found = smooth(torch.from_numpy(image)[None, None], 1.2)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


class _Painting(Generator):
    """Return the image with a blob painted at one place of the volume, whatever the input is."""

    def __init__(self, place: tuple[slice, slice, slice] | None = None) -> None:
        super().__init__(network("UNetSim3d"))
        self.place = place

    def translate(self, patch: torch.Tensor) -> torch.Tensor:
        image = 2 * patch.double() + 1
        if self.place:
            image[(..., *self.place)] += 3
        return image


class _Back(Generator):
    """The exact inverse of `_Painting` without its blob."""

    def __init__(self) -> None:
        super().__init__(network("UNetSim3d"))

    def translate(self, patch: torch.Tensor) -> torch.Tensor:
        return (patch - 1) / 2


def test_an_invented_blob_stands_out_and_a_change_of_grey_values_does_not() -> None:
    image = volume((40, 40, 40))
    place = (slice(15, 21),) * 3
    honest = TrustOperator(_Painting(), _Back()).calibrated(reader(image), image.shape)
    assert honest.calibration.slope == pytest.approx(0.5, rel=0.02)
    clean = apply_tiled(honest, image)
    assert clean["trust/consistency"].max() < 0.05
    assert clean["trust/cycle"].max() < 1e-9
    painting = TrustOperator(_Painting(place), _Back(), calibration=honest.calibration)
    maps = apply_tiled(painting, image)
    for name in ("trust/consistency", "trust/cycle", "trust/doubt"):
        inside = maps[name][(0, *place)].mean()
        far = maps[name][0, :5].mean()
        assert inside > 20 * far + 0.5, name


def test_calibration_makes_typical_parts_one_and_depends_on_nothing_but_the_volume() -> None:
    trust, image = operator("1x"), volume((20, 24, 50))
    first = trust.calibrated(reader(image), image.shape)
    again = trust.calibrated(reader(image), image.shape)
    assert first.calibration == again.calibration
    assert first.identity == again.identity != trust.identity
    maps = apply_tiled(first, image)
    for name in ("consistency", "cycle", "disagreement"):
        measured = float(np.sqrt(np.mean(maps[f"trust/{name}"] ** 2)))
        assert measured == pytest.approx(getattr(first.calibration, name), rel=0.1)
    assert np.sqrt(np.mean(maps["trust/doubt"] ** 2)) == pytest.approx(1, rel=0.1)
    assert first.attributes["trust_slope"] == first.calibration.slope


def test_inverted_contrast_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Inverting(_Painting):
        def translate(self, patch: torch.Tensor) -> torch.Tensor:
            return -super().translate(patch)

    image = volume((16, 16, 16))
    TrustOperator(Inverting(), _Back()).calibrated(reader(image), image.shape)
    assert "contrast inverted" in caplog.text


def test_a_constant_volume_gives_finite_maps() -> None:
    image = np.ones((8, 8, 8))
    trust = operator("1x").calibrated(reader(image), image.shape)
    assert all(np.isfinite(map_).all() for map_ in apply_tiled(trust, image).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flips": [()]}, "disagreement"),
        ({"flips": [(), ()]}, "disagreement"),
        ({"flips": [(), (3,)]}, "axes are"),
        ({"others": [network("UNetSim3dSRx2")]}, "differ in channels or in factor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        operator("1x", **arguments)


def test_generators_of_two_trainings_are_refused() -> None:
    with pytest.raises(UsageError, match="both generators of one training"):
        TrustOperator(network("UNetSim3dSRx2"), network("UNetSim3d"))


def test_the_geometry_counts_the_way_back_on_the_inputs_grid() -> None:
    first, back = (network(name).geometry for name in PAIRS["2x"])
    both = trust_geometry(first, back)
    assert both.alignment == 4  # 8 voxels of B are 4 of A
    assert both.halo_left == first.halo_left + back.halo_left // 2
    assert both.halo_right == first.halo_right + back.halo_right // 2
