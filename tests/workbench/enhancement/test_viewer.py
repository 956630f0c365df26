"""The viewer beside an enhanced volume, and the command `viewer`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHAPE = (12, 16, 20)


def write(path: str, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> str:
    with h5py.File(path, "w") as handle:
        volume = np.random.default_rng(seed).normal(size=shape)
        handle["data"] = (300 + 20 * volume).astype(np.float32)
    return path


ROWS = """() => Array.from(document.querySelectorAll("#values tr"), (row) =>
  [row.cells[0].firstChild.data.replace("▸ ", ""), row.cells[1].textContent.split(" ")[0]])"""


class Opened:
    """A page from the disk in a browser; its errors are collected."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1200, "height": 800})
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(path.resolve().as_uri())

    def values(self) -> dict[str, float]:
        """Return the values at the crosshair, by layer."""
        self.page.locator("#values tr").first.wait_for(state="attached")
        rows = self.page.evaluate(ROWS)
        return {name: float(re.sub(r"[^-.e\d]", "", text)) for name, text in rows}

    def voxel(self) -> tuple[int, int, int]:
        """Return (z, y, x) of the crosshair."""
        text = self.page.locator("#position").inner_text()
        found = re.search(r"x (\d+), y (\d+), z (\d+)", text)
        assert found, text
        return int(found[3]), int(found[2]), int(found[1])


def test_report_and_viewer_open_in_a_browser_and_show_the_volumes(
    enhance: Any, browser: Browser
) -> None:
    code, data, err = enhance(write("a.h5"), "--output", "e.h5", "--units", "input")
    assert code == 0, err
    assert data["viewer"] == "e.viewer.html"
    report = Opened(browser, Path("e.html"))
    report.page.get_by_role("link", name="Look into the volume").click()
    report.page.wait_for_url("**/e.viewer.html")
    values, place = report.values(), report.voxel()
    assert {"input", "enhanced", "doubt"} <= set(values)
    with h5py.File("a.h5") as source, h5py.File("e.h5") as result:
        # Both are in the grey values of the input, exact to half a step of 255.
        for name, image in (("input", source["data"][...]), ("enhanced", result["data"][...])):
            assert values[name] == pytest.approx(image[place], abs=float(np.ptp(image)) / 255)
    assert not report.problems
    report.page.close()


def test_a_series_is_shown_by_its_first_frame(enhance: Any) -> None:
    write("t.h5", shape=(3, *SHAPE))
    code, data, err = enhance("t.h5", "--series", "--output", "s.h5", "--roi", "2:9,0:16,4:20")
    assert code == 0, err
    text = Path(data["viewer"]).read_text()
    assert "first frame" in text
    assert '"name": "input"' in text
    assert '"whole": [7, 16, 16]' in text


def test_a_viewer_is_not_replaced_unless_asked(enhance: Any) -> None:
    write("a.h5")
    Path("e.viewer.html").write_text("mine")
    code, _, err = enhance("a.h5", "--output", "e.h5")
    assert (code, "e.viewer.html already exists" in err) == (1, True)
    assert Path("e.viewer.html").read_text() == "mine"
    assert enhance("a.h5", "--output", "e.h5", "--overwrite")[0] == 0
    assert "enhanced" in Path("e.viewer.html").read_text()


def test_the_command_viewer_finds_the_input_if_it_is_still_that(
    enhance: Any, command_line: Any
) -> None:
    write("a.h5")
    line = ("--output", "out/e.h5", "--no-report", "--roi", "2:12,0:16,4:20")
    assert enhance("a.h5", *line)[0] == 0
    code, data, err = command_line("viewer", "out/e.h5")
    assert (code, data) == (0, {"viewer": "out/e.viewer.html", "input": "a.h5:data"}), err
    text = Path("out/e.viewer.html").read_text()
    assert '"name": "input"' in text
    code, _, err = command_line("viewer", "out/e.h5")
    assert (code, "--overwrite" in err) == (1, True)
    write("a.h5", seed=2)
    code, data, _ = command_line("viewer", "out/e.h5", "--output", "v.html", "--fit", "bin")
    assert (code, data["input"]) == (0, None)
    assert '"name": "input"' not in Path("v.html").read_text()
    code, _, err = command_line("viewer", "a.h5", "--output", "w.html")
    assert (code, "`cyclegan enhance` did not write this file" in err) == (1, True)
    code, _, err = command_line("viewer", "out/e.h5", "--output", "w.html", "--fit", "zoom")
    assert (code, "--fit zoom" in err) == (2, True)
    assert not Path("w.html").exists()
