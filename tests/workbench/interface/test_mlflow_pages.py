"""MLflow's own user interface as users see it, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest

from tracking.views import CYCLE_PICTURES, column
from viz.pictures import cut_six

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=60_000)
pytestmark = pytest.mark.slow

CARD = '[data-testid="experiment-view-compare-runs-card"]'
SECTION = '[data-testid="experiment-view-compare-runs-section-header"]'
DECODED = "async image => { await image.decode(); return image.naturalWidth }"


def pictures(card: Locator, count: int) -> list[str]:
    """Return the addresses of a card's pictures, once they are drawn."""
    images = card.locator("img")
    expect(images).to_have_count(count)
    for number in range(count):
        assert images.nth(number).evaluate(DECODED) > 64
    return [unquote(str(images.nth(number).get_attribute("src"))) for number in range(count)]


def at_step(step: int) -> re.Pattern[str]:
    return re.compile(rf"Cycle~slices\+step\+{step}\+")


def artifact(visitor: Any) -> FrameLocator:
    """Return the HTML page in the artifact pane, a frame that may only run scripts."""
    frame = visitor.page.locator("iframe")
    expect(frame).to_have_attribute("sandbox", "allow-scripts")
    return visitor.page.frame_locator("iframe")


def test_the_printed_link_opens_the_trials_with_the_best_on_top(project: Any, visitor: Any) -> None:
    page = visitor.open(project.links["small, trials"])
    ranked = sorted(project.study["trials"], key=lambda trial: -trial["score"])
    names = [f"small-{trial['number']:03d}" for trial in ranked]
    runs = page.get_by_role("link", name=re.compile(r"^small-\d{3}$"))
    expect(runs).to_have_text(names)
    for heading in ("score/value", "lr_g", "lambdas.I_A"):
        expect(page.get_by_role("columnheader", name=heading).first).to_be_visible()
    value = page.locator(f'[row-index="0"] [col-id="{column("metrics", "score/value")}"]')
    expect(value).to_contain_text(f"{ranked[0]['score']:.3f}"[:5])
    visitor.show("trials")
    # The description links to charts and report.
    with page.expect_popup() as handle:
        page.get_by_role("link", name="pictures and curves side by side").click()
    expect(handle.value.locator(SECTION).first).to_contain_text("Pictures")


def test_pictures_of_all_trials_stand_side_by_side_with_a_slider(
    project: Any, visitor: Any
) -> None:
    page = visitor.open(project.links["small, trials"] + "&compareRunsMode=CHART")
    expect(page.locator(SECTION).nth(0)).to_contain_text("Pictures")
    expect(page.locator(SECTION).nth(1)).to_contain_text("Score")
    card = page.locator(CARD).first
    shown = pictures(card, 4)  # at the first rung, which all of them have reached
    assert all(at_step(8).search(address) for address in shown)
    visitor.show("pictures")
    card.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    expect(card.locator("img").first).to_have_attribute("src", re.compile(r"step(\+|%2B)4(\+|%2B)"))
    assert all(at_step(4).search(address) for address in pictures(card, 4))
    # The comparison is fair: every trial has the same patches of real images.
    images = []
    for number in range(4):
        run = project.store.run(project.store.find_run(f"small:{number}").id)
        images.append(cut_six(run.image(CYCLE_PICTURES, 8)))
    for name in ("real_A", "real_B"):
        assert all(np.array_equal(images[0][name], other[name]) for other in images), name
    assert not np.array_equal(images[0]["fake_B"], images[1]["fake_B"])


def test_a_run_begins_with_what_it_is(project: Any, visitor: Any) -> None:
    page = visitor.open(project.run_page("small-000"))
    for text in ("Finished", "cyclegan trial", "Promoted to", "fast", "Domain A"):
        expect(page.get_by_text(text, exact=False).first).to_be_visible()
    parameters = page.get_by_role("row").filter(has_text=re.compile(r"^(lr_g|lambdas|steps|seed)"))
    expect(parameters.first).to_contain_text("lambdas.I_A")  # searched keys come first
    visitor.show("run")
    with page.expect_popup() as handle:  # links in descriptions open a new page
        page.get_by_text("Promoted to").get_by_role("link").click()
    expect(handle.value.get_by_text("Promoted from")).to_be_visible()


def test_a_run_shows_its_pictures_before_its_curves(project: Any, visitor: Any) -> None:
    page = visitor.open(project.run_page("small-000", "model-metrics"))
    expect(page.locator(SECTION).first).to_contain_text("Cycle")
    card = page.locator(CARD).first
    card.locator("img").scroll_into_view_if_needed()
    (shown,) = pictures(card, 1)  # before anybody touches the slider
    assert at_step(0).search(shown)
    slider = card.get_by_role("slider")
    slider.focus()
    for step in (4, 8):
        page.keyboard.press("ArrowRight")
        expect(card.locator("img")).to_have_attribute(
            "src", re.compile(rf"step(\+|%2B){step}(\+|%2B)")
        )
    pictures(card, 1)
    visitor.show("metrics")
    for metric in ("accuracy", "lambdas.C_A", "G_total", "grad_norm_G", "voxels_per_s"):
        page.get_by_placeholder("Search metric charts").fill(metric)
        card = page.locator(CARD).filter(has=page.get_by_text(metric, exact=True)).first
        expect(card.locator(".scatterlayer .trace path.js-line")).not_to_have_count(0)


def test_a_run_shows_what_its_machine_did(project: Any, visitor: Any) -> None:
    page = visitor.open(project.run_page("small-000", "system-metrics"))
    for metric in ("cpu_utilization_percentage", "system_memory_usage_megabytes"):
        card = page.locator(CARD).filter(has_text=f"system/{metric[:9]}").first
        expect(card.locator(".scatterlayer .trace")).not_to_have_count(0)
    visitor.show("system")


def test_volumes_can_be_walked_through_in_the_artifact_pane(project: Any, visitor: Any) -> None:
    visitor.open(project.run_page("small-000", "artifacts/viewer/cycle_00000024.html"))
    viewer = artifact(visitor)
    place = viewer.locator("#position")
    expect(place).to_contain_text("Voxel x 4, y 4, z 4")
    expect(viewer.locator("#values tr")).to_have_count(7)  # six images and a difference
    visitor.show("viewer")
    viewer.locator("#view-XY canvas").click(position={"x": 30, "y": 30})
    expect(place).not_to_contain_text("x 4, y 4")
    expect(place).to_contain_text("z 4")
    before = place.inner_text()
    visitor.page.keyboard.press("PageUp")
    expect(place).not_to_have_text(before)
    viewer.locator("#overlay").select_option("difference")
    expect(viewer.locator("#legend")).to_be_visible()
    expect(viewer.locator("#failure")).to_be_hidden()
    visitor.show("viewer-difference")


def test_the_studys_report_is_in_its_run(project: Any, visitor: Any) -> None:
    visitor.open(project.run_page("small", "artifacts/report.html"))
    report = artifact(visitor)
    expect(report.locator("h1")).to_contain_text("Study small")
    ranked = sorted(project.study["trials"], key=lambda trial: -trial["score"])
    links = report.locator("table tbody tr a").filter(has_text=re.compile(r"small-\d{3}"))
    expect(links.first).to_contain_text(f"small-{ranked[0]['number']:03d}")
    expect(report.locator("body")).to_contain_text("pruned")
    visitor.show("report")
    for heading in report.locator("h2").all():
        heading.scroll_into_view_if_needed()
    visitor.show("report-end")


def test_an_enhancement_shows_where_it_came_from_and_where_it_is(
    project: Any, visitor: Any
) -> None:
    run = project.store.search("small", "tags.kind = 'enhance'")[0]
    page = visitor.open(project.run_page(run.id))
    for text in ("cyclegan enhance", "small-promoted-000", "trust/doubt_p99", "fast_validate"):
        expect(page.get_by_text(text).first).to_be_visible()
    visitor.show("enhancement")
    page = visitor.open(project.run_page(run.id, "artifacts/viewer.html"))
    viewer = artifact(visitor)
    expect(viewer.locator("#values")).to_contain_text("doubt")
    expect(viewer.locator("#values")).to_contain_text("enhanced − input")
    visitor.show("enhancement-viewer")
    visitor.open(project.run_page(run.id, "artifacts/preview.png"))
    expect(visitor.page.locator(".js-plotly-plot image, img").first).to_be_visible()
    visitor.open(project.run_page(run.id, "artifacts/volume.txt"))
    expect(visitor.page.get_by_text("silx view")).to_be_visible()


def test_the_champion_is_in_the_registry_with_its_schema(project: Any, visitor: Any) -> None:
    page = visitor.open(f"{project.address}/#/models/small/versions/1")
    expect(page.get_by_text("champion")).to_be_visible()
    expect(page.get_by_role("link", name="small-promoted-000")).to_be_visible()
    expect(page.get_by_text("Inputs (1)")).to_be_visible()
    visitor.show("model")


def test_a_comparison_opens_from_the_disk(project: Any, visitor: Any) -> None:
    requests: list[str] = []
    visitor.page.on("request", lambda request: requests.append(request.url))
    page = visitor.open((project.folder / "compared.html").as_uri())
    expect(page.get_by_role("row").filter(has_text="lambdas.I_A")).to_be_visible()
    viewer = page.frame_locator("iframe")
    expect(viewer.locator("#values tr")).not_to_have_count(0)
    curve = page.locator('g[data-run="2"]').first
    expect(curve).not_to_have_css("display", "none")
    page.locator(".legend button").filter(has_text="small-001").first.click()
    expect(curve).to_have_css("display", "none")
    visitor.show("compared")
    assert all(address.startswith(("file:", "data:", "blob:", "about:")) for address in requests)
