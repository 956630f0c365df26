"""Format sizes, times, counts and names for people, in few characters.

Several formats of one thing are all in use: columns are narrow, sentences want words, and the
descriptions of stored runs keep their form. Take the one whose docstring names the place.
"""

from __future__ import annotations

import time

UNKNOWN = "?"
_UNITS = ("B", "kB", "MB", "GB", "TB")


# -- Sizes in bytes, in powers of 1000 ---------------------------------------------------------


def size(count: int | None) -> str:
    """Return `812 B`, `3.4 MB`, `12 GB`, two digits or more, in lists of runs; `?` for None."""
    if count is None:
        return UNKNOWN
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 9.95 else f"{value:.0f} {_UNITS[unit]}"


def size_text(count: int) -> str:
    """Return `1.23 GB`, `45.6 MB`, `789 kB`, three digits, in what is said of one volume."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def disk_size(count: float) -> str:
    """Return `0.12 GB`, `99.9 MB`, three digits, beside a limit of disk space, given in GB."""
    return f"{count / 1e9:.3g} GB" if count >= 0.1 * 1e9 else f"{count / 1e6:.3g} MB"


# -- Times -------------------------------------------------------------------------------------


def moment(ms: int | None, *, now_ms: int | None = None) -> str:
    """Return the local time of a moment in ms since 1970, such as `2026-11-23 02:35`.

    With `now_ms` leave out the year if it is this year's, else the hour.
    """
    if ms is None:
        return ""
    at = time.localtime(ms / 1000)
    if now_ms is None:
        return time.strftime("%Y-%m-%d %H:%M", at)
    this_year = at.tm_year == time.localtime(now_ms / 1000).tm_year
    return time.strftime("%m-%d %H:%M" if this_year else "%Y-%m-%d", at)


def took(ms: int | None) -> str:
    """Return milliseconds as `45s`, `3m20s`, `2h05m`, `3d04h`, in lists of runs; empty for None."""
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


def short_time(seconds: float | None) -> str:
    """Return `24 s`, `1.8 min`, `2.3 h`, `3.1 d`, in tables of trials; empty for None."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (unit == "min" and seconds >= 99.5):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """Return `45 s`, `3 min 20 s`, `2 h 05 min`, in sentences and beside progress."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# -- Names, scores and counts ------------------------------------------------------------------


def shortened(text: str, length: int) -> str:
    """Keep the beginning and the end of a text that is too long: numbers stand at the end."""
    if len(text) <= length:
        return text
    end = (length - 1) * 2 // 3
    return f"{text[: length - 1 - end]}~{text[len(text) - end :]}"


def score(value: float | None) -> str:
    """Return two decimals; nothing without a score."""
    return "" if value is None else f"{value:.2f}"


def count(number: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
