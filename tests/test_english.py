"""Plain English: a docstring says at its beginning what something is or does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("workbench", "search", "tracking", "viz", "cyclegan")
RIDDLE = re.compile(r"(Of|What|Whether|That|Which|How|Why|Where|When|Who|Whose)\b")
"""First words that let a reader wait for the subject."""


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, of attributes and constants too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for statement in node.body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


@pytest.mark.parametrize("floor", (*FLOORS, "benchmarks"))
def test_docstrings_begin_with_what_they_say(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in files
        for line, text in docstrings(path)
        if RIDDLE.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_test_itself_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""Whether it rains."""\nX = 1\n"""Of the rain."""\n')
    found = [text for _, text in docstrings(path) if RIDDLE.match(text)]
    assert found == ["Whether it rains.", "Of the rain."]
