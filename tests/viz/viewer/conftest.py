"""A viewer's page in a frame like MLflow's for HTML artifacts, and tools to use it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from viz.viewer import Layer, viewer_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page, Route

# MLflow 3.17 does this in its artifact pane: a blob URL in a frame that may run scripts only.
PARENT = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>html, body, iframe { margin: 0; border: 0; width: 100%; height: 100% }</style>
<iframe sandbox="allow-scripts"></iframe>
<script>
function show(html) {
  const blob = new Blob([html], { type: "text/html" });
  document.querySelector("iframe").src = URL.createObjectURL(blob);
}
</script>"""
PICTURE = "(name) => document.querySelector(`#view-${name} canvas`).toDataURL()"
ROWS = """() => Array.from(document.querySelectorAll("#values tr"), (row) =>
  [row.cells[0].firstChild.data.replace("▸ ", ""), row.cells[1].textContent])"""
PLACE = "() => byId('position').textContent + byId('zoom').textContent"
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
URL = "http://mlflow.test/"


class Shown:
    """The page in its frame. Views are named `XY`, `YZ` and `XZ`."""

    def __init__(self, page: Page, html: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.route("**/*", self._answer)
        page.goto(URL)
        page.evaluate("(html) => show(html)", html)
        page.frame_locator("iframe").locator("#values tr").first.wait_for(state="attached")
        self.frame: Frame = page.frames[1]
        page.frame_locator("iframe").locator("h1").click()  # keys go to the place of the last click
        self.settle()

    def _answer(self, route: Route) -> None:
        """Serve only the parent page; record all other requests."""
        if route.request.url == URL:
            route.fulfill(body=PARENT, content_type="text/html")
        elif route.request.url.startswith("blob:"):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def settle(self) -> None:
        """Wait until the page has drawn the last change."""
        self.frame.evaluate(DRAWN)

    def pixels(self, view: str) -> NDArray[np.uint8]:
        """Return the pixels (height, width, RGBA) of a view."""
        picture = self.frame.evaluate(PICTURE, view).removeprefix("data:image/png;base64,")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))

    def grey(self, view: str) -> NDArray[np.int64]:
        """Return the least of red, green and blue (height, width): coloured lines become dark."""
        return self.pixels(view)[..., :3].min(axis=2).astype(int)

    def canvas(self, view: str) -> Any:
        return self.frame.locator(f"#view-{view} canvas")

    def click(self, view: str, x: float, y: float) -> None:
        self.canvas(view).click(position={"x": x, "y": y})
        self.settle()

    def drag(
        self, view: str, start: tuple[float, float], end: tuple[float, float], **how: Any
    ) -> None:
        """Drag from `start` to `end` (x, y) in pixels of the view."""
        box = self.canvas(view).bounding_box()
        self.page.mouse.move(box["x"] + start[0], box["y"] + start[1])
        self.page.mouse.down(**how)
        self.page.mouse.move(box["x"] + end[0], box["y"] + end[1], steps=4)
        self.page.mouse.up(**how)
        self.settle()

    def wheel(self, view: str, delta: int) -> None:
        self.canvas(view).hover()
        before = self.frame.evaluate(PLACE)
        self.page.mouse.wheel(0, delta)
        # Wheel events arrive some time after the call.
        self.frame.wait_for_function(f"(before) => ({PLACE})() !== before", arg=before)
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def text(self, selector: str) -> str:
        return self.frame.locator(selector).first.inner_text()

    @property
    def voxel(self) -> tuple[int, int, int]:
        """Return (x, y, z) of the crosshair."""
        found = re.search(r"x (\d+), y (\d+), z (\d+)", self.text("#position"))
        assert found, self.text("#position")
        return int(found[1]), int(found[2]), int(found[3])

    @property
    def values(self) -> dict[str, str]:
        """Return the values in the table at the crosshair, by name."""
        return dict(self.frame.evaluate(ROWS))

    def select(self, what: str, label: str) -> None:
        self.frame.locator(f"#{what}").select_option(label=label)
        self.settle()

    def fill(self, selector: str, nth: int, value: float) -> None:
        field = self.frame.locator(selector).nth(nth)
        field.fill(str(value))
        field.press("Enter")
        self.settle()


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Shown]]:
    """Show layers or a finished page; fail if anything failed or left the frame."""
    shown: list[Shown] = []
    contexts = []

    def open_page(
        layers: Sequence[Layer] | str,
        *,
        size: tuple[int, int] = (900, 600),
        scheme: Any = "light",
        **options: Any,
    ) -> Shown:
        html = layers if isinstance(layers, str) else viewer_page(layers, title="test", **options)
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        contexts.append(context)
        shown.append(Shown(context.new_page(), html))
        return shown[-1]

    yield open_page
    problems = [problem for one in shown for problem in one.problems]
    requests = [url for one in shown for url in one.requests]
    for context in contexts:
        context.close()
    assert not problems
    assert not requests
