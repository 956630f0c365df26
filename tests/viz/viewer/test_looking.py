"""One image in a real browser: crosshair, slices, greys, text, and forbidden actions."""

from __future__ import annotations

import numpy as np
import pytest

from viz.viewer import Layer
from viz.viewer.fit import packed, quantised

BRIGHT = (10, 7, 31)
"""(z, y, x) of the bright voxel; z is the middle, so that XY shows it at once."""


def speck() -> np.ndarray:
    """Faint noise with one bright voxel, (20, 30, 40)."""
    data = np.random.default_rng(0).uniform(0, 10, (20, 30, 40))
    data[BRIGHT] = 18
    return data


def flat(value: float, shape: tuple[int, int, int] = (16, 16, 16)) -> np.ndarray:
    """One value, except for two corner voxels of 0 and 1, which fix black and white."""
    data = np.full(shape, value)
    data[0, 0, 0], data[-1, -1, -1] = 0, 1
    return data


def image(name: str, data: np.ndarray, **options) -> Layer:
    return Layer(name=name, data=data, **options)


def brightest(pixels: np.ndarray) -> tuple[float, float]:
    """Return (x, y) of the middle of the brightest part, without the labels in the corners."""
    inner = pixels.astype(int)
    inner[:26], inner[-32:, :110] = 0, 0
    y, x = np.nonzero(inner > 200)
    return float(np.mean(x)), float(np.mean(y))


def at_crosshair(shown, view: str) -> int:
    """Return the grey in the gap of the crosshair, where its two yellow lines would meet."""
    pixels = shown.pixels(view).astype(int)
    yellow = (pixels[..., 0] - pixels[..., 2] > 100) & (pixels[..., 1] > 150)
    x, y = np.argmax(yellow.sum(axis=0)), np.argmax(yellow.sum(axis=1))
    return int(pixels[y, x, 0])


def test_a_click_on_a_bright_voxel_shows_its_value_in_all_three_views(show) -> None:
    page = show([image("only", speck(), unit="counts")])
    page.press("w")
    assert at_crosshair(page, "XZ") < 150
    page.click("XY", *brightest(page.grey("XY")))
    z, y, x = BRIGHT
    assert page.voxel == (x, y, z)
    step = quantised(speck()).step
    assert float(page.values["only"].removesuffix("counts")) == pytest.approx(18, abs=step)
    for view in ("XY", "YZ", "XZ"):
        assert at_crosshair(page, view) > 200, view
    page.press("ArrowRight")
    assert page.voxel == (x + 1, y, z)
    for view in ("XY", "YZ", "XZ"):
        assert at_crosshair(page, view) < 150, view


def test_dragging_moves_the_crosshair_and_the_other_views_follow(show) -> None:
    page = show([image("only", speck())])
    before = {view: page.grey(view) for view in ("YZ", "XZ")}
    page.drag("XY", (150, 150), (100, 100))
    x, y, z = page.voxel
    assert (x, y) != (20, 15)
    assert z == 10
    for view in ("YZ", "XZ"):
        assert not np.array_equal(page.grey(view), before[view])


def test_the_window_maps_values_to_greys(show) -> None:
    page = show([image("only", flat(0.5))])
    page.press("h")
    where = page.grey("XY").shape[0] // 3, page.grey("XY").shape[1] // 2
    page.press("w")
    assert page.grey("XY")[where] == pytest.approx(127, abs=2)
    page.fill(".window input", 0, 0.4)
    assert page.grey("XY")[where] == pytest.approx(255 / 6, abs=3)
    page.fill(".window input", 1, 0.45)
    assert page.grey("XY")[where] == 255
    page.press("r", "h")
    page.press("w")
    page.drag("XY", (100, 100), (100, 40), button="right")  # level down: brighter
    assert page.grey("XY")[where] == pytest.approx(255 * 0.7, abs=4)
    page.drag("XY", (100, 100), (100, 160), button="right")
    page.page.keyboard.down("Shift")
    page.drag("XY", (100, 100), (300, 100))
    page.page.keyboard.up("Shift")
    low, high = (float(f.input_value()) for f in page.frame.locator(".window input").all())
    assert high - low > 2  # sideways: wider
    assert (high + low) / 2 == pytest.approx(0.5, abs=0.05)


def test_dragging_in_the_histogram_moves_the_window(show) -> None:
    page = show([image("only", np.random.default_rng(0).normal(size=(16, 16, 16)))])
    box = page.frame.locator(".window canvas").bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 10)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 10)
    page.page.mouse.up()
    page.settle()
    data = quantised(np.random.default_rng(0).normal(size=(16, 16, 16))).values()
    expected = data.min() + 0.4 * (data.max() - data.min())
    low = float(page.frame.locator(".window input").first.input_value())
    assert low == pytest.approx(expected, abs=0.1)


def test_the_wheel_turns_through_slices_and_zooms(show) -> None:
    page = show([image("only", speck())])
    x, y, z = page.voxel
    page.wheel("XY", 100)
    assert page.voxel == (x, y, z + 1)
    page.wheel("YZ", -100)
    assert page.voxel == (x - 1, y, z + 1)
    page.page.keyboard.down("Control")
    page.wheel("XY", -300)
    page.page.keyboard.up("Control")
    assert page.voxel == (x - 1, y, z + 1)
    assert int(page.text("#zoom").removesuffix("%")) > 200
    page.press("0")
    assert page.text("#zoom") == "100 %"


def test_keys_move_through_the_active_view(show) -> None:
    page = show([image("only", speck())])
    page.click("XZ", 100, 50)
    x, y, z = page.voxel
    page.press("PageDown", "ArrowUp")
    assert page.voxel == (x, y + 1, z - 1)
    page.press("Home")
    assert page.voxel == (x, 0, z - 1)
    page.press("End")
    assert page.voxel == (x, 29, z - 1)
    page.press("Shift+ArrowLeft")
    assert page.voxel[0] == max(0, x - 10)


def test_help_opens_and_closes_without_forms(show) -> None:
    page = show([image("only", speck())])
    page.press("?")
    assert page.frame.locator("#help").is_visible()
    page.frame.locator("#close-help").click()
    assert not page.frame.locator("#help").is_visible()


def test_voxels_without_a_value_are_transparent_and_say_so(show) -> None:
    data = flat(0.5)
    data[:, :, 8:] = np.nan
    page = show([image("only", data)])
    page.press("h")
    alpha = page.pixels("XY")[..., 3]
    row, middle = alpha.shape[0] // 3, alpha.shape[1] // 2
    assert alpha[row, middle - 20] == 255
    assert alpha[row, middle + 20] == 0
    assert page.values["only"] == "NaN"


def test_clipped_values_are_marked(show) -> None:
    data = np.random.default_rng(0).normal(size=(16, 16, 16))
    data[8, 8, 8] = 1e6
    page = show([image("only", data)])
    assert page.values["only"].startswith("≥")
    page.frame.locator("#about summary").click()
    assert "1 voxels (0.024 %) lie outside" in page.text("#about")


def test_nothing_in_a_name_runs_or_leaves_the_page(show) -> None:
    nasty = "</script><img src=https://example.com/x onerror=document.title='broken'>"
    layers = [
        image(nasty, flat(0.5), domain=nasty, unit=nasty),
        Layer(name=nasty + "2", data=flat(0.1), kind="map", unit=nasty),
    ]
    page = show(layers, note=nasty)
    page.select("overlay", nasty + "2")
    assert page.frame.locator("img").count() == 0
    assert page.text("#note") == nasty
    assert nasty in page.text("#values")


def test_a_crop_says_so_and_counts_voxels_of_the_whole(show) -> None:
    data = np.random.default_rng(0).normal(size=(64, 64, 64))
    page = show([image("only", data)], limit=150_000)
    reduced = page.text("#reduced")
    assert reduced.startswith("only: only the centre of 64×64×64 voxels is in this page: z ")
    x, y, z = page.voxel
    assert 30 < min(x, y, z) <= max(x, y, z) < 33
    assert float(page.values["only"]) == pytest.approx(data[z, y, x], abs=quantised(data).step)


def test_the_page_unpacks_every_voxel_exactly(show) -> None:
    page = show([image("only", flat(0.5))])
    codes = quantised(np.random.default_rng(0).normal(size=(9, 10, 11)).cumsum(axis=2))
    about = {"name": "n", "shape": codes.codes.shape, "origin": [0] * 3, "voxel": [1] * 3}
    about |= {"low": codes.low, "step": codes.step, "top": codes.top}
    found = page.frame.evaluate(
        "async ([about, text]) => Array.from((await Volume.unpack(about, text)).codes)",
        [about, packed(codes)],
    )
    assert found == codes.codes.ravel().tolist()


def test_the_page_fits_its_pane_in_light_and_dark(show) -> None:
    page = show([image("a", speck()), image("b", speck())])
    for width, height in ((900, 600), (1600, 1000), (560, 700)):
        page.page.set_viewport_size({"width": width, "height": height})
        page.settle()
        overflow = page.frame.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, width
        for view in ("XY", "YZ", "XZ"):
            box = page.canvas(view).bounding_box()
            assert box["width"] >= 120, (width, view)
            assert box["height"] >= 60, (width, view)
            # A canvas has exactly the pixels of its place on the page: nothing is stretched.
            assert page.pixels(view).shape[:2] == pytest.approx(
                (box["height"], box["width"]), abs=1
            )
    for scheme, bright in (("light", True), ("dark", False)):
        page.page.emulate_media(color_scheme=scheme)
        colour = page.frame.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (int(colour.split("(")[1].split(",")[0]) > 127) == bright


def test_every_control_has_a_name(show) -> None:
    page = show([image("a", speck()), image("b", speck())])
    nameless = page.frame.evaluate("""() => Array.from(
      document.querySelectorAll("button, select, input, canvas"),
    ).filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim()
      || node.closest("label")?.textContent.trim())).map((node) => node.id || node.outerHTML)""")
    assert nameless == ["legend"]  # hidden, and named as soon as it exists
