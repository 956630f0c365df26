from __future__ import annotations

import pytest

from cyclegan.errors import BusyError, CycleGANError
from tracking.outbox.delivery import RETRY_SECONDS, retrying


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_store_that_comes_back_is_waited_for() -> None:
    time, said = Time(), list[str]()

    def action() -> str:
        if time.now < 300:
            raise CycleGANError("the store is away")
        return "made"

    result = retrying(action, said.append, clock=lambda: time.now, sleep=time.sleep)
    assert result == "made"
    assert said == ["the store is away; trying again for 10 minutes"]


def test_patience_ends() -> None:
    time = Time()

    def action() -> None:
        raise CycleGANError("the store is away")

    with pytest.raises(CycleGANError, match="away"):
        retrying(action, lambda line: None, clock=lambda: time.now, sleep=time.sleep)
    assert 0.9 * RETRY_SECONDS < time.now <= RETRY_SECONDS


def test_what_is_wrong_by_itself_is_raised_at_once() -> None:
    time = Time()

    def action() -> None:
        raise BusyError("somebody else trains there")

    with pytest.raises(BusyError):
        retrying(action, lambda line: None, clock=lambda: time.now, sleep=time.sleep)
    assert time.now == 0
