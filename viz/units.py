"""Format sizes, times and names in few characters."""

from __future__ import annotations

import time

UNKNOWN = "?"
_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: int | None) -> str:
    """Return `812 B`, `3.4 MB`, `12 GB`: two digits or more, in powers of 1000; `?` for None."""
    if count is None:
        return UNKNOWN
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 9.95 else f"{value:.0f} {_UNITS[unit]}"


def moment(ms: int | None, *, now_ms: int | None = None) -> str:
    """Return the local time of a moment in ms since 1970, such as `2026-11-23 02:35`.

    With `now_ms` it is short: without the year if that is this year, else without the hour.
    """
    if ms is None:
        return ""
    at = time.localtime(ms / 1000)
    if now_ms is None:
        return time.strftime("%Y-%m-%d %H:%M", at)
    this_year = at.tm_year == time.localtime(now_ms / 1000).tm_year
    return time.strftime("%m-%d %H:%M" if this_year else "%Y-%m-%d", at)


def took(ms: int | None) -> str:
    """Return a duration such as `45s`, `3m20s`, `2h05m` or `3d04h`."""
    if ms is None:
        return ""
    seconds = max(round(ms / 1000), 0)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"


def shortened(text: str, length: int) -> str:
    """Cut out the middle of a text that is too long: numbers stand at the end."""
    if len(text) <= length:
        return text
    end = (length - 1) * 2 // 3
    return f"{text[: length - 1 - end]}~{text[len(text) - end :]}"


def score(value: float | None) -> str:
    """Return a score with two decimals, or an empty text for None."""
    return "" if value is None else f"{value:.2f}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 run` or `2 runs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def short_time(seconds: float | None) -> str:
    """Return a time such as `24 s`, `1.8 min`, `2.3 h` or `3.1 d`."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (unit == "min" and seconds >= 99.5):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
