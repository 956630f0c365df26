"""Messages and progress for the user, on standard error.

A terminal shows a progress bar with rate and time left; a log gets plain lines, a few per minute.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

from viz.units import duration

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

FLOORS = ("cyclegan", "viz", "tracking", "search", "workbench")
"""The packages of this project, whose log messages a console shows."""
_LINE_SECONDS = 10.0


class Update(Protocol):
    """Function that tells a progress display how far the work is."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show `done` of the total, and `note` beside it."""


class Console:
    """Write messages to standard error; only warnings and errors if `quiet`."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self._bar: RichConsole | None = None

    def say(self, text: str = "") -> None:
        """Write one line, unless quiet."""
        if not self.quiet:
            self.write(text)

    def write(self, text: str) -> None:
        """Write one line, always; above a progress bar if there is one."""
        if self._bar is not None:
            self._bar.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def warn(self, text: str) -> None:
        """Write one line with a warning, always: a quiet run is as wrong as one that is not."""
        self.write(f"warning: {text}")

    def error(self, text: str) -> None:
        """Write one line with an error, always."""
        self.write(f"error: {text}")

    def rich(self) -> RichConsole:
        """Return a console for a live display; messages appear above it until `rich_is_over`."""
        from rich.console import Console as RichConsole

        self._bar = RichConsole(file=self.stream)
        return self._bar

    def rich_is_over(self) -> None:
        """Say that the live display has ended."""
        self._bar = None

    @contextlib.contextmanager
    def progress(self, label: str, total: int, *, unit: str, start: int = 0) -> Iterator[Update]:
        """Show the progress of `total` units of work, of which `start` were done before."""
        if self.quiet:
            yield lambda done, note="": None
        elif self.stream.isatty():
            try:
                with _bar(label, total, unit, start, self.rich()) as update:
                    yield update
            finally:
                self.rich_is_over()
        else:
            yield _Lines(self, label, total, unit, start)

    def log_to_here(self) -> None:
        """Send this project's log messages to this console."""
        handler = _ToConsole(self)
        level = logging.WARNING if self.quiet else logging.INFO
        for name in FLOORS:
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.setLevel(level)
            logger.propagate = False


class _ToConsole(logging.Handler):
    """Write log messages as lines of a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.write(self.format(record))


class _Pace:
    """Units of work per second so far; units that a rollback discards count as work."""

    def __init__(self, start: int) -> None:
        self.done, self.worked, self.began = start, 0, time.monotonic()

    def __call__(self, done: int) -> float:
        self.worked += done - self.done if done >= self.done else 1
        self.done = done
        return self.worked / max(time.monotonic() - self.began, 1e-9)


class _Lines:
    """Write progress to a log: the first line, then one every ten seconds, and the last."""

    def __init__(self, console: Console, label: str, total: int, unit: str, start: int) -> None:
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.pace, self.shown = _Pace(start), 0.0

    def __call__(self, done: int, note: str = "") -> None:
        rate, now = self.pace(done), time.monotonic()
        if done < self.total and now - self.shown < _LINE_SECONDS:
            return
        self.shown = now
        left = (self.total - done) / rate if rate > 0 else 0.0
        self.console.say(
            f"{self.label}: {done}/{self.total} {self.unit}, {rate:.3g} {self.unit}/s, "
            f"{duration(left)} left" + (f", {note}" if note else "")
        )


@contextlib.contextmanager
def _bar(label: str, total: int, unit: str, start: int, console: RichConsole) -> Iterator[Update]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=False,
    )
    with bar:
        task = bar.add_task(label, total=total, completed=start, rate="", note="")
        pace = _Pace(start)

        def update(done: int, note: str = "") -> None:
            bar.update(task, completed=done, rate=f"{pace(done):.3g} {unit}/s", note=note)

        yield update
