"""The progress of a running study: a table on a terminal, plain lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from search.study.progress import LocalProgress, Message, ProgressConsole, RemoteProgress
from viz.console import Console


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> LocalProgress:
    return LocalProgress(Console(stream=io.StringIO()), "demo", 3, clock)


def tell_of_two_trials(progress: LocalProgress, clock: Clock) -> None:
    progress.began(0, 100, {"lr_g": 1e-3})
    for step in range(1, 51):
        clock.now += 1
        progress.step(0, step, 100)
        if step % 10 == 0:
            progress.score(0, step, step / 10)
    progress.began(1, 100, {"lr_g": 2e-3})
    progress.ended(1, "pruned", "rank 2 of 2", -7.0)


def shown(progress: LocalProgress) -> str:
    rich = RichConsole(file=io.StringIO(), width=120, height=30)
    rich.print(progress.table(rich))
    text: str = rich.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_table_has_state_step_score_curve_and_time_left(
    progress: LocalProgress, clock: Clock
) -> None:
    tell_of_two_trials(progress, clock)
    lines = shown(progress).splitlines()
    assert "demo: 1 of 3 trials in 50 s" in lines[0]
    running = next(line for line in lines if "running" in line)
    assert "50/100" in running
    assert "5.00" in running
    assert "___::===++##" in running  # the curve; a stream without an encoding gets no blocks
    assert "50 s" in running  # a second per step, 50 steps are left
    assert "pruned" in shown(progress)
    progress.ended(0, "complete", "score 9.50", 9.5)
    assert "best score 9.50" in shown(progress)


def test_a_long_study_shows_what_fits(progress: LocalProgress) -> None:
    for number in range(60):
        progress.began(number, 10, {})
        progress.ended(number, "complete", "", float(number))
    text = shown(progress)
    assert len(text.splitlines()) <= 30
    assert "and 38 more" in text
    assert "59.00" in text


def test_a_log_gets_a_line_every_ten_seconds_and_at_the_end(
    progress: LocalProgress, clock: Clock
) -> None:
    tell_of_two_trials(progress, clock)
    assert isinstance(progress.console.stream, io.StringIO)
    lines = progress.console.stream.getvalue().splitlines()
    assert lines[0] == "trial 0 of 3: lr_g=0.001"
    assert lines[1] == "trial 0: 1/100 steps"
    assert lines[2] == "trial 0: 11/100 steps, 1 min 29 s left, score 1.00"
    assert lines[-1] == "trial 1: pruned: rank 2 of 2"
    assert len([line for line in lines if "steps" in line]) == 5


def test_a_remote_board_tells_the_local_one_the_same(clock: Clock, progress: LocalProgress) -> None:
    sent: list[Message] = []
    tell_of_two_trials(RemoteProgress(sent.append), clock)  # type: ignore[arg-type]
    assert len(sent) < 15  # steps are thinned out
    for message in sent:
        progress.receive(message)
    assert progress.rows[0].curve == [(n, n / 10) for n in range(10, 51, 10)]
    assert progress.rows[1].state == "pruned"
    assert progress.rows[0].step == 50  # the last one is never held back


def test_what_ended_before_is_in_the_table(progress: LocalProgress) -> None:
    progress.remember(0, "complete", -0.5, [(20, -1.0), (40, -0.5)])
    text = shown(progress)
    assert "1 of 3 trials" in text
    assert "best score -0.50" in text
    assert "40/40" in text


def test_warnings_of_workers_and_failed_trials_outlive_quiet(clock: Clock) -> None:
    stream = io.StringIO()
    progress = LocalProgress(Console(quiet=True, stream=stream), "demo", 3, clock)
    worker = RemoteProgress(progress.receive)
    worker.began(0, 100, {"lr_g": 1e-3})
    ProgressConsole(worker).warn("a.h5: 12 voxels are NaN")
    worker.say("a message")
    worker.ended(0, "failed", "out of memory")
    worker.ended(1, "pruned", "rank 2 of 2")
    assert stream.getvalue().splitlines() == [
        "warning: a.h5: 12 voxels are NaN",
        "trial 0: failed: out of memory",
    ]
