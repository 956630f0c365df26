"""Several images in a real browser: curtain, grey scales, difference, maps, other grids."""

from __future__ import annotations

import numpy as np
import pytest

from viz.viewer import Layer


def flat(value: float, shape: tuple[int, int, int] = (16, 16, 16)) -> np.ndarray:
    """One value, except for two corner voxels of 0 and 1, which fix black and white."""
    data = np.full(shape, value)
    data[0, 0, 0], data[-1, -1, -1] = 0, 1
    return data


def image(name: str, data: np.ndarray, **options) -> Layer:
    return Layer(name=name, data=data, **options)


def test_the_curtain_decides_which_image_is_drawn(show) -> None:
    layers = [image(name, flat(v), domain="d") for name, v in (("left", 0.1), ("right", 0.9))]
    page = show(layers)
    page.press("w", "h")  # black is 0, white is 1; no crosshair
    height, width = page.grey("XY").shape
    row, middle = height // 3, width // 2
    probe = middle - 30
    assert page.grey("XY")[row, probe] == pytest.approx(0.1 * 255, abs=2)
    assert page.grey("XY")[row, middle + 30] == pytest.approx(0.9 * 255, abs=2)
    page.drag("XY", (middle, row), (middle - 60, row))
    assert page.grey("XY")[row, probe] == pytest.approx(0.9 * 255, abs=2)
    page.press(",", ",")
    before = page.grey("XZ")
    page.press(*["."] * 8)
    assert (page.grey("XZ") != before).any()
    page.press("c")  # no curtain: the left image everywhere
    assert page.grey("XY")[row, middle + 30] == pytest.approx(0.1 * 255, abs=2)
    page.press("x")  # swapped
    assert page.grey("XY")[row, middle + 30] == pytest.approx(0.9 * 255, abs=2)


def test_images_of_a_domain_share_a_grey_scale_until_told_otherwise(show) -> None:
    layers = [
        image("a", flat(0.1), domain="A"),
        image("b", flat(0.9), domain="A"),
        image("c", flat(0.9) * 7, domain="B"),
    ]
    page = show(layers)
    assert page.frame.locator(".window").count() == 1
    page.press("Shift+Digit3")
    assert page.frame.locator(".window").count() == 2
    page.select("share", "one for all")
    assert page.frame.locator(".window").count() == 1
    page.press("Shift+Digit2")
    page.select("share", "per image")
    assert page.frame.locator(".window").count() == 2


def test_the_difference_has_a_sign_and_a_legend(show) -> None:
    left, right = np.zeros((16, 16, 16)), np.zeros((16, 16, 16))
    right[:, :, :5], right[:, :, 11:] = -1, 1
    page = show([image("left", left + 2), image("right", right + 2)])
    page.press("h", "c", "d")
    pixels = page.pixels("XY").astype(int)
    height, width = pixels.shape[:2]
    row, side = height // 3, height // 2
    red_minus_blue = pixels[row, :, 0] - pixels[row, :, 2]
    assert red_minus_blue[width // 2 - side // 2 - 20] < -40  # right is less: blue
    assert red_minus_blue[width // 2] == 0  # no difference: as the image
    assert red_minus_blue[width // 2 + side // 2 + 20] > 40
    ends = [page.frame.locator(f"#overlay-{end}").input_value() for end in ("low", "high")]
    assert [float(end) for end in ends] == pytest.approx([-1, 1], abs=0.01)
    assert float(page.values["right − left"]) == pytest.approx(0, abs=0.01)
    page.press("d")
    pixels = page.pixels("XY").astype(int)
    assert (pixels[row, 100:200, 0] == pixels[row, 100:200, 2]).all()


def test_a_map_is_laid_over_images(show) -> None:
    doubt = np.zeros((8, 8, 8))  # on a grid half as fine as the image's
    doubt[4, 2, 5] = 6
    layers = [image("only", flat(0.5)), Layer(name="doubt", data=doubt, kind="map", unit="σ")]
    page = show(layers)
    page.press("h")
    page.select("overlay", "doubt")
    page.fill("#overlay-high", 0, 6)
    page.frame.locator("#opacity").fill("1")
    page.settle()
    pixels = page.pixels("XY").astype(int)
    coloured = np.abs(pixels[..., 0] - pixels[..., 2]) > 60
    y, x = np.nonzero(coloured)
    page.click("XY", float(np.mean(x)), float(np.mean(y)))
    assert (page.voxel[0] // 2, page.voxel[1] // 2, page.voxel[2] // 2) == (5, 2, 4)
    assert page.values["doubt"] == "6.00"
    edge = (np.ptp(x) + 1, np.ptp(y) + 1)
    scale = (page.pixels("XY").shape[0] - 12) / 8  # pixels of a doubt voxel
    assert edge == pytest.approx((scale, scale), abs=3)
    page.frame.locator("#opacity").fill("0")
    page.settle()
    pixels = page.pixels("XY").astype(int)
    assert (pixels[coloured][:, 0] == pixels[coloured][:, 2]).all()
    for expected in ("", "0"):  # no overlay, and the map again
        page.press("o")
        assert page.frame.locator("#overlay").input_value() == expected


@pytest.mark.parametrize("scale", [1.5, 4])
def test_grids_of_other_scales_are_linked_in_space(show, scale: float) -> None:
    coarse, n = np.zeros((8, 8, 8)), int(8 * scale)
    coarse[2, 3, 6] = 1
    fine = np.arange(n**3, dtype=float).reshape(n, n, n)
    layers = [
        image("real_A", coarse, voxel_size=(3, 3, 3)),
        image("fake_B", fine, voxel_size=(3 / scale,) * 3),
    ]
    page = show(layers)
    page.click("XY", 60, 90)
    page.wheel("XY", 100)
    x, y, z = page.voxel
    assert z == n // 2 + 1
    expected = [int((i + 0.5) / scale) for i in (x, y, z)]
    row = page.frame.locator("#values tr").first.inner_text()
    assert f"({', '.join(map(str, expected))})" in row
    assert "voxel size " + ("2 µm" if scale == 1.5 else "0.75 µm") in page.text("#position")
    step = (n**3 - 1) / 255
    value = float(page.values["fake_B"])
    assert value == pytest.approx(fine[z, y, x], abs=step)
