"""Rollbacks as points of charts and as JSON: pure functions, no store."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from cyclegan.events import Cause, RollbackEvent
from cyclegan.hparams import HParams
from cyclegan.numbers import strict_json
from tracking.rollbacks import attempt_at, rollback_points


def event(iteration: int, attempt: int, outcome: str = "", concluded: int = 0) -> RollbackEvent:
    hparams = HParams(lr_g=1.0, lr_d=1.0, lambdas={})
    return RollbackEvent(
        from_step=iteration,
        to_step=0,
        iteration=iteration,
        snapshot_iteration=0,
        reason="r",
        cause=Cause(attempt=attempt),
        before=hparams,
        after=hparams,
        outcome=outcome,
        concluded=concluded,
    )


def test_an_attempt_lasts_until_it_is_concluded() -> None:
    events = [event(10, 1, "failed again", 20), event(20, 2, "recovered", 30), event(40, 1)]
    at = {i: attempt_at(events, i) for i in (9, 10, 19, 20, 29, 30, 39, 40, 99)}
    assert at == {9: 0, 10: 1, 19: 1, 20: 2, 29: 2, 30: 0, 39: 0, 40: 1, 99: 1}
    given_up = event(40, 3, "gave up", 40)  # known at once, and nevertheless visible in the chart
    assert [attempt_at([given_up], i) for i in (39, 40, 41)] == [0, 3, 0]


def test_points_do_not_depend_on_when_they_are_written() -> None:
    events = [event(10, 1, "failed again", 20), event(20, 2, "recovered", 30), event(40, 1)]
    whole = rollback_points(events, 0, 50, attempts=True)
    parts: dict[int, dict[str, float]] = {}
    for start, stop in ((0, 10), (10, 19), (19, 20), (20, 39), (39, 50)):
        for i, values in rollback_points(events, start, stop, attempts=True).items():
            parts.setdefault(i, {}).update(values)
    assert all(parts[i] == values for i, values in whole.items())
    assert [i for i, v in whole.items() if "rollbacks" in v] == [10, 20, 40]
    # The chart shows steps: the values before and after each change.
    assert {9, 10, 19, 20, 29, 30, 39, 40} <= whole.keys()


def test_an_infinite_severity_is_null_in_json() -> None:
    plain = replace(event(1, 1), cause=Cause(severity=math.inf)).to_plain()
    assert json.loads(strict_json([plain, math.nan]))[0]["cause"]["severity"] is None
