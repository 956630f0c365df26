"""YAML and JSON of users: plain values, or one line that says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyclegan.documents import MOST_BYTES, parse_json, parse_yaml, read_text
from cyclegan.errors import ConfigError, DataError


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(mark + '{"a": [1, 2.5, null], "b": "µm"}', encoding="utf-8")
    expected = {"a": [1, 2.5, None], "b": "µm"}
    assert parse_json(read_text(path, DataError), "a", DataError) == expected
    assert parse_yaml(read_text(path, ConfigError), "a", ConfigError) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: not valid YAML: the key 'a' is there twice"),
        ("a: {b: 1, b: 1}", "the key 'b' is there twice"),
        ("1: 2", "line 1, column 1: not valid YAML: the key 1 is not text"),
        ("on: 2", "the key on is not text; put it in quotes"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: [", "line 1, column 5: not valid YAML"),
        ("a: 2024-13-45", "not valid YAML: month must be in 1..12"),
        ("a: *nowhere", "undefined alias"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("\x00", "not valid YAML"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n"
                for p, n in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "multiply to over",
        ),
    ],
)
def test_yaml_that_misleads_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "study.yaml", ConfigError)
    assert str(caught.value).startswith("study.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_references_and_merged_keys_work() -> None:
    text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n"
    assert parse_yaml(text, "x", ConfigError)["other"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"a": [{"b": 1, "b": 2}]}', "the key 'b' is there twice"),
        ('{"a": ', "line 1, column 7: not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "not valid JSON"),
    ],
)
def test_json_that_misleads_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_json(text, "fast.json", DataError)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"\xb5m")
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(MOST_BYTES + 1)
    for name, said in [
        ("pipe", "not a regular file"),
        ("latin", "not UTF-8 text"),
        ("large", "too large"),
        ("missing", "no such file"),
        (".", "a folder"),
        ("x" * 300, "File name too long"),
        ("a\0b", "can't be read"),
    ]:
        with pytest.raises(DataError, match=said):
            read_text(tmp_path / name, DataError)
