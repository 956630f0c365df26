"""Templates escape every text, miss no value, and share one stylesheet."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from viz.html import TEMPLATES, macro, render
from viz.palette import RUNS, STATES

EVIL = "<script>alert(1)</script>"


def test_every_text_is_escaped() -> None:
    page = render("page.html", TEMPLATES, title=EVIL)
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert EVIL not in macro("note", "parts.html", TEMPLATES, EVIL)
    assert EVIL not in macro("table", "parts.html", TEMPLATES, (EVIL,), [(EVIL,)])
    assert EVIL not in macro("figure", "parts.html", TEMPLATES, EVIL, EVIL, EVIL)


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("page.html", TEMPLATES)


def test_a_template_of_ones_own_extends_the_shared_page(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text(
        '{% extends "page.html" %}{% block content %}<p>{{ text }}</p>{% endblock %}'
    )
    page = render("own.html", tmp_path, title="mine", text="a & b")
    assert "<p>a &amp; b</p>" in page
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<style>") == 1


def test_the_stylesheet_knows_every_colour_on_paper_and_in_the_dark() -> None:
    page = render("page.html", TEMPLATES, title="")
    for shade in (*STATES.values(), *RUNS):
        name = f"--c{shade.light[1:]}"
        assert f"{name}: {shade.light};" in page
        assert f"{name}: {shade.dark};" in page
    assert all(f".state.{state} {{" in page for state in STATES)


def test_the_class_of_a_column_is_that_of_its_kind() -> None:
    text = macro("table", "parts.html", TEMPLATES, ("a", "b"), [("1", "2")], ("", "number"))
    assert '<th class="number">b</th>' in text
    assert "<td>1</td>" in text
    assert '<td class="number">2</td>' in text
