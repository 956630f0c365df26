from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cyclegan.errors import DataError, UsageError
from viz.viewer import Layer, viewer_page, write_viewer

NASTY = "</script><img src=x onerror=alert(1)>\u2028 & $data ${title} \"'"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def image(name: str, data: np.ndarray, **options) -> Layer:
    return Layer(name=name, data=data, **options)


def about(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', page)
    return json.loads(found)


class Elements(HTMLParser):
    """The elements of a page, and the text of its title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.title = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["title"] and not self.title:
            self.title = data


@pytest.mark.parametrize("fit", ["crop", "bin"])
@pytest.mark.parametrize("limit", [130_000, 200_000])
@pytest.mark.parametrize(
    "shapes", [[(64, 64, 64), (64, 64, 64)], [(20, 50, 40), (40, 100, 80)], [(3, 200, 300)]]
)
def test_a_page_is_never_larger_than_its_limit(fit: str, limit: int, shapes: list) -> None:
    layers = [image(f"volume {i}", noise(*shape, seed=i)) for i, shape in enumerate(shapes)]
    page = viewer_page(layers, title="t", limit=limit, fit=fit)
    size = len(page.encode())
    assert size <= limit
    assert about(page)["reduced"]
    if fit == "crop":  # and no smaller than necessary
        assert size > 0.8 * limit


def test_what_fits_is_left_whole() -> None:
    found = about(viewer_page([image("a", noise(8, 9, 10))], title="t"))
    assert found["reduced"] == []
    assert found["layers"][0]["shape"] == found["layers"][0]["whole"] == [8, 9, 10]


def test_a_crop_is_the_centre_and_the_same_place_in_every_grid() -> None:
    layers = [image("a", noise(48, 48, 48)), image("b", noise(96, 96, 96))]
    a, b = about(viewer_page(layers, title="t", limit=250_000))["layers"]
    assert a["shape"][0] < 48
    for axis in range(3):
        assert b["first"][axis] == 2 * a["first"][axis]
        assert b["shape"][axis] == 2 * a["shape"][axis]
        assert b["origin"][axis] == pytest.approx(a["origin"][axis])
        assert abs(2 * a["first"][axis] + a["shape"][axis] - 48) <= 1


def test_a_crop_keeps_short_axes_whole() -> None:
    (found,) = about(viewer_page([image("a", noise(6, 300, 300))], title="t", limit=200_000))[
        "layers"
    ]
    assert found["shape"][0] == 6
    assert found["shape"][1] == found["shape"][2] < 300


def test_binning_takes_means_of_finite_values() -> None:
    data = np.broadcast_to(np.arange(100, dtype=float) // 2 * 2, (100, 100, 100)).copy()
    data += np.random.default_rng(0).choice([-1, 1], data.shape)  # so that it does not fit
    data[0, 0, 0] = np.nan
    (found,) = about(viewer_page([image("a", data)], title="t", limit=200_000, fit="bin"))["layers"]
    factor = found["binned"][0]
    assert factor > 1
    assert found["shape"] == [100 // factor] * 3
    assert found["voxel"] == [factor] * 3
    assert found["top"] == 255  # every block has a finite value


def test_coarse_layers_are_binned_only_as_far_as_the_finest_needs() -> None:
    layers = [image("a", noise(25, 25, 25)), image("b", noise(100, 100, 100))]
    a, b = about(viewer_page(layers, title="t", limit=600_000, fit="bin"))["layers"]
    assert a["binned"] == [1, 1, 1]
    assert b["binned"] == [2, 2, 2]


@pytest.mark.parametrize("what", ["title", "note", "name", "unit", "domain"])
def test_text_stays_text(what: str) -> None:
    plain = Elements(viewer_page([image("a", noise(4, 4, 4))], title="t")).tags
    fields = {"name": "a", "unit": "", "domain": ""} | {what: NASTY}
    texts = {"title": "t", "note": ""} | {what: NASTY}
    layer = Layer(data=noise(4, 4, 4), **{k: fields[k] for k in ("name", "unit", "domain")})
    page = viewer_page([layer], **{k: texts[k] for k in ("title", "note")})
    found = Elements(page)
    assert found.tags == plain
    data = about(page)
    assert {"title": found.title, "note": data["note"], **data["layers"][0]}[what] == NASTY


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data": np.zeros((2, 3))}, r"layer 'a': data of the shape \(2, 3\)"),
        ({"data": np.zeros((0, 3, 3))}, r"at least one voxel"),
        ({"data": np.zeros((2, 3, 4), complex)}, "type complex128"),
        ({"kind": "picture"}, "kind is 'picture'"),
        ({"voxel_size": (1, 0, 1)}, "voxel_size is"),
        ({"name": ""}, "needs a name"),
    ],
)
def test_what_is_no_layer_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Layer(**({"name": "a", "data": np.zeros((2, 3, 4))} | wrong))


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((8, 8, 8), (2, 2, 2), "covers 16 µm along Z .8 voxels., but layer 'a' 8 µm"),
        ((8, 8, 7), (1, 1, 1), "covers 7 µm along X"),
        ((8, 8, 8), None, "'b' has no voxel_size"),
    ],
)
def test_layers_of_other_sizes_than_declared_are_refused(shape, size, message: str) -> None:
    layers = [
        image("a", np.zeros((8, 8, 8)), voxel_size=(1, 1, 1)),
        image("b", np.zeros(shape), voxel_size=size),
    ]
    with pytest.raises(DataError, match=message):
        viewer_page(layers, title="t")


@pytest.mark.parametrize(("fine", "scale"), [(16, 2), (32, 4), (12, 1.5), (11, 1.5)])
def test_scales_follow_from_shapes_alone(fine: int, scale: float) -> None:
    """11 voxels for 1.5 times 8: a rational scale rounds."""
    layers = [image("a", noise(8, 8, 8)), image("b", noise(fine, fine, fine))]
    found = about(viewer_page(layers, title="t"))
    assert found["unit"] == "voxel"
    assert found["layers"][0]["voxel"] == [1, 1, 1]
    assert found["layers"][1]["voxel"] == pytest.approx([1 / scale] * 3, rel=0.1)


def test_shapes_without_a_common_scale_are_refused() -> None:
    with pytest.raises(DataError, match="must cover the same space"):
        viewer_page([image("a", noise(8, 8, 8)), image("b", noise(16, 16, 8))], title="t")


def test_wrong_arguments_are_refused() -> None:
    layers = [image("real_A", noise(4, 4, 4)), image("fake_B", noise(4, 4, 4))]
    with pytest.raises(UsageError, match="did you mean 'fake_B'"):
        viewer_page(layers, title="t", pairs=[("real_A", "fakeB")])
    with pytest.raises(UsageError, match="limit is"):
        viewer_page(layers, title="t", limit=60_000_000)
    with pytest.raises(UsageError, match="fit is 'shrink'"):
        viewer_page(layers, title="t", fit="shrink")
    with pytest.raises(DataError, match="raise the limit"):
        viewer_page(layers, title="t", limit=10_000)
    with pytest.raises(DataError, match="two layers"):
        viewer_page([*layers, layers[0]], title="t")
    with pytest.raises(DataError, match="kind 'image'"):
        viewer_page([image("a", noise(4, 4, 4), kind="map")], title="t")


def test_pairs_of_a_cycle_are_found_by_their_names() -> None:
    layers = [image(name, noise(4, 4, 4)) for name in ("rec_A", "real_A", "fake_B", "other")]
    assert about(viewer_page(layers, title="t"))["pairs"] == [
        ["real_A", "fake_B"],
        ["real_A", "rec_A"],
    ]


def test_a_page_names_no_other_file(tmp_path: Path) -> None:
    write_viewer(tmp_path / "page.html", [image("a", noise(4, 4, 4))], title="t")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|\bimport\b|fetch\(|localStorage", text)
