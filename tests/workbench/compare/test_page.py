"""The page of a comparison is safe and self-contained, and shows all there is."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from viz.html import drawn
from workbench.compare import page as pages
from workbench.compare import panels
from workbench.compare.drawings import PlotAxes, Series, plot

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collect tags, attributes and visible text; fail on unmatched tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def curves(self) -> list[str]:
        return [str(a["data-run"]) for t, a in self.tags if t == "g" and a.get("class") == "run"]


@pytest.fixture
def page(call: Any, tmp_path: Path) -> Any:
    """Write a page and read it: (text, Page)."""

    def write(*arguments: str) -> tuple[str, Page]:
        path = tmp_path / "out" / "c.html"
        code, _, err = call(*arguments, "--html", str(path), "--overwrite")
        assert code == 0, err
        assert "can't be shown" not in err
        text = path.read_text(encoding="utf-8")
        return text, Page(text)

    return write


def test_two_runs_with_everything(make_run: Any, page: Any) -> None:
    make_run("one", 1)
    make_run("two", 2, params={"lr_g": 2e-3})
    text, found = page("one", "two")
    for title in ("Parameters that differ", "Score", "Losses", "Slices", "Differences", "spectra"):
        assert title in found.text
    assert "Missing" not in found.text
    assert "0.002" in found.text
    assert all(a.get("aria-label") for tag, a in found.tags if tag == "svg")
    assert sorted(found.curves()) == [
        "1",
        "1",
        "1",
        "2",
        "2",
        "2",
        "2 1",
    ]  # score, loss, power, FSC
    pictures = [a for tag, a in found.tags if tag == "img"]
    assert len(pictures) == 2 + 2 + 1 + 2  # slices with both real ones, a difference, six images
    assert all(str(a["src"]).startswith("data:image/webp;base64,") for a in pictures)
    assert len(text.encode()) < 20_000_000


def test_the_page_needs_nothing_from_elsewhere(make_run: Any, page: Any) -> None:
    make_run("one", 1)
    text, found = page("one", "one")
    for _, attributes in found.tags:
        for name in ("src", "href", "action", "srcset"):
            assert str(attributes.get(name) or "#").startswith(("data:", "#"))
    (frame,) = [a for tag, a in found.tags if tag == "iframe"]
    assert frame["sandbox"] == "allow-scripts"
    for inner in (text, unescape(str(frame["srcdoc"]))):
        assert not re.search(r"url\((?!data|#)|@import|fetch\(|localStorage|https?://[a-z]", inner)


def test_the_viewer_within_has_every_run_and_the_pairs(make_run: Any, page: Any) -> None:
    for number in range(1, 4):
        make_run(f"run{number}", number)
    _, found = page("run1", "run2", "run3")
    (inner,) = [str(a["srcdoc"]) for tag, a in found.tags if tag == "iframe"]
    for name in ("1 run1", "2 run2", "3 run3", "real_A"):
        assert f'"name": "{name}"' in inner
    assert '"pairs": [["1 run1", "2 run2"], ["1 run1", "3 run3"], ["real_A", "1 run1"]' in inner


def test_eight_runs_are_one_page(make_run: Any, page: Any) -> None:
    for number in range(8):
        make_run(f"run{number}", number, params={"lambdas.C_A": number})
    _, found = page(*(f"run{number}" for number in range(8)))
    assert len(found.curves()) == 3 * 8 + 28
    assert len([a for tag, a in found.tags if tag == "button"]) == 8


def test_a_click_hides_a_run_and_shows_it_again(make_run: Any, page: Any, browser: Any) -> None:
    make_run("one", 1)
    make_run("two", 2)
    text, _ = page("one", "two")
    shown = browser.new_page()
    shown.set_content(text)

    def hidden() -> set[str]:
        found: list[tuple[str, str]] = shown.eval_on_selector_all(
            "[data-run]", "all => all.map(e => [e.dataset.run, getComputedStyle(e).display])"
        )
        return {runs for runs, display in found if display == "none"}

    assert hidden() == set()
    for expected in ({"2", "2 1", "1 2"}, set()):
        shown.click(".legend button:nth-child(2)")
        assert hidden() == expected
    shown.click(".legend button:nth-child(1)")
    assert hidden() == {"1", "2 1", "1 2"}
    shown.close()


def test_runs_without_volumes_have_a_page(make_run: Any, page: Any) -> None:
    make_run("one", None, pictures=True)
    make_run("two", None, scores=())
    _, found = page("one", "two")
    assert "run 2: its images are not stored" in found.text
    assert [tag for tag, _ in found.tags if tag == "iframe"] == []
    assert len([tag for tag, _ in found.tags if tag == "img"]) == 4  # MLflow's picture of run 1


def test_names_values_and_reasons_are_text(make_run: Any, page: Any) -> None:
    evil = '"><script>alert(1)</script><img src=x>'
    for name in (evil, "two"):
        make_run(name, 1, params={"init": f"{evil} {name}"}, tags={"reason": evil, "device": name})
    text, found = page(evil, "two")
    assert evil in found.text
    assert text.count("<script>") == 1  # the page's own
    assert all(str(a["src"]).startswith("data:") for tag, a in found.tags if tag == "img")


def test_enhanced_volumes_have_a_page(make_enhancement: Any, page: Any) -> None:
    make_enhancement("a", 1)
    make_enhancement("b", 2)
    _, found = page("a", "b")
    assert "psnr/enhanced" in found.text
    assert len([tag for tag, _ in found.tags if tag == "iframe"]) == 1
    assert len([tag for tag, _ in found.tags if tag == "img"]) == 3


def test_a_page_is_replaced_only_on_demand(make_run: Any, call: Any, tmp_path: Path) -> None:
    make_run("one", None)
    path = tmp_path / "c.html"
    assert call("one", "one", "--html", str(path))[0] == 0
    before = path.read_bytes()
    code, out, err = call("one", "one", "--html", str(path))
    assert (code, out) == (1, "")
    assert "--overwrite" in err
    assert path.read_bytes() == before


def test_a_panel_that_fails_hides_no_other(
    make_run: Any, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("one", None)
    monkeypatch.setattr(panels, "metrics", lambda found: 1 / 0)
    path = tmp_path / "c.html"
    code, _, err = call("one", "one", "--html", str(path))
    assert code == 0
    assert "Metrics can't be shown" in err
    text = Page(path.read_text(encoding="utf-8")).text
    assert "division by zero" in text
    assert "Parameters that differ" in text


def test_what_is_too_large_for_the_page_is_cropped(
    make_run: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run("one", 1)
    text, found = page("one", "one")
    assert "only the centre" not in text
    (inner,) = [str(a["srcdoc"]) for tag, a in found.tags if tag == "iframe"]
    monkeypatch.setattr(pages, "_VIEWER", len(inner.encode()) - 6000)
    assert "only the centre of 16×16×16 voxels" in page("one", "one")[0]


def test_what_can_not_be_drawn_is_left_out() -> None:
    axes = PlotAxes(x="x", y="y", about="words", log_y=True)
    bad = Series(name="bad", points=[(1.0, 0.0), (2.0, float("nan"))])
    assert plot([bad], axes) is None
    assert plot([], axes) is None
    one = Series(name="one <b>", points=[(5.0, 1.0)], runs=(1,), label="1")
    figure = plot([bad, one], axes)
    assert figure is not None
    found = Page(text := drawn(figure, "test"))
    assert found.curves() == ["1"]
    assert "bad" not in text
    assert "<title>one &lt;b&gt;</title>" in text


def test_points_off_the_axis_lie_on_its_rim_and_curves_are_thinned_out() -> None:
    points = [(float(x), float(x)) for x in range(2000)]
    axes = PlotAxes(x="x", y="y", about="words", limits=(100.0, 1000.0))
    figure = plot([Series(name="long", points=points)], axes)
    assert figure is not None
    for line in figure.axes[0].get_lines():
        x, y = line.get_data()
        assert len(x) <= 300
        assert (x[0], x[-1]) == (0.0, 1999.0)
        assert (min(y), max(y)) == (100.0, 1000.0)


def test_labels_at_the_ends_of_curves_do_not_overlap() -> None:
    axes = PlotAxes(x="x", y="y", about="words")
    series = [
        Series(name=f"run {n}", points=[(0.0, 1.0), (1.0, 2.0)], runs=(n,), label=str(n))
        for n in range(1, 9)
    ]
    figure = plot(series, axes)
    assert figure is not None
    figure.draw_without_rendering()
    boxes = sorted(text.get_window_extent().extents[1::2].tolist() for text in figure.axes[0].texts)
    assert all(lower[1] <= upper[0] for lower, upper in pairwise(boxes))
