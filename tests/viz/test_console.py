"""Messages and progress: a bar on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest

from viz.console import FLOORS, Console

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(stream: io.StringIO, **options: bool) -> str:
    console = Console(stream=stream, **options)
    console.log_to_here()
    with console.progress("work", 4, unit="steps") as update:
        for done in range(1, 5):
            update(done, f"score {done}")
            if done == 2:
                logging.getLogger("search.something").warning("fell back [to] step 1")
    return stream.getvalue()


def test_a_log_gets_plain_lines_with_rate_and_time_left() -> None:
    lines = progress(io.StringIO()).splitlines()
    assert lines[0].startswith("work: 1/4 steps, ")
    assert "steps/s" in lines[0]
    assert "left, score 1" in lines[0]
    assert lines[1] == "fell back [to] step 1"
    assert lines[-1].startswith("work: 4/4 steps")
    assert len(lines) == 3  # not one line per step


def test_a_terminal_gets_a_bar_and_messages_above_it() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", progress(Terminal())).replace("\r", "\n")
    assert "4/4" in text
    assert "steps/s" in text
    assert "fell back [to] step 1" in text.split("\n")


def test_quiet_shows_warnings_only() -> None:
    assert progress(io.StringIO(), quiet=True) == "fell back [to] step 1\n"


def test_the_rate_counts_work_that_a_rollback_has_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr("viz.console.time.monotonic", lambda: float(next(seconds)))
    stream = io.StringIO()
    with Console(stream=stream).progress("work", 40, unit="steps", start=10) as update:
        for done in (*range(11, 31), *range(11, 41)):  # at step 30 back to step 10
            update(done)
    *_, last = stream.getvalue().splitlines()
    # 50 steps were computed; the clock ticks twice per step.
    assert last.startswith("work: 40/40 steps, 0.5")


def test_a_warning_outlives_quiet() -> None:
    stream = io.StringIO()
    console = Console(quiet=True, stream=stream)
    console.say("a message")
    console.warn("12 voxels are NaN")
    assert stream.getvalue() == "warning: 12 voxels are NaN\n"


def test_no_warning_is_a_message_that_quiet_silences() -> None:
    silenced = re.compile(r"\bsay\(\s*f?[\"']warning")
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            assert not silenced.search(path.read_text(encoding="utf-8")), path
