"""Work between trials that grows with a study."""

from __future__ import annotations

from search.study.upkeep import SHARE, Paced


class Work:
    """Takes some seconds of its own clock, and counts how often it is done."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.times = seconds, 0.0, 0

    def clock(self) -> float:
        return self.now

    def __call__(self) -> int:
        self.now += self.seconds
        self.times += 1
        return self.times


def test_short_work_is_done_every_time() -> None:
    work = Work(0.01)
    paced = Paced(work, work.clock)
    assert [paced.result(), paced.result(), paced.result(workers=50)] == [1, 2, 3]


def test_all_workers_together_spend_at_most_a_twentieth_of_their_time() -> None:
    for workers in (1, 8, 300):
        work = Work(2.0)
        paced = Paced(work, work.clock)
        for _ in range(5_000):
            paced.result(workers)
            work.now += 20.0  # a trial
        assert work.times > 1
        assert work.times * work.seconds * workers <= 1.1 * work.now / SHARE + 2.0 * workers


def test_what_was_put_off_is_caught_up_once() -> None:
    work = Work(2.0)
    paced = Paced(work, work.clock)
    paced.catch_up()
    assert work.times == 0  # nobody has asked for it
    assert paced.result() == 1
    assert paced.result() == 1 and paced.is_put_off
    paced.catch_up()
    assert work.times == 2 and not paced.is_put_off
    paced.catch_up()
    assert work.times == 2
