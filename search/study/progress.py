"""The progress of a running study: a live table on a terminal, plain lines in a log.

Trials report their progress to a `StudyProgress`. A worker process has a `RemoteProgress`, whose
messages travel to the process that the user started; that process shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from viz.console import Console
from viz.text import can_draw_blocks, sparklines
from viz.units import duration

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.live import Live
    from rich.table import Table

Message = tuple[str, tuple[Any, ...]]
_LINE_SECONDS = 10.0
_MESSAGE_SECONDS = 0.5
_ORDER = {"running": 0, "complete": 1, "paused": 2, "pruned": 3, "interrupted": 4, "failed": 5}


class StudyProgress:
    """Takes the progress of trials; subclasses show it or send it on."""

    def began(self, number: int, steps: int, values: Mapping[str, Any]) -> None:
        """Report that a trial begins or continues; `steps` are those of one of its trainings."""
        self._tell("began", number, steps, dict(values))

    def step(self, number: int, step: int, steps: int, *, seed: int = 0) -> None:
        """Report the current step of a training; `seed` is the number of its repetition."""
        self._tell("step", number, step, steps, seed)

    def score(self, number: int, iteration: int, score: float) -> None:
        """Report the score of a validation."""
        self._tell("score", number, iteration, score)

    def ended(self, number: int, state: str, text: str, score: float | None = None) -> None:
        """Report that a trial is complete, pruned, paused, failed or interrupted; `text`
        says more.
        """
        self._tell("ended", number, state, text, score)

    def say(self, text: str) -> None:
        """Report a message of the study itself."""
        self._tell("say", text)

    def warn(self, text: str) -> None:
        """Report a line that the user gets even if the study is quiet: a warning or an error."""
        self._tell("warn", text)

    def _tell(self, kind: str, *content: Any) -> None:
        raise NotImplementedError


class RemoteProgress(StudyProgress):
    """Passes every report to `send`, but at most two steps a second, and always the last step."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._sent = 0.0
        self._held: Message | None = None

    def _tell(self, kind: str, *content: Any) -> None:
        now = time.monotonic()
        if kind == "step" and now - self._sent < _MESSAGE_SECONDS:
            self._held = (kind, content)
            return
        if kind == "step":
            self._sent = now
        elif self._held:
            self._send(self._held)
        self._held = None
        self._send((kind, content))


class ProgressConsole(Console):
    """A quiet console: what it still writes, such as log warnings, appears above the table."""

    def __init__(self, progress: StudyProgress) -> None:
        super().__init__(quiet=True)
        self._study = progress

    def write(self, text: str) -> None:
        """Write one line in any case."""
        self._study.warn(text)


@dataclass
class _Row:
    """The progress of one trial."""

    steps: int
    began: float
    state: str = "running"
    step: int = 0
    first_step: int = -1
    seed: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(iteration, score) of the trial's first training."""
    score: float | None = None
    text: str = ""
    shown: float = -_LINE_SECONDS

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds left of the current training; None while that is unknown."""
        done = self.step - self.first_step
        if done <= 0 or now - self.began < 1.0:
            return None
        return (self.steps - self.step) * (now - self.began) / done


class LocalProgress(StudyProgress):
    """Shows the reports. Use it as a context manager around the study.

    Args:
        console: where to show them.
        title: the study's name.
        trials: the number of trials that the study is to have.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        trials: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.title, self.trials, self._clock = console, title, trials, clock
        self.rows: dict[int, _Row] = {}
        self._began = clock()
        self._live: Live | None = None

    def remember(
        self, number: int, state: str, score: float | None, curve: Sequence[tuple[int, float]]
    ) -> None:
        """Add a trial that ended before."""
        step = max((iteration for iteration, _ in curve), default=0)
        self.rows[number] = _Row(
            steps=step, began=0.0, state=state, step=step, curve=list(curve), score=score
        )

    def __enter__(self) -> LocalProgress:
        if not self.console.quiet and self.console.stream.isatty():
            from rich.live import Live

            rich = self.console.rich()
            self._live = Live(get_renderable=lambda: self.table(rich), console=rich)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self.console.rich_is_over()

    def receive(self, message: Message) -> None:
        """Take a message of a `RemoteProgress`."""
        kind, content = message
        self._tell(kind, *content)

    def _tell(self, kind: str, *content: Any) -> None:
        getattr(self, f"_on_{kind}")(*content)

    def _on_say(self, text: str) -> None:
        self.console.say(text)

    def _on_warn(self, text: str) -> None:
        self.console.write(text)

    def _on_began(self, number: int, steps: int, values: Mapping[str, Any]) -> None:
        self.rows[number] = _Row(steps=steps, began=self._clock())
        named = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
        self._line(f"trial {number} of {self.trials}: {named}")

    def _on_step(self, number: int, step: int, steps: int, seed: int) -> None:
        row, now = self.rows[number], self._clock()
        if row.first_step < 0 or seed != row.seed:
            row.first_step, row.began, row.seed = step, now, seed
        row.step, row.steps = step, steps
        if self._live is None and (step == steps or now - row.shown >= _LINE_SECONDS):
            row.shown = now
            left = row.seconds_left(now)
            score = "" if row.score is None else f", score {row.score:.2f}"
            rest = "" if left is None or step == steps else f", {duration(left)} left"
            again = f" (seed {seed})" if seed else ""
            self._line(f"trial {number}{again}: {step}/{steps} steps{rest}{score}")

    def _on_score(self, number: int, iteration: int, score: float) -> None:
        row = self.rows[number]
        row.score = score
        if not row.seed:
            row.curve.append((iteration, score))

    def _on_ended(self, number: int, state: str, text: str, score: float | None) -> None:
        row = self.rows.setdefault(number, _Row(steps=0, began=self._clock()))
        row.state, row.text = state, text
        if score is not None:
            row.score = score
        line = f"trial {number}: {text if state in ('complete', 'paused') else f'{state}: {text}'}"
        if state == "failed" and self.console.quiet:
            self.console.write(line)
        else:
            self._line(line)

    def _line(self, text: str) -> None:
        """Write a line to a log; on a terminal the table shows the same."""
        if self._live is None:
            self.console.say(text)

    def table(self, rich: RichConsole) -> Table:
        """Return the current table: running trials, then others, as many as fit the screen."""
        from rich.table import Table

        now = self._clock()
        ended = sum(row.state in ("complete", "pruned", "failed") for row in self.rows.values())
        best = max(
            (r.score for r in self.rows.values() if r.state == "complete" and r.score is not None),
            default=None,
        )
        title = f"{self.title}: {ended} of {self.trials} trials in {duration(now - self._began)}"
        table = Table(title=title + ("" if best is None else f", best score {best:.2f}"))
        for name in ("trial", "state", "step", "score", "scores", "left"):
            table.add_column(name, justify="left" if name in ("state", "scores") else "right")
        ordered = sorted(self.rows.items(), key=lambda item: _rank(*item))
        room = max(rich.size.height - 8, 5)
        blocks = can_draw_blocks(self.console.stream)
        curves = sparklines([row.curve for _, row in ordered[:room]], blocks=blocks)
        for (number, row), curve in zip(ordered[:room], curves, strict=True):
            left = row.seconds_left(now) if row.state == "running" else None
            table.add_row(
                str(number),
                row.state if not row.seed else f"{row.state}, seed {row.seed}",
                f"{row.step}/{row.steps}",
                "" if row.score is None else f"{row.score:.2f}",
                curve,
                "" if left is None else duration(left),
            )
        if len(ordered) > room:
            table.caption = f"and {len(ordered) - room} more"
        return table


def _rank(number: int, row: _Row) -> tuple[int, float, int]:
    return _ORDER[row.state], -(row.score if row.score is not None else float("-inf")), number


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
