"""Whole numbers rounded up exactly; NaN and infinity left out, or None."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cyclegan.numbers import ceil_div, finite_or_none, only_finite, round_up, strict_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0.0), (-1.5, -1.5), (None, None), *((v, None) for v in (math.nan, math.inf, -math.inf))],
)
def test_finite_or_none(value: float | None, expected: float | None) -> None:
    assert finite_or_none(value) == expected


def test_only_finite_leaves_out_what_would_flatten_a_chart() -> None:
    assert only_finite({"a": 1.0, "b": math.nan, "c": math.inf, "d": -math.inf}) == {"a": 1.0}


def test_json_is_strict() -> None:
    value = {
        "bad": [math.nan, (-math.inf, 1.5)],
        "good": {"n": 1, "yes": True, "none": None, "text": "x"},
        3: Path("a/b"),
    }
    assert json.loads(strict_json(value)) == {
        "bad": [None, [None, 1.5]],
        "good": {"n": 1, "yes": True, "none": None, "text": "x"},
        "3": "a/b",
    }
    assert strict_json([1]) == "[\n 1\n]"


@pytest.mark.parametrize(
    ("number", "divisor", "parts", "multiple"),
    [
        *((0, 3, 0, 0), (1, 3, 1, 3), (3, 3, 1, 3), (4, 3, 2, 6), (-1, 3, 0, 0), (-4, 3, -1, -3)),
        (3 * 10**17 + 1, 3, 10**17 + 1, 3 * 10**17 + 3),  # a float would round that down
    ],
)
def test_up(number: int, divisor: int, parts: int, multiple: int) -> None:
    assert (ceil_div(number, divisor), round_up(number, divisor)) == (parts, multiple)
