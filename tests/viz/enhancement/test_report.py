"""The report is self-contained, escaped, true to the files, and limited in what it reads."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cyclegan.data import Volume, VolumeEntry
from cyclegan.errors import DataError
from viz.enhancement import ReportSummary, figures, reading, write_report
from viz.enhancement.measure import MEASURED
from viz.enhancement.reading import central_region, doubtful_places, spread_blocks, summarise_map

SHAPE = (24, 40, 36)
EVIL = "<script>alert('x')</script>&\"quoted\""


@pytest.fixture(autouse=True)
def _small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DPI", 25)


def random(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def clean(factor: int = 1) -> np.ndarray:
    image = gaussian_filter(random(0, tuple(n * factor for n in SHAPE)), 2 * factor)
    return image / image.std()


def volume(path: Path, image: np.ndarray, size_um: float | None = 0.8) -> Volume:
    with h5py.File(path, "w") as handle:
        handle["data"] = (image - image.mean()) / image.std()
        if size_um:
            handle["data"].attrs["voxel_size_um"] = size_um
    return Volume(VolumeEntry(path=path, dset="data"))


def enhanced(
    path: Path, image: np.ndarray, doubt: np.ndarray | None = None, slope: float = 0.8
) -> Path:
    with h5py.File(path, "w") as handle:
        handle["data"] = image
        if doubt is not None:
            for name in ("consistency", "cycle", "disagreement"):
                handle[f"trust/{name}"] = np.abs(random(5))
            handle["trust/doubt"] = doubt
            handle["trust/doubt"].attrs["trust_slope"] = slope
    return path


def doubt(factor: int = 1) -> np.ndarray:
    image = np.full(tuple(n * factor for n in SHAPE), 0.5, np.float32)
    image[3, 5, 30] = 9.0
    image[20, 33, 2] = 7.0
    image[20, 34, 2] = 6.9  # the same place
    return image


def report(folder: Path, factor: int = 1, **settings: object) -> ReportSummary:
    truth = clean(factor)
    coarse = truth[::factor, ::factor, ::factor]
    source = volume(folder / "in.h5", coarse + 0.5 * random(1))
    made = enhanced(folder / "out.h5", 1.5 * truth + 2, doubt(factor))
    return write_report(
        folder / "r.html", folder / "r.png", source=source, enhanced=made,
        metadata={"model": "run 7", "tile": [96, 96, 96]}, **settings,
    )  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("factor", [1, 2])
def test_a_full_report_shows_everything_there_is(tmp_path: Path, factor: int) -> None:
    truth = clean(factor)
    reference = volume(tmp_path / "ref.h5", truth, None)
    image = clean()
    halves = {
        "input": (
            volume(tmp_path / "even.h5", image + 0.4 * random(8)),
            volume(tmp_path / "odd.h5", image + 0.4 * random(9)),
        )
    }
    summary = report(tmp_path, factor, reference=reference, halves=halves)
    page = Page(summary.html)
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2  # slices and places; curves are drawings in the page
    assert len([a for tag, a in page.tags if tag == "svg" and a["aria-label"]]) == 3
    for source in images:
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        assert data.startswith(b"\x89PNG")
    for text in ("hallucinations", "run 7", "half-bit", "best Gaussian", "µm", "disagreement"):
        assert text in page.text
    assert summary.png.read_bytes().startswith(b"\x89PNG")
    assert [row.name for row in summary.quality] == ["input", "best Gaussian", "enhanced"]
    assert summary.resolution_voxels["enhanced_with_reference_1_7"] == 2
    assert 2 * factor < summary.resolution_voxels["halves_input_1_7"] < 12 * factor
    assert summary.metrics()["psnr/enhanced"] > 80
    assert summary.metrics()["trust/doubt_p99"] == pytest.approx(0.5, rel=0.02)


def test_nothing_is_fetched_and_nothing_is_run(tmp_path: Path) -> None:
    page = Page(report(tmp_path).html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"url\((?!#)|@import", (tmp_path / "r.html").read_text(encoding="utf-8"))


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    source = volume(tmp_path / "<b>in&.h5", clean())
    made = enhanced(tmp_path / "out.h5", clean(), doubt())
    write_report(
        tmp_path / "r.html", tmp_path / "r.png", source=source, enhanced=made,
        metadata={EVIL: EVIL},
    )  # fmt: skip
    page = Page(tmp_path / "r.html")
    assert page.text.count(EVIL) == 2
    assert not {"script", "b"} & {tag for tag, _ in page.tags}


def test_without_maps_reference_and_halves_it_says_so(tmp_path: Path) -> None:
    source = volume(tmp_path / "in.h5", clean(), None)
    made = enhanced(tmp_path / "out.h5", clean())
    summary = write_report(
        tmp_path / "r.html", tmp_path / "r.png", source=source, enhanced=made, metadata={}
    )
    text = Page(summary.html).text
    assert "No trust maps" in text
    assert "No Fourier shell correlation" in text
    assert summary.maps == summary.places == summary.quality == ()


def test_an_inverted_volume_is_said_first(tmp_path: Path) -> None:
    truth = clean()
    source = volume(tmp_path / "in.h5", truth)
    made = enhanced(tmp_path / "out.h5", -truth, doubt(), slope=-0.7)
    reference = volume(tmp_path / "ref.h5", truth)
    write_report(
        tmp_path / "r.html", tmp_path / "r.png", source=source, enhanced=made,
        metadata={}, reference=reference,
    )  # fmt: skip
    text = Page(tmp_path / "r.html").text
    assert "Do not use it" in text
    assert "− (inverted)" in text
    assert "contrast is inverted" in text


def test_doubtful_places_are_where_they_are_and_not_twice(tmp_path: Path) -> None:
    summary = report(tmp_path)
    assert [found.place for found in summary.places[:2]] == [(3, 5, 30), (20, 33, 2)]
    assert [found.value for found in summary.places[:2]] == [9.0, 7.0]
    assert all(found.value == 0.5 for found in summary.places[2:])


@pytest.mark.parametrize("slab", [1 << 8, 1 << 24])
def test_maps_are_summarised_by_streaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slab: int
) -> None:
    monkeypatch.setattr(reading, "SLAB_VOXELS", slab)
    image = np.abs(random(3, (40, 33, 50))) * 3
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        handle.create_dataset("trust/cycle", data=image, chunks=(8, 16, 16))
        summary = summarise_map(handle["trust/cycle"])
        first, *_ = doubtful_places(handle["trust/cycle"])
    assert summary.name == "trust/cycle"
    assert summary.mean == pytest.approx(image.mean(), rel=1e-5)
    assert summary.p95 == pytest.approx(np.percentile(image, 95), rel=0.02)
    assert summary.p99 == pytest.approx(np.percentile(image, 99), rel=0.02)
    assert summary.highest == image.max() == first.value
    assert image[first.place] == image.max()


def test_a_huge_volume_is_sampled_and_never_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terabyte of zeros without storage: reading them all would never end."""
    shape = (6400, 6400, 6400)
    monkeypatch.setattr(reading, "SAMPLED_BLOCKS", 8)
    read: list[int] = []
    original = reading.read_image

    def counting(dataset, origin, size):
        read.append(int(np.prod(size)))
        return original(dataset, origin, size)

    monkeypatch.setattr(reading, "read_image", counting)
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        dataset = handle.create_dataset("m", shape, np.float32, chunks=(64, 64, 64))
        summary = summarise_map(dataset)
        assert len(doubtful_places(dataset)) == 10
    assert summary.read < 0.001
    assert max(read) <= 128**3
    assert len(read) <= 2 * reading.SAMPLED_BLOCKS
    assert central_region(shape, MEASURED)[1] == (MEASURED,) * 3
    assert len(spread_blocks(shape, 64, 8)) == 8


def test_volumes_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    other = volume(tmp_path / "other.h5", random(0, (24, 40, 30)))
    with pytest.raises(DataError, match="same region"):
        report(tmp_path, reference=other)
    with pytest.raises(DataError, match="halves"):
        report(tmp_path, halves={"input": (other, other)})
    with pytest.raises(DataError, match="not a multiple"):
        write_report(
            tmp_path / "r.html", tmp_path / "r.png", source=other,
            enhanced=tmp_path / "out.h5", metadata={},
        )  # fmt: skip
    assert not (tmp_path / "r.html").exists()
    assert not (tmp_path / "r.png").exists()


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "r.png").write_text("precious")
    with pytest.raises(DataError, match="--overwrite"):
        report(tmp_path)
    assert (tmp_path / "r.png").read_text() == "precious"
    report(tmp_path, overwrite=True)
    assert (tmp_path / "r.html").exists()


def test_a_volume_of_few_voxels_gets_a_report_with_remarks(tmp_path: Path) -> None:
    tiny = random(0, (3, 9, 9))
    source = volume(tmp_path / "in.h5", tiny)
    made = enhanced(tmp_path / "out.h5", tiny)
    reference = volume(tmp_path / "ref.h5", tiny)
    summary = write_report(
        tmp_path / "r.html", tmp_path / "r.png", source=source, enhanced=made,
        metadata={}, reference=reference,
    )  # fmt: skip
    text = Page(summary.html).text
    for what in ("quality: not measured", "noise: not measured", "correlation: not measured"):
        assert what in text
