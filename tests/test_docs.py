"""The documents are true: the example runs, links work, tables are up to date."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
CODE = r"`((?:workbench|search|tracking|viz|cyclegan|tests)/[\w/.]+\.py)(?::([\w.]+))?`"
"""A file of ours, or what is defined in it: `cyclegan/trainer.py:Trainer.fit`."""


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^):]+))?\)", page.read_text("utf-8")):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_code_that_is_named_is_there(page: Path) -> None:
    for file, name in re.findall(CODE, page.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        for part in name.split(".") if name else ():
            defined = rf"^\s*(?:(?:def|class) {part}\b|{part}\b[^=\n]*=)"
            assert re.search(defined, (ROOT / file).read_text("utf-8"), re.MULTILINE), (
                f"{file}:{name}"
            )


def test_every_guide_and_every_benchmark_is_listed() -> None:
    for folder, suffix in (("docs", "md"), ("benchmarks", "py")):
        listed = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        for path in (ROOT / folder).glob(f"*.{suffix}"):
            assert path.name in listed, path.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_table_of_configuration_keys_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_config.py"))["page"]()
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == made


def python_in(page: str) -> str:
    """The one Python block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return str(block)


def test_the_python_in_the_readme_calls_what_there_is() -> None:
    (line, *_) = ast.parse(python_in("README.md")).body
    assert isinstance(line, ast.ImportFrom)
    for _ in range(2):  # a module of the same name takes a function's place at its first import
        given: dict[str, Any] = {}
        exec(ast.unparse(line), given)
        assert all(callable(given[alias.name]) for alias in line.names)


def test_the_callback_in_the_tour_runs(
    project: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "studies" / "train_demo.yaml").write_text(yaml.safe_dump(tiny))
    example = python_in("docs/tour.md")
    # Any score will do for a network of two filters.
    exec(example.replace("StopWhenGood(0.0)", "StopWhenGood(-1000)"), {})
    assert "outcome='stopped'" in capsys.readouterr().out


def test_every_command_in_the_documents_exists() -> None:
    known = {"simulate", "prepare", "train", "study", "promote", "enhance", "export", "ui"}
    known |= {"runs", "viewer", "doctor", "compare"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"^(?:\.venv/bin/)?cyclegan (\w+)", text, flags=re.MULTILINE):
            assert command in known, f"{page.name}: {command}"
