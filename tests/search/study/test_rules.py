"""Rules that end a study, and the score that counts for a trial."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from search.study.judging import score_of_reports, scores_so_far
from search.study.rules import StopRules, why_stop
from search.study.trials import Trial


def trials(*rows: tuple[str, float | None]) -> list[Trial]:
    """Return trials of 100 iterations in the given states with the given scores."""
    return [
        Trial(number=number, state=state, score=score, step=100, iteration=100)
        for number, (state, score) in enumerate(rows)
    ]


C, P, F, R = "complete", "pruned", "failed", "running"


def test_a_study_stops_when_another_trial_is_expected_to_gain_too_little() -> None:
    rules = StopRules(expected_gain=0.1)
    assert why_stop(rules, [], 0.0, lambda: (0.2, 0.5)) is None
    assert why_stop(rules, [], 0.0, lambda: None) is None
    reason = why_stop(rules, [], 0.0, lambda: (0.05, 0.5))
    assert reason is not None
    assert "expected to gain 0.050, less than 0.1; trainings of the same values differ" in reason
    assert why_stop(StopRules(), [], 0.0, lambda: (0.0, 0.5)) is None


@pytest.mark.parametrize(
    ("rules", "given", "hours", "words"),
    [
        ({}, [(C, 1.0)] * 50, 1e6, None),
        ({"hours": 2.0}, [], 1.99, None),
        ({"hours": 2.0}, [], 2.0, "stop.hours: 2.00 of 2 hours"),
        ({"iterations": 301}, [(C, 1.0), (P, 0.0), (R, None)], 0, None),
        ({"iterations": 300}, [(C, 1.0), (P, 0.0), (R, None)], 0, "300 of 300 iterations"),
        ({"no_improvement": 2}, [], 0, None),
        ({"no_improvement": 2}, [(C, 1.0), (C, 0.5)], 0, None),
        ({"no_improvement": 2}, [(C, 1.0), (C, 0.5), (P, 3.0)], 0, "last 2 trials was better"),
        ({"no_improvement": 2}, [(C, 1.0), (C, 0.5), (C, 1.1)], 0, None),
        ({"no_improvement": 2}, [(C, 1.0), (C, 1.0), (C, 1.0)], 0, "better than 1.00"),
        ({"no_improvement": 2}, [(C, -1.0), (F, None), (R, None), (P, -3.0)], 0, None),
        ({"no_improvement": 2}, [(P, -100.0), (P, -100.0)], 0, "last 2 trials was complete"),
        ({"hours": 9, "no_improvement": 1}, [(C, 2.0), (C, 1.0)], 1, "stop.no_improvement"),
    ],
)
def test_why_a_study_stops(
    rules: dict[str, Any], given: list[tuple[str, float | None]], hours: float, words: str | None
) -> None:
    reason = why_stop(StopRules(**rules), trials(*given), hours)
    assert (reason is None) == (words is None)
    assert words is None or words in (reason or "")


def test_the_order_of_the_trials_does_not_matter() -> None:
    rules, given = StopRules(no_improvement=2), trials((C, 1.0), (C, 0.5), (P, 0.1))
    assert why_stop(rules, given, 0.0) == why_stop(rules, given[::-1], 0.0) is not None


@pytest.mark.parametrize(
    ("judge_by", "since", "value"),
    [
        ("best", 0, 4.0),
        ("best", 41, 3.0),  # reports before the first judgement don't count
        ("best", 80, 3.0),
        ("best", 1000, 2.0),  # but the last one always counts
        ("last", 0, 2.0),
    ],
)
def test_what_reports_are_worth(
    judge_by: Literal["best", "last"], since: int, value: float
) -> None:
    assert score_of_reports({}, judge_by, since) is None
    assert score_of_reports({40: 4.0, 120: 2.0, 80: 3.0}, judge_by, since) == value
    reports = {120: 2.0, 40: 4.0, 80: 3.0, 160: 5.0}
    so_far = scores_so_far(reports, judge_by, since)
    for at, score in so_far.items():
        known = {when: reported for when, reported in reports.items() if when <= at}
        assert score == score_of_reports(known, judge_by, since)
    assert list(so_far) == sorted(reports)
