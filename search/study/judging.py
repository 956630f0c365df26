"""The report that counts for a trial: the best since judging began, or the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

JudgedBy = Literal["best", "last"]
"""The validation that counts for a trial: the best since judging began, or the last."""


def score_of_reports(reports: Mapping[int, float], judge_by: JudgedBy, since: int) -> float | None:
    """Return a trial's score from its reports (objective by iteration); None without any.

    With `best`, reports before iteration `since` don't count; if there are no others, the last one
    does. Young generators smooth, which scores well for a while and says nothing about their later
    quality.
    """
    at = counted_report(reports, judge_by, since)
    return None if at is None else reports[at]


def counted_report(reports: Mapping[int, float], judge_by: JudgedBy, since: int) -> int | None:
    """Return the iteration of the report that `score_of_reports` takes."""
    if not reports:
        return None
    last = max(reports)
    counted = [at for at in reports if at >= since]
    if judge_by == "last" or not counted:
        return last
    return max(counted, key=lambda at: (reports[at], at))


def scores_so_far(reports: Mapping[int, float], judge_by: JudgedBy, since: int) -> dict[int, float]:
    """Return by iteration what `score_of_reports` would have been after each report."""
    found: dict[int, float] = {}
    best = -math.inf
    for at, value in sorted(reports.items()):
        if at >= since:
            best = max(best, value)
        found[at] = best if judge_by == "best" and at >= since else value
    return found
