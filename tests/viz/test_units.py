"""Sizes, times, names and counts in words."""

from __future__ import annotations

import time

import pytest

from viz import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((None, "?"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_949, "9.9 kB")),
        *((9_960, "10 kB"), (999_600, "1.0 MB"), (40_000_000_000, "40 GB"), (10**16, "10000 TB")),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert units.size(count) == text


def test_sizes_of_volumes_and_beside_limits() -> None:
    sizes = [0, 789_000, 999_999, 1_000_000, 45_600_000, 99_900_000, 120_000_000, 1_234_000_000]
    assert [units.size_text(n) for n in sizes] == [
        *("0 kB", "789 kB", "1e+03 kB", "1 MB", "45.6 MB", "99.9 MB", "120 MB", "1.23 GB")
    ]
    assert [units.disk_size(n) for n in sizes] == [
        *("0 MB", "0.789 MB", "1 MB", "1 MB", "45.6 MB", "99.9 MB", "0.12 GB", "1.23 GB")
    ]


def test_times_and_names() -> None:
    cases = [(0, "0s"), (59_400, "59s"), (200_000, "3m20s"), (7_500_000, "2h05m")]
    for ms, text in [*cases, (3 * 86_400_000 + 4 * 3_600_000, "3d04h"), (-5, "0s")]:
        assert units.took(ms) == text
    now = round(time.time() * 1000)
    assert len(units.moment(now, now_ms=now)) == 11
    assert units.moment(0, now_ms=now)[:3] in ("197", "196")
    assert units.shortened("prune_1000_2x-promoted-003", 14).endswith("oted-003")
    assert len(units.shortened("prune_1000_2x-promoted-003", 14)) == 14


def test_times_in_tables() -> None:
    times = [None, 0.4, 99, 100, 3600, 7200, 90_000, 200_000]
    assert [units.short_time(t) for t in times] == [
        *("", "0 s", "99 s", "1.7 min", "60.0 min", "2.0 h", "25.0 h", "2.3 d")
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_counts() -> None:
    assert [units.count(n, "trial") for n in range(3)] == ["0 trials", "1 trial", "2 trials"]
