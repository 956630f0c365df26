"""The documents are true: the example runs, links work, tables are up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_table_of_configuration_keys_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_config.py"))["page"]()
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == made


def test_the_example_in_the_readme_runs(
    project: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "studies" / "train_demo.yaml").write_text(yaml.safe_dump(tiny))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    # Any score is acceptable for a network of two filters.
    exec(example.replace("StopWhenGood(0.0)", "StopWhenGood(-1000)"), {})
    assert "outcome='stopped'" in capsys.readouterr().out


def test_every_command_in_the_documents_exists() -> None:
    known = {"simulate", "prepare", "train", "study", "promote", "enhance", "export", "ui"}
    known |= {"runs", "viewer", "doctor", "compare"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"^(?:\.venv/bin/)?cyclegan (\w+)", text, flags=re.MULTILINE):
            assert command in known, f"{page.name}: {command}"
