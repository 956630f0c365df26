from __future__ import annotations

import pytest

from cyclegan.rounding import ceil_div, round_up


@pytest.mark.parametrize(
    ("number", "divisor", "parts", "multiple"),
    [
        *((0, 3, 0, 0), (1, 3, 1, 3), (3, 3, 1, 3), (4, 3, 2, 6), (-1, 3, 0, 0), (-4, 3, -1, -3)),
        (3 * 10**17 + 1, 3, 10**17 + 1, 3 * 10**17 + 3),  # a float would round that down
    ],
)
def test_up(number: int, divisor: int, parts: int, multiple: int) -> None:
    assert (ceil_div(number, divisor), round_up(number, divisor)) == (parts, multiple)
