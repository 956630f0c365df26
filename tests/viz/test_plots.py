"""A figure is drawn once: as PNG, and as an element of a page with marks and words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from viz.palette import RUNS, STATES, page_colour
from viz.plots import Mark, Plot, inline_svg, literal, new_figure, pixels

BLUE = STATES["complete"].light


def figure() -> Plot:
    """Return three points, a curve and a text, all marked, with words that look like markup."""
    plot = new_figure(4, 3, "a title of $5")
    plot.about = 'three points & "a curve"'
    axes = plot.subplots()
    points = axes.scatter([1, 2, 3], [1, 2, 3], color=BLUE)
    plot.mark(points, *(Mark("trial", str(n), f"trial <{n}>") for n in range(3)))
    (line,) = axes.plot([1, 2, 3], [3, 2, 1], color="#000000")
    plot.mark(line, Mark("run hit", "1 2", "both"))
    plot.mark(axes.text(1, 2, literal("x^2 for $1 and $2")), Mark("run label", "1"))
    return plot


def test_marks_become_classes_attributes_and_words() -> None:
    tree = ElementTree.fromstring(inline_svg(figure(), "test"))  # noqa: S314  (our own)
    trials = [g for g in tree.iter("g") if g.get("data-trial")]
    assert [(g.get("data-trial"), g.findtext("title")) for g in trials] == [
        (str(n), f"trial <{n}>") for n in range(3)
    ]
    assert all(len(g.findall("use")) == 1 for g in trials)
    (hit,) = [g for g in tree.iter("g") if g.get("class") == "run hit"]
    assert hit.get("data-run") == "1 2"
    assert len(hit.findall("path")) == 1
    (label,) = [g for g in tree.iter("g") if g.get("class") == "run label"]
    assert label.findtext(".//text") == "x^2 for $1 and $2"


def test_a_drawing_is_told_in_words_and_has_no_size_of_its_own() -> None:
    tree = ElementTree.fromstring(inline_svg(figure(), "test"))  # noqa: S314  (our own)
    assert (tree.get("role"), tree.get("aria-label")) == ("img", 'three points & "a curve"')
    assert tree.get("viewBox")
    assert not tree.get("width")
    assert not list(tree.iter("style"))


def test_a_page_gives_its_own_colours() -> None:
    text = inline_svg(figure(), "test")
    assert BLUE not in text
    assert page_colour(BLUE) in text
    assert "#000000" not in text
    known = [shade.light for shade in (*STATES.values(), *RUNS)]
    assert all(page_colour(colour).startswith("var(--") for colour in known)
    assert page_colour("#123456") == "#123456"


def test_it_is_the_same_every_time_and_ids_differ_with_the_salt() -> None:
    first, again, other = (inline_svg(figure(), salt) for salt in ("one", "one", "two"))
    assert first == again
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    wanted = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first)}
    assert wanted == ids[0]


def test_a_title_stands_above_the_png_only() -> None:
    titled, plain = figure(), figure()
    plain.title = ""
    assert "a title" not in inline_svg(titled, "test")
    pictures = [np.asarray(pixels(plot).convert("L")) for plot in (titled, plain)]
    assert [picture.shape for picture in pictures] == [(330, 440), (330, 440)]
    assert (pictures[0] != pictures[1]).any()
